"""Ensembles: what the steps' configs make of them, and one clear error for every wire that leads nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.model_config.ensemble import check_steps, ensemble_config, wiring_faults
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.builder.spec.spec import RepositorySpec, load_spec

CONFIGS = {
    "tokenizer": 'name: "tokenizer" max_batch_size: 16 input { name: "TEXT" data_type: TYPE_STRING dims: 1 } '
    'output { name: "ids" data_type: TYPE_INT64 dims: -1 } output { name: "mask" data_type: TYPE_INT64 dims: -1 }',
    "encoder": 'name: "encoder" max_batch_size: 8 input { name: "ids" data_type: TYPE_INT64 dims: -1 } '
    'input { name: "mask" data_type: TYPE_INT64 dims: -1 } output { name: "y" data_type: TYPE_FP32 dims: 384 }',
    "floats": 'name: "floats" max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: -1 } '
    'output { name: "y" data_type: TYPE_FP32 dims: 384 }',
    "single": 'name: "single" input { name: "ids" data_type: TYPE_INT64 dims: [ 5 ] } '
    'output { name: "y" data_type: TYPE_FP32 dims: 384 }',
}
STEPS = """\
      steps:
        - {model: encoder, from: {ids: ids, mask: mask}, to: {y: embedding}}
        - {model: tokenizer, from: {TEXT: text}, to: {ids: ids, mask: mask}}
"""


def spec_of(tmp_path: Path, steps: str = STEPS, more: str = "") -> RepositorySpec:
    models = "".join(f"  {name}:\n    source: {{onnx: {name}.onnx}}\n" for name in CONFIGS)
    (tmp_path / "models.yaml").write_text(
        "defaults: {max_batch_size: 64, instance_group: [{count: 2}]}\n"
        f"models:\n{models}  search:\n    source:\n{steps}{more}"
    )
    return load_spec(tmp_path / "models.yaml")


def config_of(spec: RepositorySpec) -> Any:
    ensemble = next(m for m in spec.models if m.name == "search")
    check_steps(ensemble, [m.name for m in spec.models], spec)
    return ensemble_config(ensemble, {n: model_config_from_text(t) for n, t in CONFIGS.items()}, spec)


def test_an_ensemble_is_completed_from_its_steps(tmp_path: Path) -> None:
    config = config_of(spec_of(tmp_path))
    assert (config.platform, config.max_batch_size) == ("ensemble", 8), (
        "the smallest of the steps, not the default"
    )
    assert [(t.name, list(t.dims)) for t in config.input] == [("text", [1])]
    assert [(t.name, list(t.dims)) for t in config.output] == [("embedding", [384])]
    assert [s.model_version for s in config.ensemble_scheduling.step] == [-1, -1]
    assert not config.instance_group, "defaults that an ensemble cannot have are left out"


BAD = [
    ("model: encoder", "model: encodr", "unknown_step_model", "did you mean 'encoder'"),
    ("ids: ids, mask: mask}, to: {y", "ids: ids}, to: {y", "input_not_wired", "mask"),
    ("from: {TEXT", "from: {TEXTS", "unknown_step_tensor", "did you mean 'TEXT'"),
    ("to: {y: embedding}", "to: {z: embedding}", "unknown_step_tensor", "z"),
    ("mask: mask}}", "mask: ids}}", "tensor_written_twice", "ids"),
    ("{model: encoder, from: {ids: ids, mask: mask}", "{model: floats, from: {x: ids}", "step_dtype_mismatch", "TYPE_INT64"),
    ("{model: encoder, from: {ids: ids, mask: mask}", "{model: single, from: {ids: ids}", "step_shape_mismatch", "[-1, -1]"),
    ("model: encoder", "model: search", "ensemble_cycle", "search → search"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "code", "word"), BAD, ids=[b[2] + " " + b[3] for b in BAD])
def test_a_wire_that_leads_nowhere_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, code: str, word: str
) -> None:
    assert old in STEPS
    with pytest.raises(SpecError) as caught:
        config_of(
            spec_of(tmp_path, STEPS.replace(old, new, 1) if "mask}}" not in old else STEPS.replace(old, new))
        )
    assert caught.value.code == code and word in str(caught.value)
    assert caught.value.where is not None and caught.value.where.line is not None


INPUTS = [
    ("", "[{name: text}]", None, ""),
    ("TEXT: texts", "[{name: text}]", "unknown_tensor", "models.yaml:15"),
    ("TEXT: texts", "[{name: text}]", "unknown_tensor", "did you mean 'text'"),
    ("TEXT: texts", "", None, ""),
    ("", "[{name: text}, {name: extra}]", "input_not_read", "models.yaml:16"),
    ("", "[{data_type: TYPE_STRING}]", "nameless_tensor", "an input without a name"),
    ("", "[{name: text}, {name: mask}]", "tensor_written_twice", "tokenizer.mask"),
]


@pytest.mark.parametrize(
    ("step", "stated", "code", "word"), INPUTS, ids=[f"{i[0]} {i[1]} {i[3]}" for i in INPUTS]
)
def test_where_inputs_are_stated_no_wire_makes_another(
    tmp_path: Path, step: str, stated: str, code: str | None, word: str
) -> None:
    steps = STEPS.replace("TEXT: text", step or "TEXT: text")
    spec = spec_of(tmp_path, steps, f"    input: {stated}\n" if stated else "")
    foreseen = wiring_faults(next(m for m in spec.models if m.name == "search"), {}, spec)
    if code is None:
        assert foreseen == []
        assert [t.name for t in config_of(spec).input] == [(step or "TEXT: text").partition(": ")[2]]
        return
    with pytest.raises(SpecError) as caught:
        config_of(spec)
    assert caught.value.code == code and word in f"{caught.value.where}\n{caught.value}\n{caught.value.fix}"
    assert code in [fault.code for fault in foreseen], "a plan says it before anything is built"


def test_an_ensemble_batches_no_more_than_its_steps(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="takes 8"):
        config_of(spec_of(tmp_path, more="    max_batch_size: 16\n"))


def test_a_tensor_nobody_reads_is_an_output_unless_outputs_are_stated(tmp_path: Path) -> None:
    steps = "      steps:\n        - {model: tokenizer, from: {TEXT: text}, to: {ids: ids, mask: mask}}\n"
    assert [t.name for t in config_of(spec_of(tmp_path, steps)).output] == ["ids", "mask"]
    with pytest.raises(SpecError, match="nobody reads"):
        config_of(spec_of(tmp_path, steps, "    output: [{name: ids}]\n"))
