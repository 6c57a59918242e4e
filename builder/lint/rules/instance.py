"""Rules about instance groups, their devices and the rate limiter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonsmith.builder.lint.read.files import is_file, size_bytes
from tritonsmith.builder.lint.read.model import Model, model_file
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import groups, is_ensemble

_CORE = "core/src/model_config_utils.cc"
_RATE = "core/src/rate_limiter.cc"


@rule(
    "INST001",
    "error",
    "load",
    then="the server finds no GPU for the group and the model does not load",
    fix="use KIND_AUTO, which becomes KIND_CPU where there is no GPU",
    source=f"{_CORE}:1741,1748",
    bad="instance_group { kind: KIND_GPU }  # --gpus 0",
    good="instance_group { kind: KIND_AUTO }",
    needs="gpus",
)
def gpu_without_gpus(model: Model, context: Context) -> Iterator[Hit]:
    """A group is KIND_GPU, and the target has no GPU."""
    if context.target.gpus != 0:
        return
    for field, group in groups(model):
        if group.kind == group.KIND_GPU:
            yield Hit("KIND_GPU on a target without a GPU", f"{field}.kind", "KIND_GPU")


@rule(
    "INST002",
    "error",
    "load",
    then="the server refuses the group and the model does not load",
    fix="drop gpus, or use KIND_GPU",
    source=f"{_CORE}:1734",
    bad="instance_group { kind: KIND_CPU gpus: [ 0 ] }",
    good="instance_group { kind: KIND_CPU }",
)
def gpus_on_cpu(model: Model, context: Context) -> Iterator[Hit]:
    """A KIND_CPU group lists gpus."""
    for field, group in groups(model):
        if group.kind == group.KIND_CPU and len(group.gpus):
            yield Hit("a KIND_CPU group lists gpus", f"{field}.gpus", list(group.gpus))


@rule(
    "INST003",
    "error",
    "load",
    then="the server refuses the group and the model does not load",
    fix="drop gpus: a KIND_MODEL group leaves devices to the model",
    source=f"{_CORE}:1734",
    bad="instance_group { kind: KIND_MODEL gpus: [ 0 ] }",
    good="instance_group { kind: KIND_MODEL }",
)
def gpus_on_model(model: Model, context: Context) -> Iterator[Hit]:
    """A KIND_MODEL group lists gpus."""
    for field, group in groups(model):
        if group.kind == group.KIND_MODEL and len(group.gpus):
            yield Hit("a KIND_MODEL group lists gpus", f"{field}.gpus", list(group.gpus))


@rule(
    "INST004",
    "error",
    "load",
    then="the group becomes KIND_CPU and is then refused for listing gpus, with a message that misleads",
    fix="list GPUs that the target has, or none",
    source=f"{_CORE}:895",
    bad="instance_group { gpus: [ 1 ] }  # --gpus 1",
    good="instance_group { gpus: [ 0 ] }  # --gpus 1",
    needs="gpus",
)
def auto_with_absent_gpus(model: Model, context: Context) -> Iterator[Hit]:
    """A KIND_AUTO group lists a GPU that the target does not have."""
    for field, group in groups(model):
        for gpu in _absent(group, context) if group.kind == group.KIND_AUTO else ():
            yield Hit(f"the target has no GPU {gpu}", f"{field}.gpus", list(group.gpus))


@rule(
    "INST005",
    "error",
    "load",
    then="the server refuses the group and the model does not load",
    fix="list GPUs that the target has",
    source=f"{_CORE}:1769",
    bad="instance_group { kind: KIND_GPU gpus: [ 3 ] }  # --gpus 2",
    good="instance_group { kind: KIND_GPU gpus: [ 1 ] }  # --gpus 2",
    needs="gpus",
)
def absent_gpu(model: Model, context: Context) -> Iterator[Hit]:
    """A KIND_GPU group lists a GPU that the target does not have."""
    if context.target.gpus == 0:
        return
    for field, group in groups(model):
        for gpu in _absent(group, context) if group.kind == group.KIND_GPU else ():
            yield Hit(f"the target has no GPU {gpu}", f"{field}.gpus", list(group.gpus))


@rule(
    "INST006",
    "warning",
    "silent",
    then="the server takes its default instead: 2 for ONNX on a CPU, otherwise 1",
    fix="write a count of 1 or more, or leave it out",
    source=f"{_CORE}:1039; seen live on 2.51.0",
    bad="instance_group { kind: KIND_CPU count: 0 }",
    good="instance_group { kind: KIND_CPU count: 1 }",
)
def count_below_one(model: Model, context: Context) -> Iterator[Hit]:
    """An instance group's count is written as 0 or less."""
    lines = model.parsed.lines if model.parsed is not None else {}
    for field, group in groups(model):
        if group.count < 1 and f"{field}.count" in lines:
            yield Hit(f"count is {group.count}", f"{field}.count", group.count)


