"""Kinds of source as rows of a table: one more from another package, and what each kind refuses before it builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.actions.export.sources.tools import import_tools
from tritonsmith.builder.actions.export.sources.transformers import task_of
from tritonsmith.builder.base.errors import ExportError, SpecError, ToolError, Where
from tritonsmith.builder.base.sources import source_rows
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.builder.model_config.model_config import model_config_from_spec
from tritonsmith.builder.spec.spec import load_spec


def loaded(tmp_path: Path, model: str) -> Any:
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n  m: {model}\n")
    return load_spec(path)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{onnx: a, sklearn: b}", "exactly one of"),
        ("{onnx: a, trust: true}", "trust belongs to a sklearn source"),
        ("{sklearn: a, pooling: mean}", "pooling belongs to a transformers source"),
        ("{transformers: a, pooling: max}", "'mean' or 'cls'"),
        ("{transformer: a}", "did you mean 'transformers'"),
    ],
)
def test_a_source_is_one_kind_with_its_own_options(tmp_path: Path, source: str, told: str) -> None:
    with pytest.raises(SpecError, match=r"models.yaml:2") as caught:
        loaded(tmp_path, f"{{source: {source}}}")
    assert told in str(caught.value)


def test_a_pickle_is_loaded_only_when_somebody_vouches_for_it(tmp_path: Path, tritonsmith: Any) -> None:
    canary = tmp_path / "canary"
    code = f"(lambda: open({str(canary)!r}, 'w'))()"
    (tmp_path / "m.pkl").write_bytes(b"c__builtin__\neval\n(V" + code.encode() + b"\ntR.")
    (tmp_path / "models.yaml").write_text("models: {m: {source: {sklearn: m.pkl}}}\n")
    ran = tritonsmith("build")
    assert ran.returncode == 2 and "untrusted_pickle" in ran.stderr and "trust: true" in ran.stderr
    assert not canary.exists()


def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(ToolError) as caught:
        import_tools(("no_such_library",), "sklearn")
    assert (caught.value.code, caught.value.fix) == ("sklearn_missing", "pip install 'tritonsmith[sklearn]'")


def test_every_export_names_its_extra_and_every_row_is_whole() -> None:
    for row in source_rows().values():
        assert (row.export is None) != (row.place is None), row.kind
        assert bool(row.imports) == bool(row.extra), row.kind


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("DistilBertForTokenClassification", "token-classification"),
        ("RobertaForQuestionAnswering", "question-answering"),
        ("ViTForImageClassification", "image-classification"),
        ("MPNetModel", "feature-extraction"),
        ("LlamaForCausalLM", "generation"),
        ("GPT2LMHeadModel", "generation"),
        ("T5ForConditionalGeneration", "generation"),
        ("BertForMaskedLM", "task"),
    ],
)
def test_the_task_is_that_of_the_architecture_and_none_that_generates(architecture: str, task: str) -> None:
    try:
        found = task_of(architecture, Where(Path("config.json")))
    except ExportError as error:
        found = error.code
    assert found == task


X, H, Y, N = (TensorSpec(n, dtype_from_kserve("FP32"), ("batch", 2)) for n in ("x", "h", "y", "hn"))


@pytest.mark.parametrize(
    ("keys", "inputs", "outputs", "code"),
    [
        ("state: {h: nothing}", (X, H), (Y, N), "unknown_tensor"),
        ("state: {nothing: hn}", (X, H), (Y, N), "unknown_tensor"),
        (
            "state: {h: hn}",
            (X, H),
            (Y, TensorSpec("hn", dtype_from_kserve("FP32"), ("batch", 3))),
            "state_mismatch",
        ),
        (
            "state: {h: hn}",
            (X, H),
            (Y, TensorSpec("hn", dtype_from_kserve("FP64"), ("batch", 2))),
            "state_mismatch",
        ),
        (
            "state: {h: hn}",
            (X, TensorSpec("h", dtype_from_kserve("FP32"), ("batch", "n"))),
            (Y, N),
            "state_dynamic",
        ),
        ("state: {h: hn}", (H,), (Y, N), "state_refused"),
        ("dynamic_batching: {}, state: {h: hn}", (X, H), (Y, N), "state_refused"),
        ("state: {h: hn, x: hn}", (X, H), (Y, N), "state_refused"),
    ],
)
def test_a_state_that_cannot_be_fed_back_is_refused(
    tmp_path: Path, keys: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], code: str
) -> None:
    with pytest.raises(SpecError) as caught:
        spec = loaded(tmp_path, f"{{source: {{onnx: a.onnx}}, max_batch_size: 4, {keys}}}")
        model_config_from_spec(spec.models[0], inputs, outputs, spec)
    assert caught.value.code == code
    assert caught.value.where is not None and caught.value.where.line == 2


def test_a_state_whose_batch_is_not_first_takes_its_size_from_the_stated_input(tmp_path: Path) -> None:
    spec = loaded(
        tmp_path,
        "{source: {onnx: a.onnx}, max_batch_size: 0, state: {h: hn}, input: ["
        "{name: x, data_type: TYPE_FP32, dims: [1, 512]}, {name: h, data_type: TYPE_FP32, dims: [2, 1, 128]}]}",
    )
    fp32 = dtype_from_kserve("FP32")
    inputs = (TensorSpec("x", fp32, ("b", 512)), TensorSpec("h", fp32, (2, "b", 128)))
    outputs = (TensorSpec("y", fp32, ("b", 1)), TensorSpec("hn", fp32, (2, "b", 128)))
    config = model_config_from_spec(spec.models[0], inputs, outputs, spec)
    (state,) = config.sequence_batching.state
    assert list(state.dims) == list(state.initial_state[0].dims) == [2, 1, 128]
    assert [t.name for t in (*config.input, *config.output)] == ["x", "y"]
    assert config.sequence_batching.oldest.max_candidate_sequences == 64
