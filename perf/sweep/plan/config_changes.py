"""Two model configs → where the second differs from the first, field by field in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.perf.sweep.plan.config_path import identity

UNSET = "unset"


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`max_batch_size is 4, was 8`, for each field; nothing for configs that mean the same."""
    old, new = dict(_leaves(_normal(before))), dict(_leaves(_normal(after)))
    return [
        f"{path} is {new.get(path, UNSET)}, was {old.get(path, UNSET)}"
        for path in dict.fromkeys((*old, *new))
        if old.get(path) != new.get(path)
    ]


def _normal(config: Mapping[str, Any]) -> dict[str, Any]:
    from google.protobuf import json_format

    message = model_config_pb2().ModelConfig.FromString(identity(config))
    normal: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return normal


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, path if len(value) == 1 else f"{path}[{index}]")
    else:
        yield path, value
