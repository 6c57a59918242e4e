"""(a rendered ModelConfig, the variant it is for) → the fields that follow from the variant: which optimization profiles an
instance group runs, and TF32 of ONNX Runtime's CUDA provider."""

from __future__ import annotations

from typing import Any

from tritonsmith.builder.actions.compile import instance_groups_with_profiles
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.build.model.variants import BuiltVariant
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def wire_variant(message: Any, spec: ModelSpec, built: BuiltVariant, repository: RepositorySpec) -> None:
    """Completes the ModelConfig in place. SpecError profile_index, or tf32_contradiction."""
    if spec.variants[built.name].backend == "tensorrt":
        # Every engine of a variant has the same profiles.
        count = built.engines[0].artifact.record["engine"]["profiles"]
        _wire_profiles(message, spec, count, repository)
    elif spec.variants[built.name].row.tf32 is not None:
        _wire_tf32(message, spec, built.name, repository)


def _wire_profiles(message: Any, spec: ModelSpec, count: int, repository: RepositorySpec) -> None:
    from google.protobuf import json_format

    groups = json_format.MessageToDict(message, preserving_proto_field_name=True).get("instance_group", [])
    wired = instance_groups_with_profiles(
        groups, count, spec.name, repository.where(spec.name, "instance_group")
    )
    del message.instance_group[:]
    json_format.ParseDict({"instance_group": wired}, message)


def _wire_tf32(message: Any, spec: ModelSpec, name: str, repository: RepositorySpec) -> None:
    """The CUDA provider multiplies fp32 as TF32 unless use_tf32 is 0 (ONNX Runtime, CUDA provider's options); the backend
    hands on what an accelerator called `cuda` says (onnxruntime_backend, src/onnxruntime.cc).

    At fp32 it is turned off only where an instance may run on a GPU: a config for a CPU stays as it was stated. Where the
    target has GPUs, KIND_AUTO and a config without groups become KIND_GPU (core, src/model_config_utils.cc,
    NormalizeInstanceGroup).
    """
    precision, tf32 = spec.variants[name].precision, bool(spec.variants[name].row.tf32)
    kinds = {group.Kind.Name(group.kind) for group in message.instance_group} or {"KIND_AUTO"}
    on_gpu = "KIND_GPU" in kinds or (bool(repository.target.gpus) and "KIND_AUTO" in kinds)
    if not tf32 and not on_gpu:
        return
    accelerators = message.optimization.execution_accelerators.gpu_execution_accelerator
    cuda = next((a for a in accelerators if a.name == "cuda"), None)
    if cuda is None:
        cuda = accelerators.add(name="cuda")
    stated = cuda.parameters.get("use_tf32") if "use_tf32" in cuda.parameters else None
    if stated is not None and stated != str(int(tf32)):
        raise SpecError(
            f"{spec.name}/{name}: precision {precision}, and use_tf32 is stated as {stated!r}",
            code="tf32_contradiction",
            where=repository.where(spec.name, "optimization"),
            fix=f"leave use_tf32 out: precision {precision} sets it",
        )
    cuda.parameters["use_tf32"] = str(int(tf32))
