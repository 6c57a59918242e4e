"""A report → a run in MLflow, with a nested one for each arm; where to is MLflow's own setting (MLFLOW_TRACKING_URI)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.perf.report import ReportFiles
from tritonsmith.perf.report.view import all_settings, csv_rows
from tritonsmith.perf.sweep.run_record import RunResult

_LONGEST_PARAM = 500


def mlflow_module() -> Any:
    """mlflow, imported now; ToolError no_mlflow when it is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise ToolError("mlflow is not installed", code="no_mlflow", fix="pip install mlflow-skinny")
    return importlib.import_module("mlflow")


@contextmanager
def _mlflow() -> Iterator[Any]:
    """mlflow; what it refuses becomes ToolError mlflow_failed."""
    mlflow = mlflow_module()
    try:
        yield mlflow
    except mlflow.exceptions.MlflowException as error:
        raise ToolError(
            f"MLflow did not take the report: {error}",
            code="mlflow_failed",
            seen=f"MLFLOW_TRACKING_URI={mlflow.get_tracking_uri()}",
            fix="set MLFLOW_TRACKING_URI, e.g. to sqlite:///mlflow.db or your server's URL",
        ) from error


def export_sweep(run: RunResult, files: ReportFiles) -> str:
    """The sweep as a run of the experiment `tritonsmith MODEL`; the id of the run.

    Metrics of an arm have the concurrency as their step, intervals end in _low and _high.
    """
    verdict, ratio = run.verdict, run.verdict.ratio
    with _mlflow() as mlflow, _run(mlflow, run.spec.model, f"sweep of {run.spec.model}") as parent:
        mlflow.set_tags(
            {"outcome": verdict.outcome, "sentence": verdict.sentence, "complete": str(run.complete)}
        )
        mlflow.log_params(_params(run.environment))
        numbers = {"ratio": ratio.value if ratio else None, "resolution": verdict.resolution}
        if ratio is not None and ratio.interval is not None:
            numbers |= {"ratio_low": ratio.interval.low, "ratio_high": ratio.interval.high}
        mlflow.log_metrics(_metrics(numbers))
        _artifacts(mlflow, files)
        rows = csv_rows(run)
        for arm in run.arms:
            with mlflow.start_run(run_name=arm.label, nested=True):
                mlflow.set_tags({"arm": arm.id, "baseline": str(arm.baseline)})
                mlflow.log_params(_params(all_settings(arm)))
                for row in rows:
                    if row["arm"] == arm.id:
                        mlflow.log_metrics(_metrics(row), step=row["concurrency"])
    return str(parent.info.run_id)


def export_load(
    model: str, load: str, rows: Iterable[Mapping[str, Any]], verdict: str, files: ReportFiles
) -> str:
    """One load test as a run of the same experiment; the id of the run."""
    with _mlflow() as mlflow, _run(mlflow, model, f"load test, {load}") as run:
        mlflow.set_tags({"verdict": verdict})
        mlflow.log_params({"load": load})
        for row in rows:
            name = str(row["metric"]).replace(" ", "_")
            ends = {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
            mlflow.log_metrics(_metrics(ends))
        _artifacts(mlflow, files)
    return str(run.info.run_id)


def _run(mlflow: Any, model: str, name: str) -> Any:
    mlflow.set_experiment(f"tritonsmith {model}")
    return mlflow.start_run(run_name=name)


def _params(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.replace("[", ".").replace("]", "").replace(":", "."): str(value)[:_LONGEST_PARAM]
        for name, value in values.items()
    }


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _artifacts(mlflow: Any, files: ReportFiles) -> None:
    for name in files.names():
        mlflow.log_artifact(str(Path(name)))
