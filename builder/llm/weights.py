"""A GGUF file, a Hugging Face directory or a name on the hub → Weights: what it is and which files are served; or SpecError."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import SpecError, did_you_mean, unknown
from tritonsmith.builder.base.files.untrusted import broken_link, read_bounded
from tritonsmith.builder.llm.gguf import GgufProblem, read_gguf

# `general.architecture` of the language models that vLLM's GGUF loader takes. Source: transformers 5.24,
# integrations/ggml.py, GGUF_CONFIG_MAPPING, without encoders and encoder-decoders.
GGUF_ARCHITECTURES = (
    "bloom", "deci", "falcon", "gemma2", "gemma3", "gemma4", "gpt2", "gpt_oss", "lfm2", "llama", "mamba", "minimax_m2",
    "mistral", "nemotron", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "stablelm", "starcoder2",
)  # fmt: skip
# The same written as llama.cpp does (gguf-py, constants.py, MODEL_ARCH_NAMES).
_SPELLINGS = {
    "gpt-oss": "gpt_oss",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "minimax-m2": "minimax_m2",
}
# Ends of the names of architectures that write text token by token.
GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# What a tokenizer lies in; vLLM and TensorRT-LLM take any of these.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "tiktoken.model")
_SERVED = (".json", ".jinja", ".model", ".py", ".tiktoken", ".txt")
_WEIGHTS = (".safetensors", ".bin", ".pt")
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubName:
    """`organisation/name`, and the commit that it is pinned to; None where it is not."""

    name: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class Weights:
    """A language model's files.

    form:          gguf or huggingface.
    architecture:  as the file or config.json says.
    files:         path beside model.json → file.
    weight_bytes:  of the weights alone.
    positions:     the most tokens of prompt and answer; None where nothing says.
    chat_template: whether a chat can be put into the model's own form.
    """

    form: str
    architecture: str
    files: Mapping[str, Path]
    weight_bytes: int
    positions: int | None
    chat_template: bool


def hub_name(reference: str) -> HubName | None:
    """What a reference says of the hub; None for what can only be a path."""
    match = _HUB.fullmatch(reference)
    if match is None or reference.startswith((".", "/")) or match["name"].endswith(".gguf"):
        return None
    return HubName(match["name"], match["revision"])


def is_pinned(name: HubName) -> bool:
    """Whether it names a commit: a branch or a tag may lead elsewhere tomorrow."""
    return name.revision is not None and is_commit(name.revision)


def is_commit(revision: str) -> bool:
    """Whether it is a commit in full, and no word that may mean another tomorrow."""
    return _COMMIT.fullmatch(revision) is not None


def read_weights(path: Path) -> Weights:
    """SpecError (not_gguf, unknown_architecture, split_gguf, no_model, no_tokenizer, no_weights) without a place."""
    try:
        return _directory(path) if path.is_dir() else _file(path)
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error}", code="weights_unreadable") from None


def read_gguf_values(path: Path) -> Mapping[str, Any]:
    """The metadata of a GGUF file (builder.llm.gguf); SpecError not_gguf."""
    try:
        return read_gguf(path).values
    except (GgufProblem, ValueError) as problem:
        raise SpecError(
            f"{path.name} is not a GGUF file: {problem}",
            code="not_gguf",
            seen=path,
            valid=("a whole .gguf file", "a Hugging Face directory", "ORGANISATION/NAME@COMMIT"),
            fix="fetch it again, if a download was broken off"
            if "ends after" in str(problem) or "cut off" in str(problem)
            else None,
        ) from None


def _file(path: Path) -> Weights:
    values = read_gguf_values(path)
    architecture = str(values.get("general.architecture", ""))
    plain = _SPELLINGS.get(architecture, architecture)
    if plain not in GGUF_ARCHITECTURES:
        told = unknown(plain, GGUF_ARCHITECTURES)
        raise SpecError(
            f"{path.name} is of an architecture that is no language model vLLM reads from GGUF",
            code="unknown_architecture",
            seen=architecture or "none",
            valid=GGUF_ARCHITECTURES,
            fix=" ".join(
                filter(None, (told["fix"], "the Hugging Face directory it was made from may be served"))
            ),
        )
    parts = values.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise SpecError(
            f"{path.name} is one of {parts} parts of a model, and vLLM reads one file",
            code="split_gguf",
            fix=f"llama-gguf-split --merge {path.name} WHOLE.gguf",
        )
    positions = values.get(f"{architecture}.context_length")
    template = "tokenizer.chat_template" in values
    return Weights(
        "gguf",
        architecture,
        {path.name: path},
        path.stat().st_size,
        positions if isinstance(positions, int) else None,
        template,
    )


def _directory(path: Path) -> Weights:
    config = json_of(path / "config.json")
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    if not config:
        raise SpecError(
            f"{path.name} holds no Hugging Face model: it has no config.json that can be read",
            code="no_model",
            seen=names[:8],
            fix=_gguf_inside(names),
        )
    architecture = architecture_of(config)
    if not is_language_model(config):
        raise SpecError(
            f"{path.name} is no language model that writes token by token",
            code="unknown_architecture",
            seen=architecture or "no architecture",
            valid=[f"…{ending}" for ending in GENERATES],
            fix="an encoder with a decoder needs a program of its own: source: {python: FILE.py}"
            if config.get("is_encoder_decoder")
            else "source: {transformers: DIRECTORY} serves models with another head",
        )
    if not any(name in names for name in TOKENIZERS):
        raise SpecError(
            f"{path.name} has no tokenizer: nothing turns text into tokens",
            code="no_tokenizer",
            seen=names[:8],
            valid=TOKENIZERS,
            fix="put the tokenizer's files into the directory",
        )
    kind = next((suffix for suffix in _WEIGHTS if any(name.endswith(suffix) for name in names)), None)
    if kind is None:
        raise SpecError(
            f"{path.name} has no weights",
            code="no_weights",
            seen=names[:8],
            valid=[f"*{suffix}" for suffix in _WEIGHTS],
        )
    _refuse_missing_parts(path, names)
    kept = [name for name in names if name.endswith((*_SERVED, kind)) and not name.startswith(".")]
    refuse_links_elsewhere(path, kept)
    weights = [name for name in kept if name.endswith(kind)]
    inner = config.get("text_config")  # of a model of texts and images
    text: dict[str, Any] = inner if isinstance(inner, dict) else {}
    positions = config.get("max_position_embeddings") or text.get("max_position_embeddings")
    if config.get("rope_scaling") or config.get("rope_parameters") or text.get("rope_scaling"):
        positions = None  # stretched, each in a way of its own
    return Weights(
        "huggingface",
        architecture,
        {f"{path.resolve().name}/{name}": path / name for name in kept},
        sum((path / name).stat().st_size for name in weights),
        positions if isinstance(positions, int) else None,
        "chat_template.jinja" in names or bool(json_of(path / "tokenizer_config.json").get("chat_template")),
    )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The first that a config.json names; empty where it names none."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def is_language_model(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a decoder that writes text: encoders with a decoder end as some decoders do."""
    return architecture_of(config).endswith(GENERATES) and not config.get("is_encoder_decoder")


