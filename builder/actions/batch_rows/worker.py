"""The row check's child process: one RowsRequest on standard input → inputs, ONNX Runtime's answers, one RowsReport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.actions.batch_rows.judge import Model, judge_rows
from tritonsmith.builder.actions.batch_rows.report import RowsReport
from tritonsmith.builder.actions.batch_rows.request import RowsRequest
from tritonsmith.builder.actions.batch_rows.rows import POOL, Row, batch_of, drawn_like, rows_of, with_drawn
from tritonsmith.builder.actions.export.batching import with_batch_dimension
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.kept_session import take_session
from tritonsmith.builder.actions.export.onnx_graph import (
    onnxruntime_reason,
    onnxruntime_runner,
    open_session,
    read_graph,
    runner_of_session,
)
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.processes.child_worker import Task, enter_search_path, serve

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array
    from tritonsmith.builder.actions.export.exported import Runner

_USUAL_SIZES = (2, 4, 8, 16, 32)
"""Batch sizes that exporters were seen to write into a graph."""

_INTEGERS_UP_TO = (100, 9)
"""Pixels and counts go further than 0 and 1, with which guessing begins; ids of a small table do not."""

_NO_TWO = "no two different rows could be made; state accuracy.samples"


def main(task: Task | None = None) -> None:
    """Answers one RowsRequest; arguments as builder.base.processes.child_worker.serve takes them."""
    serve(_handle, "running a model's batches", task)


def _handle(request: Mapping[str, Any], scratch: Path) -> Mapping[str, object]:
    report: Mapping[str, object] = report_of(RowsRequest.from_dict(request), scratch).as_dict()
    return report


def report_of(request: RowsRequest, scratch: Path) -> RowsReport:
    """Makes different rows and judges the model by them. What a samples callable raises goes on."""
    import numpy as np

    samples = _stated(request)
    rng = np.random.default_rng(request.seed)
    try:
        if not request.exported:
            read_graph(Path(request.path), full_check=False)
        path = Path(request.path)
        session = take_session(path, level=0) or open_session(path, optimised=True)
        run = _in_words(runner_of_session(session))
        rows, reason = _rows(request, run, samples, rng)
    except TritonsmithError as error:
        return RowsReport("unverified", (), error.message)
    if len(rows) < 2:
        return RowsReport("unverified", (), reason)
    model = Model(run, _as_written, cache(lambda: _copy(Path(request.path), scratch)), request.outputs)
    return judge_rows(model, rows, request, rng)


def _stated(request: RowsRequest) -> list[Mapping[str, Array]] | None:
    """The inputs that the export or the spec has; None when there are none."""
    if request.samples is None:
        return None
    if request.samples.endswith(".npz"):
        return [sample.inputs for sample in load_samples(Path(request.samples)).samples]
    from tritonsmith.builder.actions.export.checks.verify import stated_samples

    enter_search_path(Path(request.search_path))
    return list(stated_samples(_as_export(request, 1)).samples or ())


def _rows(
    request: RowsRequest, run: Runner, samples: Sequence[Mapping[str, Array]] | None, rng: Any
) -> tuple[list[Row], str]:
    """Different rows; why there are fewer than two."""
    made_up = _made_up(request, run) if samples is None else samples
    if isinstance(made_up, str):
        return [], made_up
    rows = rows_of(made_up)
    drawn = [row for row in with_drawn(rows, rng)[len(rows) :] if _runs(run, row)]
    wider = _wider([*rows, *drawn], run, rng) if samples is None and rows else []
    return [*rows, *drawn][: POOL - len(wider)] + wider, _NO_TWO


def _wider(rows: Sequence[Row], run: Runner, rng: Any) -> list[Row]:
    """Made-up rows whose integers go beyond 0 and 1, as far as the model answers them with numbers."""
    if all(array.dtype.kind not in "iu" for array in rows[0].values()):
        return []
    for high in _INTEGERS_UP_TO:
        wider: list[Row] = [
            {
                name: rng.integers(0, high, a.shape, a.dtype, endpoint=True) if a.dtype.kind in "iu" else a
                for name, a in drawn_like(rows, rng).items()
            }
            for _ in range(POOL // 2)
        ]
        if all(_runs(run, row, finite=True) for row in wider):
            return wider
    return []


def _made_up(request: RowsRequest, run: Runner) -> list[dict[str, Array]] | str:
    """Inputs of one row, or, of a model that takes another number alone, of that many; the reason when none will do."""
    from tritonsmith.builder.actions.export.checks.verify import guessed_inputs

    graph = read_graph(Path(request.path), full_check=False)
    unreadable = [t.name for t in (*graph.inputs, *graph.outputs) if t.dtype.numpy is None]
    if unreadable:
        return f"{unreadable[0]} has a type that NumPy does not have"
    reasons = []
    for size in dict.fromkeys((1, *request.sizes, *_USUAL_SIZES)):
        exported = Exported(
            Path(request.path),
            (),
            with_batch_dimension(graph.inputs, size, None, "export it again"),
            graph.outputs,
            graph.opset,
            graph.ir_version,
            run,
            None,
            {},
        )
        guessed = guessed_inputs(_as_export(request, size), exported)
        if not isinstance(guessed, str):
            return [inputs for inputs, _ in guessed]
        reasons.append(guessed)
    return reasons[0]


def _as_export(request: RowsRequest, size: int) -> ExportRequest:
    return ExportRequest(
        request.model,
        "onnx",
        request.path,
        request.search_path,
        max_batch_size=size,
        dynamic_dims=request.dynamic_dims,
        dim_relations=request.dim_relations,
        samples=request.samples,
        sample_batch_sizes=(size,),
        seed=request.seed,
    )


def _runs(run: Runner, row: Row, finite: bool = False) -> bool:
    """Whether drawn values are a request that the model takes at all, and answers without NaN."""
    import numpy as np

    try:
        answers = run(batch_of([row], [0]))
    except Exception:
        return False
    return not finite or not any(np.isnan(a).any() for a in answers.values() if a.dtype.kind == "f")


def _as_written(path: Path) -> Runner:
    return _in_words(onnxruntime_runner(path, optimised=False))


def _in_words(run: Runner) -> Runner:
    """The same, failing with ONNX Runtime's words and without its places in C++."""

    def checked(inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return run(inputs)
        except Exception as error:
            raise RuntimeError(onnxruntime_reason(error)) from error

    return checked


def _copy(path: Path, scratch: Path) -> Path:
    from tritonsmith.builder.actions.export.sources.onnx import copy_model

    directory = scratch / "graph"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / copy_model(path, read_graph(path, full_check=False).external_files, directory)[0]


if __name__ == "__main__":
    main()
