"""Optimization profiles and TF32 from models.yaml to config.pbtxt, and every mistake there as one error with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.actions.action import Artifact
from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config
from tritonsmith.builder.build.model.engines import BuiltEngine
from tritonsmith.builder.build.model.variant_config import wire_variant
from tritonsmith.builder.build.model.variants import BuiltVariant
from tritonsmith.builder.model_config.model_config import model_config_from_spec
from tritonsmith.builder.plan.engine_profiles import engine_options, engine_profiles
from tritonsmith.builder.spec.spec import RepositorySpec, load_spec

FP32, INT64 = dtype_from_config("TYPE_FP32"), dtype_from_config("TYPE_INT64")
IDS, MASK = (TensorSpec(name, INT64, ("batch", "sequence")) for name in ("ids", "mask"))
OUT = TensorSpec("embedding", FP32, ("batch", 8))
RECORD = {"inputs": [IDS.as_dict(), MASK.as_dict()], "outputs": [OUT.as_dict()]}
BASE = """\
models:
  m:
    source: {onnx: m.onnx}
    max_batch_size: 16
    input: [{name: ids, dims: [sequence]}, {name: mask, dims: [sequence]}]
    dynamic_dims: {sequence: {min: 1, opt: 32, max: 256}}
    MORE
    variants:
      v: {VARIANT}
"""


def stated(tmp_path: Path, variant: str, more: str = "dynamic_batching: {}") -> RepositorySpec:
    path = tmp_path / "models.yaml"
    path.write_text(BASE.replace("VARIANT", variant).replace("MORE", more))
    return load_spec(path)


def profiles_of(repository: RepositorySpec) -> list[dict[str, Any]]:
    return [p.as_dict() for p in engine_profiles(repository.models[0], "v", RECORD, repository)]


def config_of(repository: RepositorySpec, profiles: int = 1) -> Any:
    """What is laid out of a variant that was built; its engine's record says how many profiles there are."""
    spec = repository.models[0]
    artifact = Artifact("k", Path("/nowhere"), {}, {"engine": {"profiles": profiles}})
    engines = (BuiltEngine(EngineTarget(None, "9.0", "10.16"), artifact, True),)
    message = model_config_from_spec(spec, (IDS, MASK), (OUT,), repository, spec.variants["v"].backend)
    wire_variant(message, spec, BuiltVariant("v", artifact, "made", engines=engines), repository)
    return message


SEVERAL = (
    "backend: tensorrt, optimization_profiles: ["
    "{batch: {opt: 1, max: 1}, dims: {sequence: {max: 64}}}, {batch: {opt: 8, max: 16}}, "
    "{inputs: {ids: {min: [1, 128], opt: [4, 256], max: [8, 256]}, mask: {min: [1, 128], opt: [4, 256], max: [8, 256]}}}]"
)


def test_profiles_are_stated_by_batch_by_dim_and_whole(tmp_path: Path) -> None:
    first, second, third = profiles_of(stated(tmp_path, SEVERAL))
    assert first["ids"] == first["mask"] == {"min": [1, 1], "opt": [1, 64], "max": [1, 64]}
    assert second["ids"] == {"min": [1, 1], "opt": [8, 32], "max": [16, 256]}
    assert third["mask"] == {"min": [1, 128], "opt": [4, 256], "max": [8, 256]}


def test_without_any_there_is_one_over_all_sizes_or_one_a_preferred_batch_size(tmp_path: Path) -> None:
    preferred = "dynamic_batching: {preferred_batch_size: [4, 16]}"
    (only,) = profiles_of(stated(tmp_path, "backend: tensorrt", preferred))
    assert only["ids"] == {"min": [1, 1], "opt": [16, 32], "max": [16, 256]}
    each = "backend: tensorrt, profile_per_preferred_batch_size: true"
    assert [p["ids"]["opt"][0] for p in profiles_of(stated(tmp_path, each, preferred))] == [4, 16]


