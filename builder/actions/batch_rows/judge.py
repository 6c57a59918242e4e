"""(ONNX file, different rows, batch sizes) → RowsReport: what differs, and whether rounding, chance or an operator does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.builder.actions.accuracy.accuracy import compare, variant_bounds
from tritonsmith.builder.actions.batch_rows.check import (
    Answers,
    CannotRunError,
    Difference,
    Run,
    answers_alone,
    differences,
    memory_growth,
)
from tritonsmith.builder.actions.batch_rows.compare import (
    changed,
    is_rounding,
    is_same,
    is_within_bounds,
    relative_l2,
)
from tritonsmith.builder.actions.batch_rows.conditioning import move_weights
from tritonsmith.builder.actions.batch_rows.graph.dynamic_scales import OP, hold_scales
from tritonsmith.builder.actions.batch_rows.graph.first_op import (
    Graph,
    Node,
    first_departure,
    first_that_loses_rows,
    first_that_mixes,
    first_that_reaches,
)
from tritonsmith.builder.actions.batch_rows.graph.node import Shape
from tritonsmith.builder.actions.batch_rows.graph.reads_across import (
    GraphNotReadError,
    operators_of_file,
    shape_from_runs,
)
from tritonsmith.builder.actions.batch_rows.report import RowsReport, Verdict
from tritonsmith.builder.actions.batch_rows.request import LARGEST_RUN_ROWS, RowsRequest
from tritonsmith.builder.actions.batch_rows.rows import POOL, Row, batch_of, drawn_like

if TYPE_CHECKING:
    import numpy as np

    from tritonsmith.builder.actions.accuracy.samples import Array


_MORE_SHARE = 0.2
"""Of the time that the batch sizes took, for more rows than they ask for."""

_LEAST_ROUNDS = 16
"""Of more rows, as far as they take no longer than _LEAST_S; processor time, so that a busy machine sees as much."""

_LEAST_S = 2.0

_MOVED_WEIGHTS = 3
_OF_ROUNDING = 10
"""A batch of another size may move a row this many times as far as moved weights do: there all sums differ at once."""


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
    """Why a row differs. accepted: it is no mixing; note: what is to be said of it; distance: of the difference."""

    accepted: bool
    note: str = ""
    op: str = ""
    distance: float = 0.0


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why the rows cannot be called independent. is_of_optimisation: only ONNX Runtime's rewritten graph does it."""

    verdict: Verdict
    note: str
    op: str = ""
    is_of_optimisation: bool = False


def judge_rows(
    model: Model, rows: Sequence[Row], request: RowsRequest, rng: np.random.Generator
) -> RowsReport:
    """Runs the rows alone and in batches. The rows are known to run at some size, two at least, and differ."""
    ran: list[int] = []
    try:
        return _judged(model, rows, request, rng, ran)
    except CannotRunError as error:
        note = f"ONNX Runtime fails at batch size {error.size}: {_words(error.reason)}"
        return RowsReport("cannot_run", tuple(ran), note)


