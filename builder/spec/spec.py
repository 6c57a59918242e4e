"""models.yaml → RepositorySpec of ModelSpec, checked and frozen; every error names file:line and the nearest valid key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tritonsmith.builder.base.errors import SpecError, Where, shortened, unknown
from tritonsmith.builder.base.files.untrusted import fault_of_model_name
from tritonsmith.builder.base.sources import source_rows
from tritonsmith.builder.spec.model_spec import (
    NOT_FOR_ENSEMBLES,
    NOT_FOR_LANGUAGE_MODELS,
    OWN_KEYS,
    SCHEDULING,
    TRITON_KEYS,
    ModelSpec,
    Target,
    source_type,
    stated_tensors,
)
from tritonsmith.builder.spec.refusals import (
    refuse_bad_names,
    refuse_on_language_models,
    refuse_range_of_unknown_dim,
    refuse_state_elsewhere,
    refuse_step_cycles,
    refuse_twins,
)
from tritonsmith.builder.spec.triton_schema import TritonMessage, model_config_type
from tritonsmith.builder.spec.variant_spec import UNION_TAGS
from tritonsmith.builder.spec.yaml_source import KeyPath, YamlSource, read_yaml

__all__ = ["ModelSpec", "RepositorySpec", "Target", "load_spec", "stated_tensors"]

_TOP_KEYS = ("target", "defaults", "models")
_NAME_FIX = "use letters, digits, '_', '-' and '.'; the name becomes a directory and part of a URL"


@dataclass(frozen=True, slots=True)
class RepositorySpec:
    """A whole spec.

    root: the spec's directory; relative paths and Python modules are looked up there.
    """

    path: Path
    root: Path
    models: tuple[ModelSpec, ...]
    target: Target
    source: YamlSource

    def where(self, model: str, *keys: str | int) -> Where:
        """The place of a model's key in models.yaml (in `defaults:` when it was inherited)."""
        return self.source.where_stated(("models", model, *keys))


def load_spec(path: Path) -> RepositorySpec:
    """Reads and checks models.yaml; SpecError on the first thing wrong with it."""
    source = read_yaml(path)
    top = _mapping_at(source, source.data, ())
    _refuse_unknown(source, top, (), _TOP_KEYS)
    defaults = _mapping_at(source, top.get("defaults", {}), ("defaults",))
    _refuse_unknown(source, defaults, ("defaults",), (*OWN_KEYS, *TRITON_KEYS))
    models = _mapping_at(source, top.get("models"), ("models",))
    if not models:
        raise SpecError(
            "no models",
            code="no_models",
            where=source.where(("models",)),
            fix="models: {NAME: {source: {onnx: FILE}}}",
        )
    target = _validated(source, Target, top.get("target", {}), ("target",))
    given = frozenset(
        key for model in (defaults, *models.values()) if isinstance(model, Mapping) for key in model
    )
    config_type = model_config_type(given.intersection(TRITON_KEYS))
    specs = tuple(_model(source, name, raw, defaults, config_type, target) for name, raw in models.items())
    refuse_twins(source, specs)
    refuse_step_cycles(source, specs)
    return RepositorySpec(path, path.resolve().parent, specs, target, source)


