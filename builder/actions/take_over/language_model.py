"""A language model's source → its weights and adapters in a version directory, as they are; or SpecError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import SpecError, at
from tritonsmith.builder.base.files.copies import copy_file
from tritonsmith.builder.base.files.package_files import portable_name, source_path
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.base.text.quantities import text_of_bytes
from tritonsmith.builder.llm.contract import LORA_DIRECTORY, VERSION
from tritonsmith.builder.llm.weights import (
    Weights,
    hub_name,
    json_of,
    missing,
    read_gguf_values,
    read_weights,
    refuse_links_elsewhere,
)
from tritonsmith.builder.spec.model_directory import read_model_directory
from tritonsmith.builder.spec.model_spec import language_backend, weights_of_variant
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec

_ADAPTER = "adapter_config.json"


def check_weights(model: ModelSpec, spec: RepositorySpec) -> None:
    """SpecError at the spec's line: no weights, or of an architecture that no engine knows."""
    with at(spec.where(model.name, "source", "llm")):
        weights = weights_of(model, spec.root)
        if weights is not None:
            _refuse_unfit(model, weights, spec)
    for name, directory in model.source.options["lora"].items():
        with at(spec.where(model.name, "source", "lora", name)):
            _adapter(name, source_path(directory, spec.root))
    for name in model.variants:
        _check_variant(model, name, spec)
    for name in model.source.files:
        with at(spec.where(model.name, "source", "files")):
            if not source_path(name, spec.root).is_file():
                raise missing(name, source_path(name, spec.root))


# What two files of the same model have in common: `general.file_type` and the tensors' types are what may differ.
_SAME = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "vocab_size")
# Of general.file_type: weights that no quantization has touched (llama.cpp, LlamaFileType).
_PLAIN_TYPES = {0: "F32", 1: "F16", 32: "BF16"}


def _check_variant(model: ModelSpec, name: str, spec: RepositorySpec) -> None:
    """SpecError for weights that are not to be had, or not of the model that they are to stand for."""
    file, where = weights_of_variant(model, name), spec.where(model.name, "variants", name)
    if file is None:
        return
    source = source_path(model.source.reference, spec.root)
    if not source.is_file():
        raise SpecError(
            f"{model.name}/{name}: only a GGUF file has variants, and {model.source.reference} is none",
            code="not_of_language_models",
            where=where,
            fix="a model for each: other weights, or engine: {quantization: …}, which vLLM does as it loads them and no "
            "gate here judges",
        )
    stated = model.variants[name].llm
    with at(where):
        values = read_gguf_values(source)
        if stated is None:
            file_type = values.get("general.file_type")
            if isinstance(file_type, int) and file_type not in _PLAIN_TYPES:
                raise SpecError(
                    f"{model.name}/{name}: {source.name} holds weights that are quantized already, and would be rounded twice",
                    code="already_quantized",
                    valid=tuple(_PLAIN_TYPES.values()),
                    fix="source: {llm: …} with the file that it was made from; this one may be a variant: {llm: FILE}",
                )
            return
        path = source_path(stated, spec.root)
        if not path.is_file():
            raise missing(stated, path)
        read_weights(path)
        _refuse_another(model, name, values, read_gguf_values(path))


def _refuse_another(
    model: ModelSpec, name: str, source: Mapping[str, Any], variant: Mapping[str, Any]
) -> None:
    architecture = source.get("general.architecture")
    keys = [f"{architecture}.{key}" for key in _SAME]
    for key in ("general.architecture", *keys, "tokenizer.ggml.tokens"):
        if source.get(key) != variant.get(key):
            raise SpecError(
                f"{model.name}/{name}: its weights are of another model than the source: {key} differs",
                code="another_model",
                seen=f"{variant.get(key)}, the source has {source.get(key)}",
                fix="a file of the same model, or a model of its own",
            )


def weights_of(model: ModelSpec, root: Path) -> Weights | None:
    """What is there; None for a model that the server fetches from the hub. SpecError without a place."""
    reference = model.source.reference
    path = source_path(reference, root)
    if path.exists():
        return read_weights(path)
    if hub_name(reference) is None:
        raise missing(reference, path)
    return None


