"""model.json, model.yaml and their like → values with the line of each; paths in them → what lies there, if that is known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import nearest
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded
from tritonsmith.builder.lint.read.files import exists, is_dir
from tritonsmith.builder.lint.read.model import Model, Version
from tritonsmith.builder.lint.rule import Context, Hit
from tritonsmith.builder.llm.arguments import (
    ENGINES,
    Backend,
    EngineArgument,
    arguments,
    arguments_versions,
    engine_version,
    is_exact,
)

_MAX_BYTES = 1 << 20
_TRUE_FALSE = ("true", "false")
_KINDS: Mapping[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "list": (list,),
    "json": (dict,),
}
# What has a tokenizer has one of these. Source: transformers, tokenization_utils_base.py and the models' own
# vocabulary files; vLLM takes Mistral's tekken.json and tokenizer.model.v3, too.
_TOKENIZERS = ("tokenizer*", "vocab*", "tekken.json", "merges.txt", "*.tiktoken", "spiece.model", "*.gguf")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.engine", "*.index.json")


@dataclass(frozen=True, slots=True)
class EngineFile:
    """One such file. problem: why it is no mapping of names; its values are then empty."""

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    text: str = ""

    def line_of(self, key: str) -> int | None:
        """The line that a key of it stands on; None when it is not found as it is written."""
        found = re.search(rf"""^[^#\n]*?(["']?){re.escape(key)}\1\s*:""", self.text, re.MULTILINE)
        return None if found is None else self.text.count("\n", 0, found.end()) + 1

    def hit(self, message: str, key: str, seen: object = None, fix: str | None = None) -> Hit:
        """A Hit about one key."""
        return Hit(message, seen=seen, file=self.path, line=self.line_of(key), fix=fix)


def read_engine_file(path: Path) -> EngineFile:
    """JSON, or YAML by the suffix. Never raises for what is in it."""
    try:
        status = path.stat()
    except OSError as error:
        return EngineFile(path, problem=str(error))
    return _read(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=1024)  # many rules ask for the same file
def _read(path: Path, *state: int) -> EngineFile:
    try:
        text = read_bounded(path, _MAX_BYTES).decode()
        values = _yaml(text) if path.suffix == ".yaml" else json_value(text)
    except (OSError, ValueError) as error:
        return EngineFile(path, problem=str(error).splitlines()[0])
    if not isinstance(values, dict):
        return EngineFile(path, problem=f"it is a {type(values).__name__}, not an object", text=text)
    return EngineFile(path, {str(key): value for key, value in values.items()}, text=text)


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or "it is nested too deeply") from None


def whole_number(value: object, default: int = 1) -> int:
    """What both backends make of a size by int(): `2`, `"2"`; the default where that fails."""
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return default


def parameter(model: Model, name: str) -> str | None:
    """A parameter of config.pbtxt; None when it is not there."""
    parameters = model.config.parameters
    return str(parameters[name].string_value) if name in parameters else None


def parameter_field(name: str) -> str:
    """Its place among the fields."""
    return f'parameters["{name}"]'


def place_of(model: Model, version: Version, value: str) -> Path | None:
    """Where a path in such a file leads on this machine; None when that is another machine's to say.

    What ends as this version does (`/models/chat/1/weights` in chat/1) is beside the file, wherever the server has
    the repository; another absolute path is known only where it is there.
    """
    parts = Path(value).parts
    here = (model.name, str(version.number))
    for index in range(len(parts) - 2, 0, -1):
        if parts[index : index + 2] == here and Path(value).is_absolute():
            return version.path.joinpath(*parts[index + 2 :])
    path = Path(value)
    return path if path.is_absolute() and exists(path) else None


def is_relative_here(version: Version, value: str) -> bool:
    """Whether a relative path names something beside the file."""
    path = Path(value)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and bool(path.parts) and exists(version.path / path)


def lacks_tokenizer(path: Path) -> bool:
    """Whether a directory of weights has no file of a tokenizer."""
    return is_dir(path) and not any(any(path.glob(pattern)) for pattern in _TOKENIZERS)


def fault_of_weights(path: Path) -> str | None:
    """Why no engine loads from there; None when nothing is seen to be wrong."""
    if not exists(path):
        return "is not there"
    if not is_dir(path) or any(any(path.glob(pattern)) for pattern in _WEIGHTS):
        return None
    return "has no weights (none of " + ", ".join(_WEIGHTS) + ")"