def _judged(
    model: Model, rows: Sequence[Row], request: RowsRequest, rng: np.random.Generator, ran: list[int]
) -> RowsReport:
    started = time.process_time()
    alone = answers_alone(model.run, rows)
    model = replace(model, outputs=model.outputs or tuple(alone[0]))
    memory = memory_growth(request.largest_run_bytes, rows[0], alone[0])
    accepted: dict[tuple[str, str], _Cause] = {}
    found = differences(model.run, rows, alone, request.sizes, model.outputs, rng, memory.fits, ran)
    refusal = _refusal(model, rows, lambda: alone, found, accepted)
    if refusal is None and max(ran) > 1:
        refusal = _among_more_rows(model, rows, request, rng, accepted, time.process_time() - started)
    if refusal is not None and refusal.is_of_optimisation:
        as_written = replace(model, run=model.load(model.copied()), is_optimised=False)
        report = judge_rows(as_written, rows, request, rng)
        return report if report.refused else RowsReport("random", tuple(ran), refusal.note)
    if refusal is not None:
        return RowsReport(refusal.verdict, tuple(ran), refusal.note, refusal.op)
    constant = [output for output in model.outputs if _is_constant(alone, output)]
    if constant:
        of = "" if len(constant) == len(model.outputs) else f" in output {', '.join(constant)}"
        why = f"all rows have the same answer{of}, so that none could be told from another; state accuracy.samples"
        return RowsReport("unverified", tuple(ran), why)
    notes = list({cause.op: cause.note for cause in accepted.values() if cause.note}.values())
    try:
        across = _read_across(model, rows, request)
    except GraphNotReadError as error:
        across = []
        notes.append(
            f"the runs alone say so: the graph could not be read for what reads other rows ({error})"
        )
    if across and max(ran) > 1:
        more = f" and {len(across) - 1} more" if len(across) > 1 else ""
        why = (
            f"no row differed in any run, but {across[0]}{more} reads the other rows of the batch, and other values "
            "may show it; a max_batch_size that is left out becomes 0, and one that is stated stays"
        )
        return RowsReport("unverified", tuple(ran), why, across[0])
    if max(ran) < max(request.sizes):
        limit = f"{request.largest_run_bytes / 2**30:.2g} GiB or {LARGEST_RUN_ROWS} rows"
        notes.append(f"run up to batch {max(ran)}, not {max(request.sizes)}, to stay below {limit}")
    return RowsReport("independent", tuple(ran), "; ".join(notes))


def _read_across(model: Model, rows: Sequence[Row], request: RowsRequest) -> list[str]:
    def measured(names: Sequence[str]) -> Mapping[str, Shape]:
        batches = [batch_of(rows, order) for order in ((0, 1), (0, 1, 0))]
        found = Graph(model.copied()).shapes(names, batches)
        return {name: shape_from_runs(*shapes) for name, shapes in found.items()}

    row = {name: array.shape[1:] for name, array in rows[0].items()}
    return operators_of_file(Path(request.path), request.outputs, row, measured)


def _among_more_rows(
    model: Model,
    rows: Sequence[Row],
    request: RowsRequest,
    rng: np.random.Generator,
    accepted: dict[tuple[str, str], _Cause],
    round_s: float,
) -> _Refusal | None:
    """New rows beside new neighbours, while another round fits into the time; small models can afford thousands.

    A step after what mixes, such as a class or a quantised value, hides it in most rows. Drawn rows may lie outside what
    the model is meant for, where it may answer alone otherwise; a neighbour must not change them all the same.
    """
    begun, enough_s = time.process_time(), max(request.more_s, _MORE_SHARE * round_s)
    for number in range(request.more_rounds):
        started = time.process_time()
        if started - begun + round_s > (enough_s if number >= _LEAST_ROUNDS else max(enough_s, _LEAST_S)):
            break
        # Whole numbers were guessed near 0: further ones reach other rows of a table, and other sides of a condition.
        drawn = [drawn_like(rows, rng, wider=number % 2 == 1) for _ in range(POOL)]
        # Their own answers say nothing here, but for the operator that a difference comes from.
        alone = cache(partial(answers_alone, model.run, drawn))
        try:
            every = differences(model.run, drawn, None, (2, 3), model.outputs, rng, lambda size, _: size, [])
            found = [difference for difference in every if difference.kind == "neighbours"]
            refusal = _refusal(model, drawn, alone, found, accepted)
        except CannotRunError:
            continue
        if refusal is not None:
            return refusal
        round_s = time.process_time() - started
    return None


