"""Samples → different rows of equal shape, and rows → a batch of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tritonsmith.builder.actions.accuracy.samples import values_like

if TYPE_CHECKING:
    import numpy as np

    from tritonsmith.builder.actions.accuracy.samples import Array

Row = Mapping[str, "Array"]
"""Input name → array whose first dimension is 1."""

POOL = 6
"""Rows taken; larger batches repeat them, each time beside others."""

_ENOUGH = 4
_ALIGNMENT_BYTES = 64


def rows_of(samples: Iterable[Mapping[str, Array]]) -> list[Row]:
    """Different rows that can stand in one batch, at most POOL: those of the shape that most samples' rows have.

    A sample whose inputs have not one number of rows gives none. Of equally many, the shape without a dimension of size
    1 is taken, where less can be mixed, then the smaller one.
    """
    groups: dict[tuple[object, ...], dict[object, Row]] = {}
    for sample in samples:
        sizes = {array.shape[0] if array.shape else 0 for array in sample.values()}
        if len(sizes) != 1:
            continue
        shape = tuple((name, array.shape[1:]) for name, array in sample.items())
        for index in range(sizes.pop()):
            row = {name: array[index : index + 1] for name, array in sample.items()}
            groups.setdefault(shape, {}).setdefault(identity(row), row)
    if not groups:
        return []
    best = max(groups.values(), key=lambda group: _worth(list(group.values())))
    return list(best.values())[:POOL]


def _worth(rows: Sequence[Row]) -> tuple[int, bool, int]:
    row = rows[0]
    degenerate = any(array.size == 1 and array.ndim > 2 for array in row.values())
    return min(len(rows), _ENOUGH), not degenerate, -sum(array.nbytes for array in row.values())


def with_drawn(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """The rows, with further ones drawn to resemble them when there are few."""
    known = {identity(row): row for row in rows}
    for _ in range(2 * POOL):
        if len(known) >= _ENOUGH or not rows:
            break
        drawn = drawn_like(rows, rng)
        known.setdefault(identity(drawn), drawn)
    return list(known.values())


_WIDER = 8
"""Whole numbers that are drawn above those of the rows; a model that does not take them says so."""


def drawn_like(rows: Sequence[Row], rng: np.random.Generator, *, wider: bool = False) -> Row:
    """A new row whose values resemble those of the rows; wider: whole numbers may be somewhat larger."""
    draw = _drawn_wider if wider else _drawn
    return {name: draw([row[name] for row in rows], rng) for name in rows[0]}


def _drawn_wider(values: Sequence[Array], rng: np.random.Generator) -> Array:
    import numpy as np

    kind = values[0].dtype
    if kind.kind not in "iu":
        return _drawn(values, rng)
    low, high = min(int(v.min(initial=0)) for v in values), max(int(v.max(initial=0)) for v in values)
    most = min(high + _WIDER, int(np.iinfo(kind).max))
    return rng.integers(low, most, values[0].shape, dtype=kind, endpoint=True)


def _drawn(values: Sequence[Array], rng: np.random.Generator) -> Array:
    import numpy as np

    example = np.concatenate(values)
    if example.dtype == object and len(set(example.reshape(-1).tolist())) == 1:
        # One string alone is no choice; a number is what most operators on text take.
        drawn = np.empty(example.shape[1:], dtype=object)
        drawn.reshape(-1)[:] = [str(n).encode() for n in rng.integers(0, 100, drawn.size)]
        return drawn[None]
    return values_like(example, (1, *example.shape[1:]), rng)


def identity(row: Row) -> object:
    """Equal for rows of equal content."""
    return tuple(
        (name, tuple(a.reshape(-1).tolist()) if a.dtype == object else a.tobytes()) for name, a in row.items()
    )


def batch_of(rows: Sequence[Row], order: Sequence[int]) -> dict[str, Array]:
    """The rows in that order as one request; numbers begin at a multiple of 64 bytes, so that loops run alike each time."""
    import numpy as np

    batch = {}
    for name, first in rows[0].items():
        parts = [rows[index][name] for index in order]
        if first.dtype == object:
            batch[name] = np.concatenate(parts)
        else:
            batch[name] = np.concatenate(parts, out=_aligned((len(order), *first.shape[1:]), first.dtype))
    return batch


def _aligned(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    import numpy as np

    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + size].view(dtype).reshape(shape)
