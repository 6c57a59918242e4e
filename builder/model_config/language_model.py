"""A language model of the spec → the arguments of its engine, the files that hold them, and its ModelConfig."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tritonsmith.builder import llm
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.llm.contract import (
    FLAGS,
    LORA_DIRECTORY,
    TENSORRTLLM_ARGUMENTS_FILE,
    TENSORS,
    VERSION,
    VLLM_ARGUMENTS_FILE,
    VLLM_LORA_FILE,
    flag_text,
)
from tritonsmith.builder.llm.weights import hub_name
from tritonsmith.builder.spec.model_spec import ModelSpec, language_backend, weights_of_variant
from tritonsmith.builder.spec.spec import RepositorySpec

# Run where the model is served, never here.
_LLMAPI_MODEL = Path(str(llm.__file__)).with_name("llmapi_model.py")
# NVIDIA's samples.
_INSTANCES = {"vllm": "KIND_MODEL", "tensorrtllm": "KIND_CPU"}


def engine_arguments(model: ModelSpec, spec: RepositorySpec) -> dict[str, Any]:
    """What the backend hands to its engine: where the weights are, then as the spec states; empty of other models.

    vLLM takes a path as it is, against the server's working directory (vllm_backend, src/model.py: AsyncEngineArgs gets
    model.json unchanged), so local weights are named by where the servers have the repository.
    """
    if model.source.kind != "llm":
        return {}
    named = hub_name(model.source.reference) if _is_elsewhere(model, spec.root) else None
    arguments: dict[str, Any] = (
        {"model": _served_at(model, spec, weights_name(model, spec.root))}
        if named is None
        else {"model": named.name, "revision": named.revision}
    )
    if model.source.options["lora"]:
        arguments["enable_lora"] = True
    if language_backend(model) == "tensorrtllm":
        arguments["backend"] = "pytorch"  # as NVIDIA's sample states it
    return arguments | dict(model.engine)


def is_local(model: ModelSpec, root: Path) -> bool:
    """Whether its weights are laid out, or fetched by the server from a hub."""
    return not _is_elsewhere(model, root)


def _is_elsewhere(model: ModelSpec, root: Path) -> bool:
    return (
        hub_name(model.source.reference) is not None
        and not source_path(model.source.reference, root).exists()
    )


def as_variant(model: ModelSpec, variant: str | None) -> ModelSpec:
    """The model with a variant's weights for its source; itself where it has none of them."""
    file = None if variant is None or variant not in model.variants else weights_of_variant(model, variant)
    if file is None:
        return model
    return model.model_copy(update={"source": model.source.model_copy(update={"llm": file})})


def weights_name(model: ModelSpec, root: Path) -> str:
    """The file or directory in the version directory that the weights become."""
    path = source_path(model.source.reference, root)
    return path.name if path.is_file() else path.resolve().name


def _served_at(model: ModelSpec, spec: RepositorySpec, *names: str) -> str:
    return "/".join((spec.target.repository.rstrip("/"), model.name, VERSION, *names))


def argument_files(model: ModelSpec, spec: RepositorySpec) -> dict[str, str]:
    """Path in the model's directory → text, of the files that a language model has beside its weights; of others none."""
    arguments = engine_arguments(model, spec)
    if not arguments:
        return {}
    if language_backend(model) == "tensorrtllm":
        return _llmapi_files(model, arguments)
    files = {VLLM_ARGUMENTS_FILE: _json(arguments)}
    if lora := model.source.options["lora"]:
        files[VLLM_LORA_FILE] = _json(
            {name: _served_at(model, spec, LORA_DIRECTORY, name) for name in sorted(lora)}
        )
    return {f"{VERSION}/{name}": text for name, text in files.items()}


def _json(value: Mapping[str, Any]) -> str:
    # ASCII alone: the backends open these files in the locale's encoding, and a container's may be C.
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _llmapi_files(model: ModelSpec, arguments: Mapping[str, Any]) -> dict[str, str]:
    import yaml

    policy = {"max_batch_size": 0, "decoupled": _decoupled(model)}
    stated = arguments.get("triton_config") or {}
    text = yaml.safe_dump({**arguments, "triton_config": {**policy, **stated}}, sort_keys=False)
    files = {f"{VERSION}/{TENSORRTLLM_ARGUMENTS_FILE}": text}
    # NVIDIA's own model.py and helpers.py may be among `files:`; else ours runs that of the image.
    if not any(Path(name).name == "model.py" for name in model.source.files):
        files[f"{VERSION}/model.py"] = _LLMAPI_MODEL.read_text(encoding="utf-8")
    return files


def _decoupled(model: ModelSpec) -> bool:
    policy = model.config.as_proto_json().get("model_transaction_policy")
    return True if policy is None else bool(policy.get("decoupled"))


def language_model_config(model: ModelSpec, spec: RepositorySpec | None) -> dict[str, Any]:
    """ModelConfig as JSON: what the backend would complete is stated, so that a server that completes nothing loads it.

    SpecError where a tensor is stated otherwise than the backend has it.
    """
    backend, stated = language_backend(model), model.config.as_proto_json()
    config: dict[str, Any] = {
        **stated,
        "name": model.name,
        # NVIDIA's LLM-API model is a program of the python backend.
        "backend": "python" if backend == "tensorrtllm" else backend,
        "max_batch_size": 0,
        "input": _tensors("input", model, spec),
        "output": _tensors("output", model, spec),
        "model_transaction_policy": {"decoupled": _decoupled(model)},
    }
    config.setdefault("instance_group", [{"count": 1, "kind": _INSTANCES[backend]}])
    if backend == "vllm" and "parameters" in config:
        release = None if spec is None else spec.target.triton
        config["parameters"] = {
            name: {"string_value": flag_text(value.get("string_value", ""), release)}
            if name in FLAGS
            else value
            for name, value in config["parameters"].items()
        }
    return config


def _tensors(
    kind: Literal["input", "output"], model: ModelSpec, spec: RepositorySpec | None
) -> list[dict[str, Any]]:
    """The backend's, and behind them those that the spec adds."""
    tensors = {t.name: t.as_config() for t in TENSORS[language_backend(model)][kind]}
    for index, given in enumerate(model.config.as_proto_json().get(kind, ())):
        own = tensors.get(given.get("name", ""), {})
        if own and given.get("data_type", own["data_type"]) != own["data_type"]:
            raise SpecError(
                f"{model.name}: {kind} {given['name']!r} is stated as {given['data_type']}",
                code="dtype_mismatch",
                where=None if spec is None else spec.where(model.name, kind, index),
                seen=f"the {language_backend(model)} backend has {own['data_type']}",
                fix=f"data_type: {own['data_type']}",
            )
        tensors[given.get("name", "")] = {**own, **given}
    return list(tensors.values())