@rule(
    "INST007",
    "error",
    "load",
    then="the server refuses the group and the model does not load",
    fix="drop profile: only TensorRT engines have optimization profiles",
    source=f"{_CORE}:1798",
    bad='instance_group { profile: "0" }',
    good="instance_group { count: 1 }",
)
def profile_elsewhere(model: Model, context: Context) -> Iterator[Hit]:
    """profile is given for a backend other than TensorRT."""
    for field, group in groups(model):
        if len(group.profile) and model.config.platform != "tensorrt_plan" and not is_ensemble(model):
            yield Hit("profile is TensorRT's", f"{field}.profile", list(group.profile))


@rule(
    "INST008",
    "error",
    "load",
    then="the server refuses the group and the model does not load",
    fix="use the index of an optimization profile of the engine, from 0",
    source=f"{_CORE}:1811; tensorrt_backend/src/{{model_state.cc:787,instance_state.cc:2186}}",
    bad='backend: "tensorrt"\ninstance_group { profile: "-1" }',
    good='backend: "tensorrt"\ninstance_group { profile: "0" }',
)
def profile_out_of_range(model: Model, context: Context) -> Iterator[Hit]:
    """profile is no index, or none of the engine's optimization profiles."""
    if model.config.platform != "tensorrt_plan":
        return
    counts = [len(engine.profiles) for engine in model.engines.values() if engine.profiles]
    for field, group in groups(model):
        for index, profile in enumerate(group.profile):
            if not (profile.isascii() and profile.isdigit()):
                yield Hit(f"'{profile}' is no index of a profile", f"{field}.profile[{index}]", profile)
            elif counts and int(profile) >= min(counts):
                yield Hit(f"the engine has {min(counts)} profiles", f"{field}.profile[{index}]", profile)


@rule(
    "INST009",
    "warning",
    "silent",
    then="the server loads the model, and the policy has no effect",
    fix="start the server with --host-policy=NAME,SETTING=VALUE, or drop host_policy",
    source="core/src/backend_model_instance.cc; seen live on 2.51.0",
    bad='instance_group { host_policy: "numa0" }  # server started without --host-policy',
    good='instance_group { host_policy: "numa0" }  # server started with --host-policy=numa0,numa-node=0',
    needs="server",
)
def unknown_host_policy(model: Model, context: Context) -> Iterator[Hit]:
    """host_policy names a policy that the server is not started with."""
    if context.target.server_args is None:
        return
    known = {value.split(",")[0] for value in context.target.flag("host-policy")}
    for field, group in groups(model):
        if group.host_policy and group.host_policy not in known:
            yield Hit(
                f"the server has no host policy '{group.host_policy}'",
                f"{field}.host_policy",
                group.host_policy,
            )


@rule(
    "INST010",
    "warning",
    "silent",
    then="the server loads the model, and no instance takes its requests",
    fix="leave at least one group that is not passive",
    source="model_config.proto, ModelInstanceGroup.passive; seen live on 2.51.0",
    bad="instance_group { passive: true }",
    good="instance_group [ { passive: true }, { count: 1 } ]",
)
def all_passive(model: Model, context: Context) -> Iterator[Hit]:
    """Every instance group is passive."""
    groups = list(model.config.instance_group)
    if groups and all(group.passive for group in groups):
        yield Hit("no instance takes requests", "instance_group[0].passive", True)


