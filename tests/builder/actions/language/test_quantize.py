"""A GGUF file → the same model in another type: every matrix that can be, nothing else, and the values stay the values."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import tests.tiny_gguf
from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.actions.language.quantize import plain_copy, quantize_gguf
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.llm.gguf import read_gguf
from tritonsmith.builder.llm.precisions import GGUF_PRECISIONS


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf")


@pytest.mark.parametrize("precision", GGUF_PRECISIONS)
def test_matrices_are_what_ggufs_own_quantizer_makes_of_them_and_the_rest_is_as_it_was(
    source: Path, tmp_path: Path, precision: str
) -> None:
    coverage = quantize_gguf(source, precision, tmp_path / "made.gguf")
    was, made = gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "made.gguf")
    wanted = gguf.GGMLQuantizationType[precision.upper()]
    assert [t.name for t in was.tensors] == [t.name for t in made.tensors]
    for before, after in zip(was.tensors, made.tensors, strict=True):
        if len(before.shape) < 2 or before.name == "token_embd.weight":
            assert after.tensor_type == before.tensor_type and np.array_equal(after.data, before.data)
            continue
        expected = gguf.quants.quantize(before.data.astype(np.float32), wanted)
        assert after.tensor_type == wanted and np.array_equal(after.data, expected), before.name
    assert (coverage.nodes, coverage.of_nodes, dict(coverage.kept)) == (
        15,
        16,
        {"matrix: embeddings stay": 1},
    )
    # Whole, and what it says of itself beside its type is what the source says.
    ours, theirs = read_gguf(source).values, read_gguf(tmp_path / "made.gguf").values
    named = gguf.LlamaFileType[f"MOSTLY_{wanted.name}"].value
    assert dict(theirs) == {**ours, "general.file_type": named, "general.quantization_version": 2}


def test_rows_that_are_no_whole_number_of_blocks_stay_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tests.tiny_gguf, "_FEED_FORWARD", 80)
    source = tiny_gguf(tmp_path / "m.gguf")
    coverage = quantize_gguf(source, "q4_0", tmp_path / "made.gguf")
    assert coverage.kept["matrix: rows of 80 are no whole number of blocks of 32"] == 2
    made = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "made.gguf").tensors}
    assert made["blk.0.ffn_down.weight"] == "F16" and made["blk.0.ffn_up.weight"] == "Q4_0"


def test_what_is_quantized_is_not_quantized_again(source: Path, tmp_path: Path) -> None:
    quantize_gguf(source, "q4_1", tmp_path / "once.gguf")
    with pytest.raises(BuildError) as caught:
        quantize_gguf(tmp_path / "once.gguf", "q8_0", tmp_path / "twice.gguf")
    assert caught.value.code == "already_quantized" and caught.value.seen == "Q4_1"


@pytest.mark.parametrize("precision", ["bf16", "q5_1", "q4_0"])
def test_a_plain_copy_has_the_values_that_the_blocks_stand_for(
    source: Path, tmp_path: Path, precision: str
) -> None:
    quantize_gguf(source, precision, tmp_path / "made.gguf")
    plain_copy(tmp_path / "made.gguf", tmp_path / "plain.gguf")
    pairs = zip(
        gguf.GGUFReader(tmp_path / "made.gguf").tensors,
        gguf.GGUFReader(tmp_path / "plain.gguf").tensors,
        strict=True,
    )
    for blocks, plain in pairs:
        values = gguf.quants.dequantize(blocks.data, blocks.tensor_type)
        assert plain.tensor_type.name == ("F16" if len(plain.shape) > 1 else "F32")
        assert np.allclose(plain.data.astype(np.float32), values, rtol=2**-11, atol=1e-7)


def test_what_is_f16_already_is_not_copied(source: Path, tmp_path: Path) -> None:
    plain_copy(source, tmp_path / "plain.gguf")
    assert (tmp_path / "plain.gguf").is_symlink()