def _gguf_inside(names: list[str]) -> str | None:
    found = next((name for name in names if name.endswith(".gguf")), None)
    return None if found is None else f"name the file: {found}"


def _refuse_missing_parts(path: Path, names: list[str]) -> None:
    """Weights in parts, of which the index names one that is not there: a download that was broken off."""
    for index in (name for name in names if name.endswith(".index.json")):
        parts = json_of(path / index).get("weight_map")
        named = set(map(str, parts.values())) if isinstance(parts, dict) else set()
        missing = sorted(named - set(names))
        if missing:
            raise SpecError(
                f"{path.name} lacks weights that {index} names",
                code="no_weights",
                seen=", ".join(missing[:4]),
                fix="fetch the missing files",
            )


def refuse_links_elsewhere(path: Path, names: list[str]) -> None:
    """SpecError for a link to a file that is neither beside the directory nor the hub's cache: others read what is served."""
    home = path.resolve()
    roots = [home, home.parent, *([home.parent.parent] if home.parent.name == "snapshots" else [])]
    for name in names:
        target = Path(os.path.realpath(path / name))
        if not any(target.is_relative_to(root) for root in roots):
            raise SpecError(
                f"{path.name}/{name} is a link to {str(target)!r}, outside of the model's directory",
                code="source_refused",
                fix="copy what it leads to into the directory",
            )


def missing(reference: str, path: Path) -> SpecError:
    """The error of a reference that is neither there nor a name."""
    beside = sorted(p.name for p in path.parent.iterdir() if p.exists()) if path.parent.is_dir() else []
    return SpecError(
        f"there is no file or directory {reference!r}",
        code="source_missing",
        seen=broken_link(path) or path,
        valid=[name for name in beside if not name.startswith(".")][:10],
        fix=did_you_mean(path.name, beside),
    )


def json_of(path: Path) -> dict[str, Any]:
    """A small JSON file's mapping; empty where it is not there or holds none."""
    try:
        read = json.loads(read_bounded(path, 64 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
