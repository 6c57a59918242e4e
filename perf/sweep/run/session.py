"""(SweepSpec, where to sweep) → RunResult: a server is launched for it or attached to, and ended where it is ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.text.shown import without_secrets
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.server.launch import Server, ServerSpec, kind_from_text, launch
from tritonsmith.perf.server.launches.table import launch_rows
from tritonsmith.perf.server.process.response_cache import DEFAULT_CACHE_BYTES, models_that_cache
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.plan.config_path import model_and_path
from tritonsmith.perf.sweep.run import SweepOptions, SweepProgress, run_sweep
from tritonsmith.perf.sweep.run.scratch import model_directory
from tritonsmith.perf.sweep.run_record import JOURNAL, RunResult
from tritonsmith.perf.sweep.target import SweepTarget


def sweep_target(
    spec: SweepSpec,
    target: SweepTarget,
    data: DataOptions,
    output: Path,
    *,
    command: str,
    resume: bool = False,
    started_s: float | None = None,
    on_progress: Callable[[SweepProgress], None] | None = None,
) -> RunResult:
    """Run the sweep, on a server of its own unless the target is one that is running.

    command: what asked for it, for the record.

    A server of this machine gets a second repository for scratch models, so that arms stand side by side.
    One in a container does not see links into this machine's files, and an attached one is not ours to give
    repositories to: there the arms are loaded in place.
    """
    kind, reference = kind_from_text(target.launch)
    local = launch_rows()[kind].local
    check_output(output)
    if target.repository is not None:
        model_directory([target.repository], spec.model)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tritonsmith-sweep-")))
        ours = () if target.repository is None else (target.repository,)
        server_spec = ServerSpec(
            kind=kind,
            reference=reference,
            repositories=(*ours, scratch) if local else ours,
            model_control="none" if target.is_attached else "explicit",
            cache_size_bytes=DEFAULT_CACHE_BYTES if _sweeps_cache(spec) else None,
        )

        def start() -> Server:
            return stack.enter_context(launch(server_spec))

        result = run_sweep(
            spec,
            start(),
            SweepOptions(
                repositories=ours,
                scratch=scratch if local else None,
                output=output,
                resume=resume,
                data=data,
                restart=None if target.is_attached else start,
                started_s=started_s,
                on_progress=on_progress,
                kind=target.launch,
                command=without_secrets(command),
            ),
        )
        if on_progress is not None and not target.is_attached:
            on_progress(SweepProgress("stopping the server", len(result.trials), 0))
        return result


def _sweeps_cache(spec: SweepSpec) -> bool:
    """Whether an arm may ask for a response cache that the model as it is does without."""
    asked = any(model_and_path(path)[1].startswith("response_cache") for path in spec.space)
    return asked or bool(models_that_cache(Path(directory) for directory in spec.variants.values()))


def check_output(output: Path) -> None:
    """UsageError when the run directory would bury something that is not a run."""
    if output.exists() and not output.is_dir():
        raise UsageError("the output is not a directory", code="bad_output", where=Where(output))
    if output.is_dir() and any(output.iterdir()) and not (output / JOURNAL).exists():
        raise UsageError(
            "the output directory holds something else than a run",
            code="bad_output",
            where=Where(output),
            fix="give a new directory",
        )
