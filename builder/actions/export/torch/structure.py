"""What a module takes or returns (dicts, dataclasses, tuples, caches of keys and values) ↔ its leaves, each with a path."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]
"""Keys and field names as str, places in lists and tuples as int."""

Parts = tuple[Sequence[tuple[str | int, Any]], Callable[[list[Any]], Any]]
"""(name and value of each part, a function from other values for them → the same thing around those)"""


def leaves_of(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every tensor, number, string, … inside; None is no leaf."""
    opened = _opened(value)
    if opened is None:
        if value is not None:
            yield path, value
        return
    for name, part in opened[0]:
        yield from leaves_of(part, (*path, name))


def replaced(value: Any, replace: Callable[[Any], Any]) -> Any:
    """The same structure with replace(leaf) for every leaf, in the order of leaves_of; `value` stays as it is."""
    opened = _opened(value)
    if opened is None:
        return None if value is None else replace(value)
    parts, around = opened
    return around([replaced(part, replace) for _, part in parts])


def _opened(value: Any) -> Parts | None:
    """None for a leaf."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()], lambda parts: _mapping(value, parts)
    if isinstance(value, (list, tuple)):
        # namedtuple; torch.return_types, whose fields are to be matched by position
        names = getattr(value, "_fields", None) or getattr(value, "__match_args__", None) or range(len(value))
        made = type(value)._make if hasattr(value, "_make") else type(value)
        return list(zip(names, value, strict=True)), made
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return [(name, getattr(value, name)) for name in fields], lambda parts: _with(value, fields, parts)
    return _cache(value) or _registered(value)


def _mapping(value: Mapping[Any, Any], parts: list[Any]) -> Any:
    if type(value) is dict:
        return dict(zip(value, parts, strict=True))
    made: Any = copy.copy(value)  # a ModelOutput, a BatchEncoding: its own class, and what it knows beside
    for key, part in zip(value, parts, strict=True):
        made[key] = part
    return made


def _with(value: Any, names: Sequence[str], parts: Sequence[Any]) -> Any:
    made = copy.copy(value)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(made, name, part)  # frozen ones, too
    return made


def _cache(value: Any) -> Parts | None:
    """transformers' DynamicCache and its like: layers that hold keys and values, or, before 4.54, a list of each."""
    layers = getattr(value, "layers", None)
    if isinstance(layers, list) and layers and all(_is_layer(layer) for layer in layers):
        pairs = [(index, {"key": layer.keys, "value": layer.values}) for index, layer in enumerate(layers)]

        def around(parts: list[Any]) -> Any:
            made = [
                _with(layer, ("keys", "values"), (pair["key"], pair["value"]))
                for layer, pair in zip(layers, parts, strict=True)
            ]
            return _with(value, ("layers",), (made,))

        return pairs, around
    keys, values = getattr(value, "key_cache", None), getattr(value, "value_cache", None)
    if isinstance(keys, list) and isinstance(values, list):
        pairs = [
            (index, {"key": key, "value": kept})
            for index, (key, kept) in enumerate(zip(keys, values, strict=True))
        ]
        return pairs, lambda parts: _with(
            value, ("key_cache", "value_cache"), ([p["key"] for p in parts], [p["value"] for p in parts])
        )
    both = ("self_attention_cache", "cross_attention_cache")
    if all(hasattr(value, name) for name in both):
        return [(name, getattr(value, name)) for name in both], lambda parts: _with(value, both, parts)
    return None


def _is_layer(layer: Any) -> bool:
    return all(hasattr(layer, name) and not callable(getattr(layer, name)) for name in ("keys", "values"))


def _registered(value: Any) -> Parts | None:
    """Classes that somebody told torch how to take apart: torch.export.register_dataclass, register_pytree_node."""
    from torch.utils import _pytree

    node = _pytree.SUPPORTED_NODES.get(type(value))
    if node is None:
        return None
    parts, context = node.flatten_fn(value)
    names: Sequence[str | int] = range(len(parts))
    if node.flatten_with_keys_fn is not None:
        keyed, _ = node.flatten_with_keys_fn(value)
        names = [_key(key, index) for index, (key, _) in enumerate(keyed)]
    return list(zip(names, parts, strict=True)), lambda given: node.unflatten_fn(given, context)


def _key(key: Any, index: int) -> str | int:
    """Of torch's GetAttrKey, MappingKey or SequenceKey."""
    if hasattr(key, "idx"):
        return index
    return str(getattr(key, "name", getattr(key, "key", index)))
