"""(ONNX file, different rows, batch sizes) → RowsReport: what differs, and whether rounding, chance or an operator does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.accuracy import PRECISION_BOUNDS, compare
from builder.batch_rows.check import (
    Answers,
    CannotRunError,
    Difference,
    Run,
    answers_alone,
    differences,
    memory_growth,
)
from builder.batch_rows.compare import changed, is_rounding, is_same, is_within_bounds
from builder.batch_rows.dynamic_scales import OP, hold_scales
from builder.batch_rows.first_op import (
    Graph,
    Node,
    first_departure,
    first_out_of_place,
    first_that_loses_rows,
    first_that_mixes,
)
from builder.batch_rows.report import RowsReport
from builder.batch_rows.rows import Row, batch_of

if TYPE_CHECKING:
    import numpy as np

    from builder.samples import Array


@dataclass(frozen=True, slots=True)
class Model:
    """An ONNX file as a check of rows needs it.

    run:     one ONNX Runtime session, optimised as Triton's would be; load: makes one of another file, as written.
    copied:  gives a copy of the file, with its external data, where more may be written beside it.
    outputs: those that are served; empty means all.
    """

    run: Run
    load: Callable[[Path], Run]
    copied: Callable[[], Path]
    outputs: tuple[str, ...] = ()
    is_optimised: bool = True


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why a row differs. accepted: it is no mixing; note: what is to be said of it."""

    accepted: bool
    note: str = ""
    op: str = ""


def judge_rows(
    model: Model, rows: Sequence[Row], sizes: Sequence[int], rng: np.random.Generator, largest_run_bytes: int
) -> RowsReport:
    """Runs the rows alone and in batches. The rows are known to run at some size, two at least, and differ."""
    ran: list[int] = []
    try:
        return _judged(model, rows, sizes, rng, largest_run_bytes, ran)
    except CannotRunError as error:
        return RowsReport(
            "cannot_run",
            tuple(ran),
            f"ONNX Runtime fails at batch size {error.size}: {_words(error.reason)}",
            f"batch of {error.size}",
        )


def _judged(
    model: Model,
    rows: Sequence[Row],
    sizes: Sequence[int],
    rng: np.random.Generator,
    largest_run_bytes: int,
    ran: list[int],
) -> RowsReport:
    alone = answers_alone(model.run, rows)
    model = replace(model, outputs=model.outputs or tuple(alone[0]))
    memory = memory_growth(largest_run_bytes, rows[0], alone[0])
    accepted: dict[tuple[str, str], _Cause] = {}
    for difference in differences(model.run, rows, alone, sizes, model.outputs, rng, memory.fits, ran):
        if (difference.kind, difference.output) in accepted:
            continue
        if _differs_by_chance(model, rows, difference):
            return _of_chance(model, rows, sizes, rng, largest_run_bytes, difference, tuple(ran))
        cause = _cause(model, rows, difference)
        if not cause.accepted:
            named = f"; the first operator that mixes rows is {cause.op}" if cause.op else ""
            return RowsReport("mixed", tuple(ran), f"{difference.told}{named}", difference.told, cause.op)
        accepted[difference.kind, difference.output] = cause
    notes = list({cause.op: cause.note for cause in accepted.values() if cause.note}.values())
    if max(ran) < max(sizes):
        limit = largest_run_bytes / 2**30
        notes.append(
            f"run up to batch {max(ran)}, not {max(sizes)}, which would take more than {limit:.2g} GiB"
        )
    if all(_is_constant(alone, output) for output in model.outputs):
        why = "all rows have the same answer, so that none could be told from another; state accuracy.samples"
        return RowsReport("unverified", tuple(ran), why)
    return RowsReport("independent", tuple(ran), "; ".join(notes))


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _is_constant(alone: Sequence[Answers], output: str) -> bool:
    first = alone[0][output]
    return all(
        a[output].shape == first.shape and not bool(changed(a[output], first).any()) for a in alone[1:]
    )


def _differs_by_chance(model: Model, rows: Sequence[Row], difference: Difference) -> bool:
    """Whether one batch, run again, gives another answer."""
    batch = batch_of(rows, difference.order)
    first, *again = ([model.run(batch)[name] for name in model.outputs] for _ in range(3))
    return any(not is_same(a, b) for other in again for a, b in zip(first, other, strict=True))