def test_max_batch_size_left_out_is_what_config_pbtxt_will_have(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(
        BASE.replace("VARIANT", "backend: tensorrt").replace("    max_batch_size: 16\n    ", "    ")
    )
    path.write_text(path.read_text().replace("    MORE\n", ""))
    repository = load_spec(path)
    assert profiles_of(repository)[0]["ids"]["max"] == [4, 256] and config_of(repository).max_batch_size == 4


@pytest.mark.parametrize(
    ("groups", "profiles", "expected"),
    [
        pytest.param("", 1, [], id="one profile needs no group"),
        pytest.param("", 3, [(1, ["0", "1", "2"])], id="with several, a group that runs all"),
        pytest.param(
            "{count: 2, kind: KIND_GPU}", 2, [(2, ["0", "1"])], id="a group without `profile` runs all"
        ),
        pytest.param(
            "{profile: ['0']}, {count: 2, profile: ['1']}", 2, [(0, ["0"]), (2, ["1"])], id="as stated"
        ),
    ],
)
def test_instance_groups_run_the_profiles(
    tmp_path: Path, groups: str, profiles: int, expected: list[Any]
) -> None:
    repository = stated(tmp_path, "backend: tensorrt", f"instance_group: [{groups}]")
    config = config_of(repository, profiles)
    assert config.backend == "tensorrt"
    assert [(group.count, list(group.profile)) for group in config.instance_group] == expected


BAD = [
    ("unknown input", "optimization_profiles: [{inputs: {id: {min: [1, 1], opt: [1, 1], max: [1, 1]}}}]", "",
     "profile_unknown_input", "did you mean 'ids'"),
    ("unknown dim", "optimization_profiles: [{dims: {sequense: {max: 8}}}]", "",
     "profile_unknown_dim", "did you mean 'sequence'"),
    ("beyond the position table", "optimization_profiles: [{dims: {sequence: {max: 512}}}]", "",
     "profile_beyond_range", "1..256"),
    ("max_batch_size not covered", "optimization_profiles: [{batch: {max: 8}}]", "",
     "profile_coverage", "no optimization profile takes batch 9, sequence 1"),
    ("a hole between two", "optimization_profiles: [{batch: {max: 4}}, {batch: {min: 8, max: 16}}]", "",
     "profile_coverage", "takes batch 5"),
    ("whole shapes of another rank", "optimization_profiles: [{inputs: {ids: {min: [1], opt: [1], max: [1]}}}]", "",
     "profile_rank", "has 1 dims, the model's input has 2"),
    ("none preferred", "profile_per_preferred_batch_size: true", "", "profile_batch", "preferred_batch_size"),
    ("a group's profile", "optimization_profiles: [{}, {}]", "instance_group: [{profile: ['2']}]",
     "profile_index", "valid: 0, 1"),
    ("a group that cannot take every request", "optimization_profiles: [{batch: {max: 1}}, {}]",
     "instance_group: [{profile: ['1']}, {profile: ['0']}]",
     "profile_coverage", "instance group 1 runs optimization profile 0, which takes no batch 2, sequence 1"),
    ("min above max", "optimization_profiles: [{batch: {min: 9, max: 8}}]", "", "wrong_value", "min <= opt <= max"),
    ("both ways", "optimization_profiles: [{}], profile_per_preferred_batch_size: true", "",
     "wrong_value", "exclude each other"),
    ("a slip of the pen", "optimization_profiles: [{bacth: {max: 8}}]", "", "unknown_key", "did you mean 'batch'"),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "more", "code", "word"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_profile_is_one_error_with_its_line(
    tmp_path: Path, variant: str, more: str, code: str, word: str
) -> None:
    with pytest.raises(SpecError) as refused:
        profiles_of(stated(tmp_path, f"backend: tensorrt, {variant}", more or "dynamic_batching: {}"))
    assert refused.value.code == code and word in str(refused.value)
    line = 7 if "instance group" in str(refused.value) or code == "profile_index" else 9
    assert str(refused.value).startswith(f"{tmp_path / 'models.yaml'}:{line}: ")


def test_a_dynamic_dim_without_a_range(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    text = BASE.replace("VARIANT", "backend: tensorrt").replace("    MORE\n", "")
    path.write_text(text.replace("    dynamic_dims: {sequence: {min: 1, opt: 32, max: 256}}\n", ""))
    with pytest.raises(SpecError) as refused:
        profiles_of(load_spec(path))
    assert refused.value.code == "range_missing"
    assert "m/v: input 'ids' has a dynamic dim 'sequence'" in str(refused.value)
    assert "dynamic_dims: {sequence:" in str(refused.value.fix)


@pytest.mark.parametrize(
    ("variant", "word"),
    [
        ("engine: {refit: true}", "engine is for backend: tensorrt; this variant's is onnxruntime"),
        ("optimization_profiles: [{}]", "optimization_profiles is for backend: tensorrt"),
        ("precision: nvfp4", "nvfp4 needs backend: tensorrt"),
        ("precision: tf32, exclude: [Conv]", "nothing to exclude"),
        ("backend: tensorrt, precision: int4, options: {block_size: 32}", "block_size 64 or 128, not 32"),
        ("backend: tensorrt, precision: int4, options: {symmetric: false}", "symmetric true, not False"),
    ],
)
def test_what_a_backend_or_a_precision_does_not_have_is_refused(
    tmp_path: Path, variant: str, word: str
) -> None:
    with pytest.raises(SpecError, match=word):
        stated(tmp_path, variant)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("precision: fp32", False),
        ("precision: tf32", True),
        # Of another precision, for what stays fp32: TensorRT's own default.
        ("precision: fp16", True),
        ("precision: int8, engine: {tf32: false}", False),
    ],
)
def test_tf32_in_an_engine_follows_from_the_precision(tmp_path: Path, variant: str, expected: bool) -> None:
    repository = stated(tmp_path, f"backend: tensorrt, {variant}")
    assert engine_options(repository.models[0].variants["v"]).tf32 is expected


def test_a_precision_and_an_option_that_contradict_each_other(tmp_path: Path) -> None:
    repository = stated(tmp_path, "backend: tensorrt, precision: tf32, engine: {tf32: false}")
    with pytest.raises(SpecError, match="contradict each other") as refused:
        engine_options(repository.models[0].variants["v"])
    assert refused.value.fix == "precision: fp32, and no tf32 under engine"


def use_tf32(config: Any) -> str | None:
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    return next((str(a.parameters["use_tf32"]) for a in accelerators if a.name == "cuda"), None)


@pytest.mark.parametrize(
    ("precision", "group", "expected"),
    [
        ("tf32", "", "1"),
        ("tf32", "{kind: KIND_GPU}", "1"),
        # The CUDA provider takes TF32 unless it is told not to.
        ("fp32", "{kind: KIND_GPU}", "0"),
        # A config for a CPU stays as it was stated.
        ("fp32", "{kind: KIND_CPU}", None),
        ("fp16", "{kind: KIND_GPU}", None),
    ],
)
def test_tf32_of_onnxruntime_is_the_cuda_providers_option(
    tmp_path: Path, precision: str, group: str, expected: str | None
) -> None:
    repository = stated(tmp_path, f"precision: {precision}", f"instance_group: [{group}]")
    assert use_tf32(config_of(repository)) == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("", "0"),
        ("instance_group: [{count: 2}]", "0"),
        ("instance_group: [{kind: KIND_CPU}]", None),
        ("instance_group: [{kind: KIND_CPU}, {kind: KIND_AUTO}]", "0"),
    ],
)
def test_a_group_that_may_run_on_the_target_s_gpu_is_told_to_leave_tf32(
    tmp_path: Path, groups: str, expected: str | None
) -> None:
    """Triton makes KIND_AUTO, and a config without groups, KIND_GPU where there is one."""
    text = BASE.replace("VARIANT", "precision: fp32").replace("MORE", groups or "dynamic_batching: {}")
    path = tmp_path / "models.yaml"
    path.write_text(f"target: {{gpus: [l4]}}\n{text}")
    assert use_tf32(config_of(load_spec(path))) == expected