def named(backend: Backend, context: Context) -> str:
    """`vLLM 0.27.1 of Triton 26.08`, or all that the tables have."""
    version = engine_version(backend, context.target.release) if is_exact(backend) else None
    if version is not None:
        return f"{ENGINES[backend]} {version} of Triton {context.target.release}"
    versions = arguments_versions(backend, None)
    return f"{ENGINES[backend]}, {versions[0]} to {versions[-1]}"


def unknown_arguments(
    backend: Backend, file: EngineFile, context: Context, besides: tuple[str, ...] = ()
) -> Iterator[Hit]:
    """A Hit for each key that the target's engine does not have. besides: keys that the backend reads itself."""
    known = arguments(backend, context.target.release)
    for key in file.values:
        if key in known or key in besides:
            continue
        elsewhere = arguments(backend).get(key)
        close = nearest(key.replace("-", "_").lower(), known)
        told = [f"did you mean {close!r}?"] if close else []
        if elsewhere is not None:
            told.insert(0, f"{ENGINES[backend]} {elsewhere.first} to {elsewhere.last} have it.")
        yield file.hit(
            f"{named(backend, context)} has no argument '{key}'", key, key, " ".join(told) or "leave it out"
        )


def wrong_values(backend: Backend, file: EngineFile, context: Context) -> Iterator[Hit]:
    """A Hit for each value of another type, or none of the argument's choices, or beyond its bounds."""
    known = arguments(backend, context.target.release)
    for key, value in file.values.items():
        argument = known.get(key)
        if argument is not None and (fault := _fault_of(argument, value)) is not None:
            severity, message, fix = fault
            hit = file.hit(f"'{key}': {message}", key, repr(value), fix)
            yield (
                hit
                if severity == "error"
                else Hit(
                    hit.message, seen=hit.seen, file=hit.file, line=hit.line, fix=fix, severity="warning"
                )
            )


def _fault_of(argument: EngineArgument, value: Any) -> tuple[str, str, str] | None:
    """(severity, message, fix); None when the engine takes it."""
    if value is None:
        return None if argument.nullable or "any" in argument.types else _of_type(argument, value)
    if {"any", "json"} & set(argument.types):
        return None  # their insides are another table's, and most take other forms, too
    if argument.choices and not isinstance(value, list | dict):
        words = {_plain(choice) for choice in argument.choices}
        if _plain(value) in words:
            return None
        valid = ", ".join(str(choice) for choice in argument.choices)
        close = nearest(str(value), [str(choice) for choice in argument.choices])
        fix = f"did you mean {close!r}?" if close else f"one of {valid}"
        return "error", f"{value!r} is none of {valid}", fix
    if not argument.is_within(value):
        return "error", f"{value!r} is not {argument.bounds}", f"give it a number {argument.bounds}"
    if any(_is(value, kind) for kind in argument.types):
        return None
    if argument.types == ("bool",) and str(value).lower() in _TRUE_FALSE:
        return (
            "warning",
            f"the text {value!r} is no truth value: any text counts as true",
            f"write {str(value).lower()}",
        )
    if not isinstance(value, list | dict) and any(_becomes(value, kind) for kind in argument.types):
        return (
            "warning",
            f"it is to be {argument.type}, not {type(value).__name__}",
            f"write it as {argument.type}",
        )
    return _of_type(argument, value)


def _of_type(argument: EngineArgument, value: object) -> tuple[str, str, str]:
    kind = "null" if value is None else type(value).__name__
    return "error", f"it is to be {argument.type}, not {kind}", f"give it {argument.type}"


def _plain(value: object) -> str:
    return str(value).lower().replace("-", "_")


def _is(value: object, kind: str) -> bool:
    """A truth value is no number, as it would be to Python."""
    return isinstance(value, _KINDS[kind]) and (not isinstance(value, bool) or kind == "bool")


def _becomes(value: object, kind: str) -> bool:
    """Whether pydantic, which the engines' own settings are made with, would take it for that."""
    try:
        return {"int": int, "float": float}[kind](str(value)) is not None
    except (KeyError, ValueError):
        return kind == "int" and isinstance(value, float) and value.is_integer()
