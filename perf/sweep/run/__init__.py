"""(SweepSpec, a live server, payloads) → RunResult: load the arms, run the rounds, keep every trial."""

from __future__ import annotations

from tritonsmith.perf.server.launch import Server
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run.options import SweepOptions, SweepProgress
from tritonsmith.perf.sweep.run.runner import SweepRunner
from tritonsmith.perf.sweep.run_record import RunResult

__all__ = ["SweepOptions", "SweepProgress", "run_sweep"]


def run_sweep(spec: SweepSpec, server: Server, options: SweepOptions | None = None) -> RunResult:
    """Run the sweep on a server started with --model-control-mode=explicit.

    The model may be loaded or not; it is left as it was found, with its own config. Ctrl-C ends the sweep at
    once with everything measured so far, `interrupted` set. A server that dies is a failed trial, a note and
    a restart. Raises UsageError for a space, model or budget that cannot be swept, TrialError when Triton
    refuses the current config, ServerError when the server is gone before anything was measured.
    """
    return SweepRunner(spec, server, options or SweepOptions()).run()