def test_tf32_joins_the_accelerators_that_are_stated(tmp_path: Path) -> None:
    more = (
        "optimization: {execution_accelerators: {gpu_execution_accelerator: "
        "[{name: tensorrt}, {name: cuda, parameters: {prefer_nhwc: '1'STATED}}]}}"
    )
    config = config_of(stated(tmp_path, "precision: tf32", more.replace("STATED", "")))
    first, second = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (first.name, dict(second.parameters)) == ("tensorrt", {"prefer_nhwc": "1", "use_tf32": "1"})
    with pytest.raises(SpecError, match="use_tf32 is stated as '0'"):
        config_of(stated(tmp_path, "precision: tf32", more.replace("STATED", ", use_tf32: '0'")))


@pytest.mark.parametrize("found_by", ["the spec", "the export"])
def test_a_dim_that_follows_from_others_follows_in_the_profile(tmp_path: Path, found_by: str) -> None:
    total = TensorSpec("mask", INT64, ("batch", "total"))
    record: dict[str, Any] = {"inputs": [IDS.as_dict(), total.as_dict()], "outputs": [OUT.as_dict()]}
    dims = "{sequence: {min: 1, opt: 32, max: 256}, total: {max: 999}}"
    if found_by == "the spec":
        dims = "{sequence: {min: 1, opt: 32, max: 256}, total: sequence + 1}"
    else:
        record["relations"] = {"total": "sequence + 1", "batch": "4*any_s1"}
    path = tmp_path / "models.yaml"
    text = BASE.replace("VARIANT", "backend: tensorrt").replace("MORE", "dynamic_batching: {}")
    text = text.replace("mask, dims: [sequence]", "mask, dims: [total]")
    path.write_text(text.replace("{sequence: {min: 1, opt: 32, max: 256}}", dims))
    repository = load_spec(path)
    (only,) = (p.as_dict() for p in engine_profiles(repository.models[0], "v", record, repository))
    assert only["ids"] == {"min": [1, 1], "opt": [16, 32], "max": [16, 256]}
    assert only["mask"] == {"min": [1, 2], "opt": [16, 33], "max": [16, 257]}