def _refusal(
    model: Model,
    rows: Sequence[Row],
    alone: Callable[[], Sequence[Answers]],
    found: Iterable[Difference],
    accepted: dict[tuple[str, str], _Cause],
) -> _Refusal | None:
    """The first difference that neither rounding nor a shared scale explains; of those that are, the largest is accepted."""
    for difference in found:
        known = accepted.get((difference.kind, difference.output))
        if known is not None and difference.distance <= known.distance:
            continue
        if difference.kind == "neighbours" and _is_rounding_beside(model, rows, difference):
            continue
        if _differs_by_chance(model, rows, difference):
            return _of_chance(model, rows, difference)
        cause = _cause(model, rows, alone(), difference)
        if not cause.accepted:
            named = f"; the first operator that mixes rows is {cause.op}" if cause.op else ""
            return _Refusal("mixed", f"{difference.told}{named}", cause.op)
        accepted[difference.kind, difference.output] = replace(cause, distance=difference.distance)
    return None


def _is_rounding_beside(model: Model, rows: Sequence[Row], difference: Difference) -> bool:
    return is_rounding(*_beside_both(model.run, rows, difference))


def _beside_both(run: Run, rows: Sequence[Row], difference: Difference) -> tuple[Array, Array]:
    """The row's answers beside its neighbours and beside the others."""
    one, two = (
        run(batch_of(rows, order))[difference.output][difference.position, ...]
        for order in (difference.order, difference.other)
    )
    return one, two


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _is_constant(alone: Sequence[Answers], output: str) -> bool:
    first = alone[0][output]
    return all(
        a[output].shape == first.shape and not bool(changed(a[output], first).any()) for a in alone[1:]
    )


def _differs_by_chance(model: Model, rows: Sequence[Row], difference: Difference) -> bool:
    """Whether one batch, run again, gives another answer by more than threads that add up in another order."""
    batch = batch_of(rows, difference.order)
    first, *again = ([model.run(batch)[name] for name in model.outputs] for _ in range(3))
    pairs = [pair for other in again for pair in zip(first, other, strict=True)]
    return any(not is_same(a, b) and not is_rounding(a, b) for a, b in pairs)


def _of_chance(model: Model, rows: Sequence[Row], difference: Difference) -> _Refusal:
    """Names the operator whose values differ from run to run; in the graph as written there may be none."""
    batch = batch_of(rows, difference.order)
    told = "two runs of one batch give different answers, so that rows cannot be compared"
    for node, outputs in Graph(model.copied()).values([batch, batch]):
        if any(not is_same(one, two) for one, two in outputs.values()):
            return _Refusal("random", f"{told}; {node.name} is the first that does", op=node.name)
    return _Refusal("random", told, is_of_optimisation=model.is_optimised)


def _cause(model: Model, rows: Sequence[Row], alone: Sequence[Answers], difference: Difference) -> _Cause:
    if difference.kind == "rows":
        node = first_that_loses_rows(
            Graph(model.copied()), batch_of(rows, difference.order), difference.output
        )
        return _Cause(False, op="" if node is None else node.name)
    with_others = _with_others(difference, rows, alone)
    if difference.kind == "alone":
        return _of_another_size(model, rows, with_others, difference)
    return _of_neighbours(model, rows, with_others, difference)


def _of_neighbours(
    model: Model, rows: Sequence[Row], with_others: Sequence[Sequence[int]], difference: Difference
) -> _Cause:
    batch = batch_of(rows, difference.order)
    graph, position = Graph(model.copied()), difference.position
    row_changed = [batch_of(rows, order) for order in with_others]
    others_changed = [batch_of(rows, order) for order in _beside_others(difference, len(rows))]
    node = first_that_mixes(graph, batch, row_changed, others_changed)
    node = node or first_that_reaches(graph, batch, others_changed, position)
    if node is None:
        return _Cause(False)
    if node.op_type == OP:
        held = _with_scales_held(model, batch)
        one, two = _beside_both(model.load(held), rows, difference)
        if not is_same(one, two) and not is_rounding(one, two):
            node = first_that_mixes(Graph(held), batch, row_changed, others_changed) or node
        elif _is_int8_rounding(*_beside_both(model.run, rows, difference)):
            return _of_shared_scale(node, difference)
    return _Cause(False, op=node.name)