# The most tokens of prompt and answer, by backend. What says how positions are stretched makes more of them possible.
_LENGTHS = {"vllm": "max_model_len", "tensorrtllm": "max_seq_len"}
_STRETCHES = ("hf_overrides", "rope_scaling", "model_kwargs")


def _refuse_unfit(model: ModelSpec, weights: Weights, spec: RepositorySpec) -> None:
    if language_backend(model) == "tensorrtllm" and weights.form == "gguf":
        raise SpecError(
            f"{model.name}: TensorRT-LLM reads no GGUF",
            code="gguf_elsewhere",
            seen=model.source.reference,
            valid=("a Hugging Face directory", "ORGANISATION/NAME@COMMIT"),
            fix="the Hugging Face model that it was made from, or backend: vllm",
        )
    key = _LENGTHS[language_backend(model)]
    asked = model.engine.get(key)
    known = weights.positions is not None and not any(name in model.engine for name in _STRETCHES)
    if known and isinstance(asked, int) and weights.positions is not None and asked > weights.positions:
        raise SpecError(
            f"{model.name}: engine.{key} is more than the model has positions for",
            code="context_too_long",
            where=spec.where(model.name, "engine", key),
            seen=asked,
            valid=(f"up to {weights.positions}",),
            fix=f"engine: {{{key}: {weights.positions}}}",
        )


def _adapter(name: str, directory: Path) -> list[Path]:
    """The files of an adapter; SpecError where the directory holds none."""
    config = json_of(directory / _ADAPTER)
    names = (
        sorted(p.name for p in directory.iterdir() if p.is_file() and not p.name.startswith("."))
        if directory.is_dir()
        else []
    )
    if not config or not any(n.startswith("adapter_model.") for n in names):
        raise SpecError(
            f"lora {name!r}: {directory} holds no adapter: {_ADAPTER} and adapter_model.safetensors are needed",
            code="no_adapter",
            seen=names[:8] or "no directory",
        )
    refuse_links_elsewhere(directory, names)
    return [directory / n for n in names]


def place_weights(spec: ModelSpec, root: Path, into: Path) -> Any:
    """The weights in `1/`, adapters in `1/lora/NAME/`, and the source's other files; of a model of the hub an empty `1/`."""
    try:
        weights = weights_of(spec, root)
    except SpecError as error:
        error.message = f"{spec.name}: {error.message}"
        raise
    files = dict(weights.files) if weights is not None else {}
    files |= {Path(name).name: source_path(name, root) for name in spec.source.files}
    for name, directory in spec.source.options["lora"].items():
        found = _adapter(name, source_path(directory, root))
        files |= {f"{LORA_DIRECTORY}/{name}/{file.name}": file for file in found}
    for name, file in files.items():
        copy_file(file, into / VERSION / name)
    if weights is not None:
        _tell(spec, weights)
    return list(files.values()), ([] if files else [VERSION]), _listings(spec, root)


def _listings(spec: ModelSpec, root: Path) -> dict[str, str]:
    """Directories that were read, with the digest of their files' names: another file is another model."""
    named = [spec.source.reference, *spec.source.options["lora"].values()]
    directories = [path for path in (source_path(name, root) for name in named) if path.is_dir()]
    return {
        f"{portable_name(path, root)}/": read_model_directory(path).listing_digest for path in directories
    }


def _tell(spec: ModelSpec, weights: Weights) -> None:
    import psutil

    memory = psutil.virtual_memory().total
    if weights.weight_bytes > memory and not spec.engine.get("cpu_offload_gb"):
        note(
            f"warning: {spec.name}: its weights take {text_of_bytes(weights.weight_bytes)}, and this machine has "
            f"{text_of_bytes(memory)}: it will not be served here"
        )
    if named := spec.engine.get("quantization"):
        note(
            f"{spec.name}: engine.quantization: {named} is vLLM's work as it loads the weights; no gate here judges what it "
            "does to the answers"
        )
    if not weights.chat_template:
        note(
            f"{spec.name}: the weights bring no chat template: it completes text, and clients that chat must put their "
            "messages into the model's own form"
        )
