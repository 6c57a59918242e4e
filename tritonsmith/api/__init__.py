"""What a notebook or a pipeline asks for → the command line's own functions and results; nothing is printed on stdout."""

from __future__ import annotations

from tritonsmith.api.live import batch, compare, load, serve, sweep
from tritonsmith.api.repository import build, check, plan, publish
from tritonsmith.builder.base.errors import GateError, TritonsmithError
from tritonsmith.builder.build.results import BuildResult, ModelOutcome, VariantOutcome
from tritonsmith.builder.lint.check import Finding, LintReport
from tritonsmith.builder.plan.plan import BuildPlan
from tritonsmith.builder.publish.publish import ModelPublication, PublishResult
from tritonsmith.perf.data.distribution import Normal, Span
from tritonsmith.perf.data.options import DataOptions
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.records.schedule import Closed, Open, Replay
from tritonsmith.perf.report.compare.compare import Comparison
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.sweep.run_record import RunResult

__all__ = [
    "BuildPlan",
    "BuildResult",
    "Closed",
    "Comparison",
    "DataOptions",
    "Finding",
    "GateError",
    "LintReport",
    "LoadTestResult",
    "ModelOutcome",
    "ModelPublication",
    "Normal",
    "Open",
    "PublishResult",
    "Replay",
    "RunResult",
    "Server",
    "Span",
    "TritonsmithError",
    "VariantOutcome",
    "batch",
    "build",
    "check",
    "compare",
    "load",
    "plan",
    "publish",
    "serve",
    "sweep",
]
