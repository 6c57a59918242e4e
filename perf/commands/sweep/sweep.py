"""`tritonsmith sweep`: a repository, a model and settings → a run directory with a report, the verdict on stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tritonsmith.perf.commands.flattened import argument, flag, flattened
from tritonsmith.perf.commands.sweep.options import SweepFlags
from tritonsmith.perf.commands.sweep.watch import WatchFlags, watched
from tritonsmith.perf.server.launches.table import HELP as LAUNCH_HELP


@flattened
def sweep(
    *,
    where: str = argument(
        "model_repository", "A model repository, or the URL of a Triton that is running.", metavar="DIR|URL"
    ),
    flags: SweepFlags,
    launch_kind: str = flag("embedded", LAUNCH_HELP, "--launch", metavar="KIND"),
    output: Path | None = flag(None, "Run directory.  [default: sweep-MODEL]", "--output", "-o"),
    resume: bool = flag(
        False, "Go on with the run in --output: finished trials of the same content are reused.", "--resume"
    ),
    watch: WatchFlags,
    format: Literal["text", "json"] = flag("text", "How to write the result."),
) -> None:
    """Find the serving settings that are measurably better, or learn that none is.

    Every combination of the --set values is measured at every load point, in interleaved rounds beside the
    current config, which is measured twice: what two identical configs differ by is never called a
    difference. Without --set the instance count and the queue delay are tried. Ctrl-C keeps what was measured
    and writes the report; --resume goes on from there. Exit code 4 when no arm meets the constraints.

    Examples: tritonsmith sweep model_repository/ -m minilm
              tritonsmith sweep model_repository/ -m minilm --set instance_group.count=1,2
              tritonsmith sweep model_repository/ --spec sweep.yaml --budget 120s
    """
    import shlex
    import sys
    import time

    from tritonsmith.perf.commands.load.flags import data_from_flags
    from tritonsmith.perf.commands.sweep.flags import spec_from_flags, values_of, with_variants_in
    from tritonsmith.perf.commands.sweep.output import emit_result, progress_on_stderr
    from tritonsmith.perf.report import write_report
    from tritonsmith.perf.sweep.run.session import sweep_target
    from tritonsmith.perf.sweep.target import only_model, target_from_text

    started_s = time.monotonic()
    asked = values_of(flags)
    target = target_from_text(where, launch_kind)
    spec = spec_from_flags(flags.spec, asked, output if resume else None, lambda: only_model(target))
    if flags.variants is not None:
        spec = with_variants_in(spec, flags.variants)
    directory = output or Path(f"sweep-{spec.model}")
    with watched(directory, watch):
        with progress_on_stderr(directory) as on_progress:
            result = sweep_target(
                spec,
                target,
                data_from_flags(flags),
                directory,
                command=shlex.join(["tritonsmith", *sys.argv[1:]]),
                resume=resume,
                started_s=started_s,
                on_progress=on_progress,
            )
        emit_result(result, write_report(result, directory), as_json=format == "json")
