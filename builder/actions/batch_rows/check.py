"""(a way to run the model, different rows, batch sizes) → Differences between a row in a batch and the same row alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tritonsmith.builder.actions.batch_rows.compare import is_same, is_within_bounds, relative_l2
from tritonsmith.builder.actions.batch_rows.request import LARGEST_RUN_ROWS
from tritonsmith.builder.actions.batch_rows.rows import Row, batch_of
from tritonsmith.builder.base.processes.own_state import resident_bytes

if TYPE_CHECKING:
    import numpy as np

    from tritonsmith.builder.actions.accuracy.samples import Array

Run = Callable[[Mapping[str, "Array"]], Mapping[str, "Array"]]
Answers = Mapping[str, "Array"]

Kind = Literal["neighbours", "alone", "rows"]
"""
neighbours: other rows beside it changed a row's answer, at the same place of a batch of the same size.
alone:      a row's answer in a batch is not the one it has alone.
rows:       an output has another number of rows than the request.
"""


class CannotRunError(Exception):
    """The model fails at a batch size; the text is the runtime's."""

    def __init__(self, size: int, reason: Exception) -> None:
        super().__init__(str(reason))
        self.size, self.reason = size, reason


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of one output.

    order:    indices of the rows that made the batch; other: of the batch it was compared with (neighbours alone).
    position: of the row in the batch.
    distance: relative L2 of the row; infinite where the shapes differ.
    told:     `row 2 of 3 of output y`, and what became of it.
    """

    kind: Kind
    output: str
    order: tuple[int, ...]
    position: int
    distance: float
    told: str
    other: tuple[int, ...] = ()


def answers_alone(run: Run, rows: Sequence[Row]) -> list[Answers]:
    """Each row's own answer; CannotRunError for size 1."""
    return [_run(run, batch_of(rows, [index])) for index in range(len(rows))]


def differences(
    run: Run,
    rows: Sequence[Row],
    alone: Sequence[Answers] | None,
    sizes: Sequence[int],
    outputs: Sequence[str],
    rng: np.random.Generator,
    fits: Callable[[int, int], int],
    ran: list[int],
) -> Iterator[Difference]:
    """The worst difference of each output and kind, at each size in turn.

    alone: the rows' own answers; None where neighbours alone are asked about.
    fits: (a size, the largest that was run) → the largest that memory allows; ran: takes the sizes as they were run.
    CannotRunError when the model fails at a size.
    """
    for index, answers in enumerate(alone or ()):
        yield from _lost_rows(answers, outputs, (index,))
    ran.append(1)
    for size in (s for s in sizes if s > 1):
        smaller = fits(size, max(ran))
        if smaller in ran:
            continue
        order = _order(smaller, len(rows), rng)
        answers = _run(run, batch_of(rows, order))
        ran.append(smaller)
        lost = list(_lost_rows(answers, outputs, order))
        yield from lost
        if lost:
            continue
        for kept in _kept(smaller, rng):
            other = tuple(r if p in kept else _another(r, len(rows), rng) for p, r in enumerate(order))
            changed = _run(run, batch_of(rows, other))
            for output in outputs:
                found = [_beside(answers, changed, output, order, other, p) for p in sorted(kept)]
                yield from _worst(found)
        if alone is not None:
            for output in outputs:
                yield from _worst([_as_alone(answers, alone, output, order, p) for p in range(smaller)])
        if smaller < size:
            break


def _run(run: Run, batch: Mapping[str, Array]) -> Answers:
    try:
        return run(batch)
    except Exception as error:
        raise CannotRunError(next(iter(batch.values())).shape[0], error) from error


def _order(size: int, rows: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Random, each row once before any comes again."""
    order: list[int] = []
    while len(order) < size:
        order += [int(index) for index in rng.permutation(rows)]
    return tuple(order[:size])


def _kept(size: int, rng: np.random.Generator) -> list[frozenset[int]]:
    """Which positions keep their rows while all others change: both of two, a half of more."""
    shuffled = [int(index) for index in rng.permutation(size)]
    halves = [frozenset(shuffled[::2]), frozenset(shuffled[1::2])]
    return halves if size == 2 else halves[:1]


def _another(row: int, rows: int, rng: np.random.Generator) -> int:
    return (row + int(rng.integers(1, rows))) % rows


def _lost_rows(answers: Answers, outputs: Sequence[str], order: tuple[int, ...]) -> Iterator[Difference]:
    for output in outputs:
        shape = answers[output].shape
        if shape[:1] != (len(order),):
            what = f"shape {list(shape)}" if shape else "a scalar"
            told = f"output {output} has {what} for a batch of {len(order)}"
            yield Difference("rows", output, order, 0, float("inf"), told)


def _beside(
    answers: Answers,
    changed: Answers,
    output: str,
    order: tuple[int, ...],
    other: tuple[int, ...],
    position: int,
) -> Difference | None:
    if changed[output].shape[:1] != (len(order),):
        told = f"output {output} has shape {list(changed[output].shape)} for a batch of {len(order)}"
        return Difference("rows", output, other, 0, float("inf"), told)
    one, same = answers[output][position, ...], changed[output][position, ...]
    if is_same(one, same):
        return None
    how = _how(same, one)
    told = f"row {position + 1} of {len(order)} of output {output} {how} when only its neighbours change"
    return Difference("neighbours", output, order, position, relative_l2(same, one), told, other)


def _as_alone(
    answers: Answers, alone: Sequence[Answers], output: str, order: tuple[int, ...], position: int
) -> Difference | None:
    row, own = answers[output][position, ...], alone[order[position]][output][0, ...]
    if is_within_bounds(row, own):
        return None
    told = f"row {position + 1} of {len(order)} of output {output} {_how(row, own)} from its answer alone"
    return Difference("alone", output, order, position, relative_l2(row, own), told)


def _how(row: Array, own: Array) -> str:
    if row.shape != own.shape:
        return f"has shape {list(row.shape)} instead of {list(own.shape)}, it differs"
    distance = relative_l2(row, own)
    if row.dtype.kind != "f":
        return f"differs in {distance:.0%} of its elements" if row.size > 1 else f"differs ({row} for {own})"
    return (
        "differs in what is NaN or infinite"
        if distance == float("inf")
        else f"differs by {distance:.2g} of its length"
    )


def _worst(found: Sequence[Difference | None]) -> Iterator[Difference]:
    differing = [difference for difference in found if difference is not None]
    if differing:
        yield max(differing, key=lambda difference: difference.distance)


@dataclass(frozen=True, slots=True)
class MemoryGrowth:
    """How much memory a row takes, seen from the process's resident size as batches grow.

    ONNX Runtime's arena keeps what a run took, so that it is still there to be seen after the run.
    row_bytes: what a row takes at least; resident_bytes: of the process after rows were run alone.
    """

    limit_bytes: int
    row_bytes: int
    resident_bytes: int

    def fits(self, size: int, largest_run: int) -> int:
        """The largest batch up to `size` that stays below the limit, by what the largest batch so far took."""
        if size <= 3:
            return size
        grown = (resident_bytes() - self.resident_bytes) // max(1, largest_run - 1)
        affordable = min(LARGEST_RUN_ROWS, self.limit_bytes // max(1, self.row_bytes, grown))
        return max(largest_run, min(size, affordable))


def memory_growth(limit_bytes: int, row: Row, answers: Answers) -> MemoryGrowth:
    """To be made after rows were run alone."""
    row_bytes = 3 * sum(a.nbytes for a in row.values()) + 2 * sum(a.nbytes for a in answers.values())
    return MemoryGrowth(limit_bytes, row_bytes, resident_bytes())
