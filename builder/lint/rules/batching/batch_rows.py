"""Rules about what a model does with the rows of a batch, judged by running it (`check --deep`)."""

from __future__ import annotations

from collections.abc import Iterator

from tritonsmith.builder.actions.batch_rows.report import RowsReport, Verdict
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule

_PAGE = "docs/batching.md"
_MEAN = 'backend: "onnxruntime"\nmax_batch_size: 8  # the graph subtracts the mean over its first dimension'
_ROWS = 'backend: "onnxruntime"\nmax_batch_size: 8  # the graph works on each row by itself'
_FIX = "write max_batch_size: 0, or make the model treat its first dimension as a stack of strangers"


@rule(
    "BATCH015",
    "error",
    "silent",
    then="requests that are batched together get wrong answers",
    fix=_FIX,
    source=f"{_PAGE}; the answers of a live server differ likewise (tests/perf/load/test_batching_live.py)",
    bad=_MEAN,
    good=_ROWS,
    needs="deep",
)
def rows_mixed(model: Model, context: Context) -> Iterator[Hit]:
    """A row's answer depends on the rows beside it."""
    for number, report in _reports(model, context, "mixed"):
        written = model.written.max_batch_size
        inferred = model.config.max_batch_size if not written else 0
        yield Hit(
            f"version {number}: {report.note}"
            + (f"; max_batch_size is left out, and Triton completes it to {inferred}" if inferred else ""),
            "max_batch_size",
            model.config.max_batch_size,
            fix="write max_batch_size: 0 with input and output, so that Triton completes nothing"
            if inferred
            else None,
        )


@rule(
    "BATCH016",
    "error",
    "silent",
    then="the server loads the model, and requests fail at that batch size",
    fix="write max_batch_size: 0, or export the model with a dynamic first dimension in all of its steps",
    source=f"{_PAGE}; seen live on 2.51.0",
    bad='backend: "onnxruntime"\nmax_batch_size: 8  # the graph reads the fourth row of its batch',
    good=_ROWS,
    needs="deep",
)
def batch_cannot_run(model: Model, context: Context) -> Iterator[Hit]:
    """The model fails at a batch size of 1 … max_batch_size."""
    for number, report in _reports(model, context, "cannot_run"):
        yield Hit(f"version {number}: {report.note}", "max_batch_size", model.config.max_batch_size)


@rule(
    "BATCH017",
    "warning",
    "silent",
    then="nobody knows whether requests that are batched together get right answers",
    fix="build it with inputs of its own, stated as accuracy.samples",
    source=_PAGE,
    bad='backend: "onnxruntime"\nmax_batch_size: 8  # the graph takes a logarithm: made-up inputs give NaN',
    good=_ROWS,
    needs="deep",
)
def rows_unverified(model: Model, context: Context) -> Iterator[Hit]:
    """Whether a row's answer depends on the rows beside it could not be verified."""
    for verdict in ("unverified", "random"):
        for number, report in _reports(model, context, verdict):
            yield Hit(f"version {number}: {report.note}", "max_batch_size", model.config.max_batch_size)


@rule(
    "BATCH018",
    "warning",
    "silent",
    then="answers are right, with the reservation that the message tells",
    fix="nothing, where that is good enough; else write max_batch_size: 0",
    source=f"{_PAGE}; ONNX, DynamicQuantizeLinear",
    bad='backend: "onnxruntime"\nmax_batch_size: 8  # the graph quantises with one scale for the whole batch',
    good=_ROWS,
    needs="deep",
)
def rows_reserved(model: Model, context: Context) -> Iterator[Hit]:
    """Rows do not mix, but for a rounding they share, or were not run at the largest batch size."""
    for number, report in _reports(model, context, "independent"):
        if report.note:
            yield Hit(f"version {number}: {report.note}", "max_batch_size", model.config.max_batch_size)


def _reports(model: Model, context: Context, verdict: Verdict) -> Iterator[tuple[int, RowsReport]]:
    for number, report in (context.rows or {}).get(model.path, {}).items():
        if report.verdict == verdict:
            yield number, report
