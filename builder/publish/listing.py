"""A destination → one row a version, for people and machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.builder.publish.destinations.destination import Destination
from tritonsmith.builder.publish.destinations.versions import ModelState
from tritonsmith.builder.publish.rollback import known_state


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version. state: see ModelState.state_of. provenance: its record, {} when it has none."""

    model: str
    version: int
    state: str
    bytes: int
    provenance: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """JSON form, with the whole record."""
        return {**asdict(self), "provenance": dict(self.provenance) or None}


def list_versions(destination: Destination, model: str | None = None) -> list[VersionRow]:
    """All versions of all models that were published there, or of one, newest first.

    UsageError `unknown_model` when that one was not.
    """
    if model is not None:
        return list(_rows(known_state(destination, model)))
    with ThreadPoolExecutor(16) as pool:
        return [row for state in pool.map(destination.state, destination.models()) for row in _rows(state)]


def _rows(state: ModelState) -> Iterator[VersionRow]:
    for number in sorted(state.numbers, reverse=True):
        prefix = f"{number}/"
        size = sum(bytes for name, bytes in state.files.items() if name.startswith(prefix))
        yield VersionRow(state.name, number, state.state_of(number), size, state.provenance.get(number, {}))


def text_of_versions(rows: list[VersionRow], url: str, width: int | None = None) -> str:
    """A table: model, version, state, when, commit, variant, worst relative L2. width: of the terminal, if there is one."""
    if not rows:
        return f"nothing was published at {url}"
    header = ("MODEL", "VERSION", "STATE", "PUBLISHED", "COMMIT", "VARIANT", "REL. L2")
    return "\n".join(table([header, *(_cells(row) for row in rows)], width, names=(0, 5), drop=(6, 4)))


def _cells(row: VersionRow) -> tuple[str, ...]:
    record = row.provenance
    spec = record.get("spec", {})
    commit = f"{spec['commit'][:10]}{'+' if spec.get('dirty') else ''}" if spec.get("commit") else "-"
    deviation = record.get("accuracy", {}).get("relative_l2")
    return (
        row.model,
        str(row.version),
        row.state,
        str(record.get("published", "-")).replace("+00:00", "Z"),
        commit,
        record.get("variant") or "-",
        "-" if deviation is None else f"{float(deviation):.1e}",
    )
