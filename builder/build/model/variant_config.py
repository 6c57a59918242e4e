"""(a model, the record of its artifact, the variant it is) → the ModelConfig that is meant; of a variant also which
optimization profiles an instance group runs, and TF32 of ONNX Runtime's CUDA provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonsmith.builder.actions.compile import instance_groups_with_profiles
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.tensors import tensor_from_dict
from tritonsmith.builder.build.model.variants import BuiltVariant, cc_model_filenames
from tritonsmith.builder.model_config.ensemble import ensemble_config
from tritonsmith.builder.model_config.model_config import model_config_from_spec
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def config_message(
    spec: ModelSpec,
    record: Mapping[str, Any],
    chosen: BuiltVariant | None,
    steps: Mapping[str, Any],
    repository: RepositorySpec,
) -> Any:
    """The ModelConfig of an artifact. chosen: the variant it is; steps: of an ensemble, its models' ModelConfigs by name.

    SpecError where the spec and the artifact contradict each other.
    """
    if spec.source.row.reference == "steps":
        message = ensemble_config(spec, steps, repository)
    else:
        inputs, outputs = ([tensor_from_dict(t) for t in record[kind]] for kind in ("inputs", "outputs"))
        of_variant = chosen is not None and spec.source.kind != "llm"
        backend = spec.variants[chosen.name].backend if chosen is not None and of_variant else None
        message = model_config_from_spec(spec, inputs, outputs, repository, backend)
    if chosen is not None and spec.source.kind != "llm":
        for capability, plan in cc_model_filenames(chosen).items():
            message.cc_model_filenames[capability] = plan
        wire_variant(message, spec, chosen, repository)
    return message


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