def _model(
    source: YamlSource,
    name: str,
    raw: Any,
    defaults: Mapping[str, Any],
    config_type: type[TritonMessage],
    target: Target,
) -> ModelSpec:
    at: KeyPath = ("models", name)
    reason = fault_of_model_name(name)
    if reason:
        raise SpecError(
            f"model name {name!r} {reason}", code="model_name", where=source.where(at), fix=_NAME_FIX
        )
    given = _mapping_at(source, raw, at)
    _refuse_unknown(source, given, at, (*OWN_KEYS, *TRITON_KEYS))
    kinds = given["source"] if isinstance(given.get("source"), Mapping) else {}
    unfit = NOT_FOR_ENSEMBLES if "steps" in kinds else NOT_FOR_LANGUAGE_MODELS if "llm" in kinds else set()
    if "llm" not in kinds:
        unfit = unfit | {"engine"}
    other_scheduling = {k for k in SCHEDULING if any(g in given for g in SCHEDULING if g != k)}
    if given.get("state"):
        other_scheduling = {*other_scheduling, "dynamic_batching", "ensemble_scheduling"}
    left_out = other_scheduling | unfit
    merged = _merged({k: v for k, v in defaults.items() if k not in left_out}, given)
    own = {k: v for k, v in merged.items() if k in OWN_KEYS}
    config = _validated(source, config_type, {k: v for k, v in merged.items() if k in TRITON_KEYS}, at)
    if "source" not in own:
        raise SpecError(
            f"model {name!r} has no source",
            code="no_source",
            where=source.where(at),
            valid=[f"source: {{{row.kind}: {row.example}}}" for row in source_rows().values()],
        )
    own["source"] = _validated(source, source_type(), own["source"], (*at, "source"))
    model: ModelSpec = _validated(source, ModelSpec, {**own, "name": name, "config": config}, at)
    refuse_bad_names(source, model, at)
    refuse_range_of_unknown_dim(source, model, at)
    refuse_on_language_models(source, model, target, at)
    refuse_state_elsewhere(source, model, at)
    return model


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; mappings merge key by key, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(below, value) if both and isinstance(below, Mapping) else value
    return result


def _mapping_at(source: YamlSource, value: Any, at: KeyPath) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    name = ".".join(str(k) for k in at) or "the file"
    raise SpecError(
        f"{name} must be a mapping of keys to values",
        code="wrong_type",
        where=source.where(at),
        seen="nothing" if value is None else f"{type(value).__name__} {shortened(repr(value))}",
    )


def _refuse_unknown(source: YamlSource, given: Mapping[str, Any], at: KeyPath, valid: Sequence[str]) -> None:
    for key in given:
        if key not in valid:
            raise _unknown_key(source, (*at, key), valid)


def _unknown_key(source: YamlSource, at: KeyPath, valid: Sequence[str]) -> SpecError:
    key = str(at[-1])
    inside = ".".join(str(k) for k in at[:-1])
    return SpecError(
        f"unknown key {key!r}" + (f" in {inside}" if inside else ""),
        code="unknown_key",
        where=source.where(at),
        **unknown(key, sorted(valid)),
    )


def _validated(source: YamlSource, model: type[Any], data: Any, at: KeyPath) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _spec_error(source, model, error.errors()[0], at) from None


def _spec_error(source: YamlSource, model: type[BaseModel], error: Any, at: KeyPath) -> SpecError:
    location: KeyPath = (*at, *_real_keys(error["loc"], source, at))
    if error["type"] == "extra_forbidden":
        return _unknown_key(source, location, _valid_keys(model, error["loc"][:-1]))
    name = ".".join(str(k) for k in location)
    seen = error.get("input")
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    expected = error.get("ctx", {}).get("expected") if error["type"] == "literal_error" else None
    words = re.findall(r"'([^']*)'", expected) if expected and isinstance(seen, str) else []
    return SpecError(
        f"{name}: {message[:1].lower() + message[1:]}",
        code="wrong_value" if error["type"] in ("value_error", "literal_error") else "wrong_type",
        where=source.where_stated(location),
        seen=None if isinstance(seen, Mapping | BaseModel) else shortened(repr(seen)),
        fix=unknown(seen, words)["fix"],
    )


def _real_keys(loc: Sequence[str | int], source: YamlSource, at: KeyPath) -> Iterator[str | int]:
    """pydantic's location without the names of union members, which are not keys of the file."""
    for position, key in enumerate(loc):
        if position == len(loc) - 1 and key in ("int", "str", "constrained-int", "constrained-str"):
            return
        if key not in UNION_TAGS:
            yield key


def _valid_keys(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[str, ...]:
    """The field names at a location inside `model`."""
    current: Any = model
    for key in loc:
        if isinstance(key, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            continue
        if key in current.model_fields:
            current = _message_in(current.model_fields[key].annotation)
    keys = tuple(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else ()
    return tuple(k for k in keys if k not in ("config",))


def _message_in(annotation: Any) -> Any:
    """The pydantic type inside Optional[…], tuple[…, ...] or dict[str, …]."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _message_in(argument)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None
