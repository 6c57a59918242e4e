"""(a model's files at a destination, a way to read them) → ModelState."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from builder.errors import BuildError
from builder.model_directory import CONFIG
from builder.publish.versions import PROVENANCE, ModelState

FORMAT = "tritonsmith.provenance/1"


def model_state(
    name: str,
    files: Mapping[str, int],
    numbers: Collection[int],
    read: Callable[[str], bytes | None],
    claimed_s: Mapping[int, float],
    tag: str | None = None,
) -> ModelState:
    """What is there of a model. BuildError when a record cannot be read."""
    config = read(CONFIG) if CONFIG in files else None
    records = {n: read(f"{n}/{PROVENANCE}") for n in sorted(numbers) if f"{n}/{PROVENANCE}" in files}
    return ModelState(
        name=name,
        files=files,
        numbers=tuple(sorted(numbers)),
        provenance={n: _record(name, n, data) for n, data in records.items() if data is not None},
        config_text=None if config is None else config.decode("utf-8", errors="replace"),
        tag=tag,
        claimed_s=claimed_s,
    )


def _record(model: str, number: int, data: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(data)
        if record["format"] != FORMAT or not isinstance(record["files"], dict):
            raise ValueError(f"format {record['format']!r}, this tritonsmith reads {FORMAT!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"{model}/{number}/{PROVENANCE} is not a record of a published version: {error}",
            code="provenance_invalid",
            fix="remove that version's directory if nothing serves it",
        ) from None
    assert isinstance(record, dict)
    return record
