"""(backend, release, `engine:` of a spec) → what is wrong with each argument, by the release's own list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tritonsmith.builder.base.errors import unknown
from tritonsmith.builder.llm.arguments import ENGINES, Backend, EngineArgument, arguments, engine_version

# The source says these; whoever stated them, too, would have to keep two places alike.
_FROM_SOURCE = {
    "model": "source: {llm: …} says which weights",
    "revision": "source: {llm: NAME@COMMIT} says it",
}
# Beside the engine's own, of model.yaml. Source: TensorRT-LLM, triton_backend/all_models/llmapi/tensorrt_llm/1/model.py.
_OF_THE_PROGRAM = {"tensorrtllm": ("triton_config", "logits_post_processors")}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "list": (list, tuple),
    "json": (dict,),
    "any": (object,),
}


@dataclass(frozen=True, slots=True)
class EngineFault:
    """One argument that an engine would not take. code: unknown_key, wrong_type, wrong_value, from_source."""

    key: str
    message: str
    code: Literal["unknown_key", "wrong_type", "wrong_value", "from_source"]
    seen: str
    valid: tuple[str, ...] = ()
    fix: str | None = None


def engine_faults(
    backend: Backend, release: str | None, engine: Mapping[str, Any], of_hub: bool = False
) -> Iterator[EngineFault]:
    """In the order they are stated. of_hub: the weights are a name on the hub, and its commit comes from there."""
    known = arguments(backend, release)
    own = _OF_THE_PROGRAM.get(backend, ())
    for key, value in engine.items():
        if key in _FROM_SOURCE and (of_hub or key == "model"):
            yield EngineFault(
                key, f"engine.{key}: {_FROM_SOURCE[key]}", "from_source", str(value), fix="leave it out"
            )
        elif key in own:
            continue
        elif key not in known:
            yield _unknown(backend, release, key, (*known, *own))
        elif fault := _fault_of_value(known[key], value):
            yield fault


def _unknown(backend: Backend, release: str | None, key: str, known: tuple[str, ...]) -> EngineFault:
    version = engine_version(backend, release)
    engine = (
        f"{ENGINES[backend]} {version} of Triton {release}"
        if version
        else f"no {ENGINES[backend]} in the tables"
    )
    says = f"{engine} has no argument {key!r}" if version else f"{engine} has an argument {key!r}"
    elsewhere = arguments(backend).get(key)
    told = unknown(key.replace("-", "_").lower(), sorted(known))
    if elsewhere is not None and version:
        says += f"; {ENGINES[backend]} {elsewhere.first} to {elsewhere.last} have it"
    return EngineFault(key, says, "unknown_key", key, tuple(told["valid"]), told["fix"])


def _fault_of_value(argument: EngineArgument, value: Any) -> EngineFault | None:
    name, seen = argument.name, f"{type(value).__name__} {value!r}"
    if value is None and argument.nullable:
        return None
    if argument.choices and isinstance(value, str | int | float) and value not in argument.choices:
        words = [str(choice) for choice in argument.choices]
        told = unknown(value, words)
        message = f"engine.{name}: {value!r} is none of its values"
        return EngineFault(name, message, "wrong_value", repr(value), tuple(told["valid"]), told["fix"])
    if not any(_is(value, kind) for kind in argument.types):
        return EngineFault(name, f"engine.{name} must be {argument.type}", "wrong_type", seen)
    if not argument.is_within(value):
        return EngineFault(
            name, f"engine.{name} must be {argument.bounds}", "wrong_value", repr(value), (argument.bounds,)
        )
    return None


def _is(value: Any, kind: str) -> bool:
    """A truth value is no number, as it would be to Python."""
    if isinstance(value, bool) and kind not in ("bool", "any"):
        return False
    return isinstance(value, _TYPES[kind])
