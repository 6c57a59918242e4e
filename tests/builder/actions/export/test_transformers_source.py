"""A small random BERT → embeddings that leave padding out, as ONNX; a head that the file lacks is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tritonsmith.builder.actions.export.onnx_graph import onnxruntime_runner
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.base.errors import ExportError


@pytest.mark.nightly
def test_padding_changes_no_embedding_and_no_head_is_made_up(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="tritonsmith[transformers] is not installed")
    from tritonsmith.builder.actions.export.sources.transformers import export_pretrained

    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        type_vocab_size=1,
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    options = {"task": None, "pooling": "mean", "normalize": True}
    request = ExportRequest("m", "transformers", str(tmp_path / "bert"), str(tmp_path), options=options)
    (tmp_path / "out").mkdir()
    exported = export_pretrained(request, tmp_path / "out")
    assert [t.name for t in exported.inputs] == ["input_ids", "attention_mask"]
    assert exported.inputs[0].shape == ("batch", "sequence")
    run = onnxruntime_runner(exported.model_path, optimised=True)
    short = run({"input_ids": np.array([[2, 5, 3]]), "attention_mask": np.array([[1, 1, 1]])})["embeddings"]
    padded = run({"input_ids": np.array([[2, 5, 3, 9]]), "attention_mask": np.array([[1, 1, 1, 0]])})
    np.testing.assert_allclose(padded["embeddings"], short, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(short), 1, atol=1e-6)
    with pytest.raises(ExportError, match="lacks weights") as caught:
        request = ExportRequest(
            "m", "transformers", str(tmp_path / "bert"), ".", options={"task": "question-answering"}
        )
        export_pretrained(request, tmp_path / "out")
    assert caught.value.code == "head_missing"
