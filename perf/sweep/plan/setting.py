"""`--set` text → a path into the model config and its values; pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import SpecError, UsageError
from tritonsmith.builder.spec.yaml_source import yaml_from_text


def setting_from_text(text: str) -> tuple[str, list[Any]]:
    """`instance_group.count=1,2` → (path, values); a value is YAML, so lists and null work.

    Commas inside brackets belong to the value: `preferred_batch_size=[4,8],[16]` has two.
    """
    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise UsageError(
            "a setting is PATH=VALUE,VALUE…",
            code="bad_setting",
            seen=text,
            fix="--set instance_group.count=1,2",
        )
    try:
        parsed = [yaml_from_text(part, Path("--set")).data for part in _split_outside_brackets(values)]
    except SpecError as error:
        raise UsageError(
            f"a value of {path} cannot be read: {error.message}", code="bad_setting", seen=values
        ) from error
    return path.strip(), parsed


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]
