"""A sweep of a language model: what of it is a setting, what its arms' model.json says, and what a trial sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.perf.data import ModelInterface
from tritonsmith.perf.sweep.language import check_engine, fitted, fresh_requests
from tritonsmith.perf.sweep.plan import (
    SweepSpec,
    default_space,
    plan_arms,
    setting_from_text,
    spec_from_mapping,
)
from tritonsmith.perf.sweep.plan.config_path import identity
from tritonsmith.perf.sweep.run import scratch


def _tensor(name: str, datatype: str) -> TensorSpec:
    return TensorSpec(name, dtype_from_kserve(datatype), (1,))


CHAT = ModelInterface(
    "chat",
    (_tensor("text_input", "BYTES"), _tensor("stream", "BOOL"), _tensor("sampling_parameters", "BYTES")),
    (_tensor("text_output", "BYTES"),),
    0,
    optional=frozenset({"stream", "sampling_parameters"}),
    decoupled=True,
)
PLAIN = ModelInterface("m", (_tensor("x", "FP32"),), (_tensor("y", "FP32"),), 8)
CURRENT = {
    "backend": "vllm",
    "max_batch_size": 0,
    "engine": {"model": "model.gguf", "max_num_seqs": 32, "max_model_len": 2048},
}


def _spec(**more: object) -> SweepSpec:
    return spec_from_mapping({"model": "chat", **more})


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("engine.max_num_seqs=1,8", "engine.max_num_seqs", [1, 8]),
        ("engine.enable_prefix_caching=true,false", "engine.enable_prefix_caching", [True, False]),
        ("engine.gpu_memory_utilization=0.5,0.9", "engine.gpu_memory_utilization", [0.5, 0.9]),
        ("engine.dtype=auto,half", "engine.dtype", ["auto", "half"]),
    ],
)
def test_an_arguments_values_are_read_by_its_type(text: str, path: str, values: list[object]) -> None:
    assert setting_from_text(text) == (path, values)


@pytest.mark.parametrize(
    ("text", "code", "fix"),
    [
        ("engine.max_num_seq=1,8", "unknown_field", "engine.max_num_seqs"),
        ("engine.max_num_seqs=many", "bad_value", "engine.max_num_seqs=1,2"),
        ("engine.model=a,b", "no_setting", "--variant"),
        ("engine.compilation_config={}", "no_setting", "--variant"),
    ],
)
def test_what_is_none_is_told_with_what_is_meant(text: str, code: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        setting_from_text(text)
    assert caught.value.code == code
    assert fix in str(caught.value.fix)


def test_arms_differ_by_their_engine_and_keep_the_rest_of_it() -> None:
    plan = plan_arms(_spec(space={"engine.max_num_seqs": [1, 32]}), CURRENT)
    assert [arm.label for arm in plan.arms] == ["current config", "current config, again", "max_num_seqs 1"]
    assert plan.arms[2].config["engine"] == {"model": "model.gguf", "max_num_seqs": 1, "max_model_len": 2048}
    assert identity(plan.arms[2].config) != identity(plan.arms[0].config)
    assert any("same as the current config" in note for note in plan.notes)


def test_an_arms_model_is_links_to_the_weights_beside_a_model_json_of_its_own(tmp_path: Path) -> None:
    version = tmp_path / "chat" / "1"
    version.mkdir(parents=True)
    (version / "model.gguf").write_bytes(b"weights")
    (version / "model.json").write_text(json.dumps(CURRENT["engine"]))
    assert scratch.with_engine({"backend": "vllm"}, version.parent)["engine"] == CURRENT["engine"]
    assert "engine" not in scratch.with_engine({"backend": "python"}, version.parent)
    (tmp_path / "scratch").mkdir()
    scratch.make_scratch_model(
        version.parent, tmp_path / "scratch", "arm", {"model": "model.gguf", "max_num_seqs": 1}
    )
    made = tmp_path / "scratch" / "arm" / "1"
    assert (made / "model.gguf").is_symlink()
    assert (made / "model.gguf").read_bytes() == b"weights"
    assert json.loads((made / "model.json").read_text())["max_num_seqs"] == 1
    assert json.loads((version / "model.json").read_text()) == CURRENT["engine"]


def test_without_settings_one_sequence_at_a_time_is_held_against_many() -> None:
    assert default_space(CURRENT, 2) == {"engine.max_num_seqs": [1, 8, 32]}


@pytest.mark.parametrize(
    ("current", "has_scratch", "fix"), [({"backend": "python"}, True, None), (CURRENT, False, "--launch")]
)
def test_an_engine_that_cannot_be_changed_is_refused(
    current: dict[str, object], has_scratch: bool, fix: str | None
) -> None:
    spec = _spec(space={"engine.max_num_seqs": [1, 8]})
    with pytest.raises(UsageError) as caught:
        check_engine(spec, current, has_scratch=has_scratch)
    assert caught.value.code == "no_engine"
    assert (caught.value.fix or "").startswith(fix or "")
    check_engine(spec, CURRENT, has_scratch=True)


def test_a_model_that_takes_text_and_streams_is_swept_by_tokens_and_another_is_not() -> None:
    spec, notes = fitted(_spec(), CHAT)
    assert (spec.isl, spec.osl, spec.duration_s, spec.warmup_s) == (64, 64, 5.0, 1.0)
    assert notes
    assert fitted(_spec(duration_s=2.0), CHAT)[0].duration_s == 2.0
    plain = _spec()
    assert fitted(plain, PLAIN) == (plain, [])
    with pytest.raises(UsageError) as caught:
        fitted(_spec(osl=8), PLAIN)
    assert caught.value.code == "no_text_model"
    with pytest.raises(UsageError):
        fitted(_spec(batch_size=2), CHAT)


def test_each_trial_has_other_texts_that_share_what_was_asked_for() -> None:
    spec, _ = fitted(_spec(isl=12, osl=5, shared_prefix=4), CHAT)
    fresh = fresh_requests(spec, CHAT)
    assert fresh is not None
    first, again, second = fresh(1), fresh(1), fresh(2)
    texts = [p.inputs[0].data[4:].decode() for p in first]
    assert texts == [p.inputs[0].data[4:].decode() for p in again]
    assert not set(texts) & {p.inputs[0].data[4:].decode() for p in second}
    assert len(set(texts)) == len(texts)
    assert len({tuple(text.split()[:4]) for text in texts}) == 1
    assert {len(text.split()) for text in texts} == {12}
    sampling = next(t for t in first[0].inputs if t.name == "sampling_parameters")
    said = json.loads(sampling.data[4:])
    assert said == {"max_tokens": 5, "min_tokens": 5, "ignore_eos": True, "temperature": 0.0}
    assert fresh_requests(_spec(), PLAIN) is None