@rule(
    "INST011",
    "error",
    "load",
    then="the TensorRT backend refuses the group and the model does not load",
    fix="use KIND_GPU",
    source="tensorrt_backend/src/instance_state.cc:251,264",
    bad='backend: "tensorrt"\ninstance_group { kind: KIND_CPU }',
    good='backend: "tensorrt"\ninstance_group { kind: KIND_GPU }',
)
def tensorrt_off_gpu(model: Model, context: Context) -> Iterator[Hit]:
    """A TensorRT model has a group that is not on a GPU."""
    if model.config.backend != "tensorrt":
        return
    several = any(engine.devices > 1 for engine in model.engines.values())
    for field, group in groups(model):
        if group.kind == group.KIND_CPU or (group.kind == group.KIND_MODEL and not several):
            kind = "KIND_CPU" if group.kind == group.KIND_CPU else "KIND_MODEL"
            yield Hit(f"a TensorRT engine cannot run as {kind}", f"{field}.kind", kind)


@rule(
    "INST012",
    "error",
    "load",
    then="the TensorRT backend refuses the group; other backends pass over the device",
    fix="use KIND_NVDLA, or drop secondary_devices",
    source="core/src/backend_model_instance.cc; model_config.proto, SecondaryDevice; seen live on 2.51.0",
    bad='backend: "tensorrt"\ninstance_group { secondary_devices { kind: 3 device_id: 0 } }',
    good='backend: "tensorrt"\ninstance_group { secondary_devices { kind: KIND_NVDLA device_id: 0 } }',
)
def unknown_secondary_device(model: Model, context: Context) -> Iterator[Hit]:
    """A secondary device is of another kind than KIND_NVDLA."""
    for field, group in groups(model):
        for index, device in enumerate(group.secondary_devices):
            if device.kind != device.KIND_NVDLA:
                yield Hit(
                    f"kind {device.kind} is unknown",
                    f"{field}.secondary_devices[{index}].kind",
                    device.kind,
                    severity=None if model.config.backend == "tensorrt" else "warning",
                )


@rule(
    "INST016",
    "warning",
    "silent",
    then="the instances run out of memory, or slow one another down",
    fix="lower count",
    source=f"{_CORE}:1036, the comment at SetDefaultInstanceCount",
    bad='backend: "pytorch"\ninstance_group { kind: KIND_CPU count: 4 }',
    good='backend: "pytorch"\ninstance_group { kind: KIND_CPU count: 1 }',
)
def too_many_instances(model: Model, context: Context) -> Iterator[Hit]:
    """Instances of a backend that threads by itself share a CPU, or the weights exceed the GPU's memory."""
    memory = context.target.gpu_memory_bytes
    for field, group in groups(model):
        if (
            group.kind == group.KIND_CPU
            and group.count > 1
            and model.config.backend in ("pytorch", "openvino")
        ):
            yield Hit(
                f"{group.count} instances of '{model.config.backend}' on a CPU", f"{field}.count", group.count
            )
        if (
            memory
            and group.kind in (group.KIND_GPU, group.KIND_AUTO)
            and group.count * _weights(model) > memory
        ):
            yield Hit(
                f"{group.count} instances of {_weights(model)} bytes on a GPU of {memory} bytes",
                f"{field}.count",
                group.count,
            )


def _absent(group: Any, context: Context) -> list[int]:
    gpus = context.target.gpus
    return [] if gpus is None else [gpu for gpu in group.gpus if not 0 <= gpu < gpus]


def _weights(model: Model) -> int:
    """Bytes of the newest served model file, a lower bound of what an instance takes."""
    files = [model_file(model.config, version) for version in model.selected]
    return next((size_bytes(file) for file in reversed(files) if is_file(file)), 0)