def _is_int8_rounding(reference: Array, candidate: Array) -> bool:
    is_float = candidate.dtype.kind == "f" and candidate.shape == reference.shape
    bounds = variant_bounds("int8", "float32")
    return is_float and compare({"": candidate}, {"": reference}, bounds=bounds)[0].passed


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


def _of_another_size(
    model: Model, rows: Sequence[Row], with_others: Sequence[Sequence[int]], difference: Difference
) -> _Cause:
    position, order = difference.position, difference.order
    batch, alone = batch_of(rows, order), batch_of(rows, [order[position]])
    row_changed = [batch_of(rows, other) for other in with_others]
    others_alone = [batch_of(rows, [other[position]]) for other in with_others]
    graph = Graph(model.copied())
    departure = first_departure(graph, batch, row_changed, alone, others_alone, position)
    if departure is None:
        return _Cause(False)
    if departure.node.op_type == OP:
        row, own = (
            model.run(batch)[difference.output][position, ...],
            model.run(alone)[difference.output][0, ...],
        )
        run = model.load(_with_scales_held(model, batch))
        held = run(batch)[difference.output][position, ...], run(alone)[difference.output][0, ...]
        if _is_int8_rounding(own, row) and is_within_bounds(*held):
            return _of_shared_scale(departure.node, difference)
    elif departure.jumps:
        return _Cause(
            True,
            f"{departure.node.name} turns roundings into steps: {difference.told}, "
            "but no neighbour changes it",
            departure.node.name,
        )
    if _is_ill_conditioned(model, alone, difference):
        note = (
            f"{departure.node.name} makes much of roundings: {difference.told}, but no neighbour changes it, and alone "
            "it moves as far when the weights are rounded otherwise"
        )
        return _Cause(True, note, departure.node.name)
    return _Cause(False, op=departure.node.name)


def _is_ill_conditioned(model: Model, alone: Mapping[str, Array], difference: Difference) -> bool:
    """Whether weights that are moved by roundings move the row alone as far as the batch did."""
    path = model.copied()
    own = model.load(path)(alone)[difference.output]
    if own.dtype.kind != "f":
        return False
    furthest = 0.0
    for seed in range(_MOVED_WEIGHTS):
        moved = path.with_name("moved.onnx")
        move_weights(path, seed, moved)
        furthest = max(furthest, relative_l2(model.load(moved)(alone)[difference.output], own))
    return difference.distance <= _OF_ROUNDING * furthest < float("inf")


def _with_others(
    difference: Difference, rows: Sequence[Row], alone: Sequence[Answers]
) -> list[tuple[int, ...]]:
    """The batch with other rows at the difference's place, the furthest first by their own answers and their content."""
    order, position = difference.order, difference.position
    own = alone[order[position]][difference.output]

    def distance(row: int) -> tuple[float, float]:
        content = sum(float(changed(a, rows[order[position]][name]).sum()) for name, a in rows[row].items())
        return relative_l2(alone[row][difference.output], own), content

    by_distance = sorted((row for row in range(len(rows)) if row != order[position]), key=distance)
    # Rows far away may all be cut to the same; so a near one and one between are put there, too.
    probes = dict.fromkeys((by_distance[-1], by_distance[0], by_distance[len(by_distance) // 2]))
    return [tuple(probe if p == position else row for p, row in enumerate(order)) for probe in probes]


def _beside_others(difference: Difference, rows: int) -> list[tuple[int, ...]]:
    """The batch with other neighbours of the difference's row: those that showed it, and more."""
    order, position = difference.order, difference.position
    turned = [
        tuple(row if p == position else (row + turn) % rows for p, row in enumerate(order)) for turn in (1, 2)
    ]
    return [difference.other, *turned]