def _of_chance(
    model: Model,
    rows: Sequence[Row],
    sizes: Sequence[int],
    rng: np.random.Generator,
    largest_run_bytes: int,
    difference: Difference,
    ran: tuple[int, ...],
) -> RowsReport:
    """Names the operator that draws; where only ONNX Runtime's optimised graph does, the graph as written is judged."""
    batch = batch_of(rows, difference.order)
    told = "two runs of one batch give different answers, so that rows cannot be compared"
    for node, outputs in Graph(model.copied()).values([batch, batch]):
        if any(not is_same(one, two) for one, two in outputs.values()):
            return RowsReport("random", ran, f"{told}; {node.name} is the first that does", "", node.name)
    if not model.is_optimised:
        return RowsReport("random", ran, told)
    as_written = replace(model, run=model.load(model.copied()), is_optimised=False)
    report = judge_rows(as_written, rows, sizes, rng, largest_run_bytes)
    return report if report.refused else RowsReport("random", ran, told)


def _cause(model: Model, rows: Sequence[Row], difference: Difference) -> _Cause:
    if difference.kind == "rows":
        node = first_that_loses_rows(
            Graph(model.copied()), batch_of(rows, difference.order), difference.output
        )
        return _Cause(False, op="" if node is None else node.name)
    if difference.kind == "alone":
        return _of_another_size(model, rows, difference)
    return _of_neighbours(model, rows, difference)


def _of_neighbours(model: Model, rows: Sequence[Row], difference: Difference) -> _Cause:
    batch, others = batch_of(rows, difference.order), batch_of(rows, difference.other)
    answer, beside_others = (model.run(b)[difference.output][difference.position] for b in (batch, others))
    if answer.shape == beside_others.shape and is_rounding(beside_others, answer):
        return _Cause(True)
    graph, position = Graph(model.copied()), difference.position
    exchanged = batch_of(rows, _exchanged(difference.order, position, len(rows)))
    node = first_that_mixes(graph, batch, exchanged, others) or first_out_of_place(
        graph, batch, exchanged, position
    )
    if node is None:
        return _Cause(False)
    if node.op_type == OP:
        held = _with_scales_held(model, batch)
        run = model.load(held)
        one, two = (run(b)[difference.output][position] for b in (batch, others))
        if not is_same(one, two):
            node = first_that_mixes(Graph(held), batch, exchanged, others) or node
        elif _is_int8_rounding(beside_others, answer):
            return _of_shared_scale(node, difference)
    return _Cause(False, op=node.name)


def _is_int8_rounding(candidate: Array, reference: Array) -> bool:
    is_float = candidate.dtype.kind == "f" and candidate.shape == reference.shape
    return is_float and compare({"": candidate}, {"": reference}, bounds=PRECISION_BOUNDS["int8"])[0].passed


def _with_scales_held(model: Model, batch: Mapping[str, Array]) -> Path:
    """The model as written with its dynamic scales as they are in the batch: nothing else may mix, then."""
    path = model.copied()
    target = path.with_name("held.onnx")
    hold_scales(path, batch, target)
    return target


def _of_shared_scale(node: Node, difference: Difference) -> _Cause:
    note = (
        f"{node.name} takes one scale from all rows of a batch: answers move by up to {difference.distance:.1g} "
        "with their neighbours, which lies within int8's bounds"
    )
    return _Cause(True, note, node.name)


def _of_another_size(model: Model, rows: Sequence[Row], difference: Difference) -> _Cause:
    position, order = difference.position, difference.order
    other = _exchanged(order, position, len(rows))
    batch, alone = batch_of(rows, order), batch_of(rows, [order[position]])
    departure = first_departure(
        Graph(model.copied()),
        batch,
        batch_of(rows, other),
        alone,
        batch_of(rows, [other[position]]),
        position,
    )
    if departure is None:
        return _Cause(False)
    if departure.node.op_type == OP:
        row, own = model.run(batch)[difference.output][position], model.run(alone)[difference.output][0]
        run = model.load(_with_scales_held(model, batch))
        held = run(batch)[difference.output][position], run(alone)[difference.output][0]
        if _is_int8_rounding(row, own) and is_within_bounds(*held):
            return _of_shared_scale(departure.node, difference)
    elif departure.jumps:
        return _Cause(
            True,
            f"{departure.node.name} turns roundings into steps: {difference.told}, "
            "but no neighbour changes it",
            departure.node.name,
        )
    return _Cause(False, op=departure.node.name)


def _exchanged(order: tuple[int, ...], position: int, rows: int) -> tuple[int, ...]:
    return tuple((r + 1) % rows if p == position else r for p, r in enumerate(order))
