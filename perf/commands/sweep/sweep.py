"""`tritonsmith sweep`: a repository, a model and settings → a run directory with a report, the verdict on stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tritonsmith.perf.commands.flattened import argument, flag, flattened
from tritonsmith.perf.commands.sweep.options import (
    ArmFlags,
    PayloadFlags,
    RoundFlags,
    RunFlags,
    SweepFlags,
    VerdictFlags,
)
from tritonsmith.perf.commands.sweep.watch import WatchFlags, watched
from tritonsmith.perf.server.launches.table import HELP as LAUNCH_HELP


@flattened
def sweep(
    *,
    where: str | None = argument(
        None,
        "A model repository, or the URL of a Triton that is running.  [default: model_repository]",
        metavar="DIR|URL",
    ),
    flags: SweepFlags,
    launch_kind: str | None = flag(None, f"{LAUNCH_HELP}  [default: embedded]", "--launch", metavar="KIND"),
    output: Path | None = flag(
        None, "Run directory.  [default: sweep-MODEL]", "--output", "-o", metavar="DIR"
    ),
    format: Literal["text", "json"] = flag("text", "How to write the result."),
    arms: ArmFlags,
    verdict: VerdictFlags,
    rounds: RoundFlags,
    payload: PayloadFlags,
    run: RunFlags,
    watch: WatchFlags,
) -> None:
    """Find which serving settings are measurably better, or that none is.

    Every combination of the --set values is measured at every load point, in interleaved rounds beside the
    current config, which is measured twice: what two identical configs differ by is never called a
    difference. Without --set the instance count and the queue delay are tried. Ctrl-C keeps what was measured
    and writes the report; --resume goes on from there. A running server is held for one sweep at a time, and
    put back as it was. Exit code 4 when no arm meets the constraints.

    Examples: tritonsmith sweep model_repository/ -m minilm
              tritonsmith sweep model_repository/ -m minilm --set instance_group.count=1,2
              tritonsmith sweep model_repository/ --sweep-spec sweep.yaml --budget 120s
              tritonsmith sweep --resume -o sweep-minilm
    """
    import shlex
    import sys
    import time

    from tritonsmith.builder.base.text.console import note
    from tritonsmith.perf.commands.load.flags import data_from_flags
    from tritonsmith.perf.commands.sweep.flags import values_of
    from tritonsmith.perf.commands.sweep.output import emit_result, progress_on_stderr
    from tritonsmith.perf.commands.sweep.request import how_to_go_on, request_from
    from tritonsmith.perf.commands.sweep.restore import restore
    from tritonsmith.perf.report import write_report
    from tritonsmith.perf.sweep.run.session import sweep_target

    started_s = time.monotonic()
    command = shlex.join(["tritonsmith", *sys.argv[1:]])
    if run.restore:
        restore(where, launch_kind, command, run)
        return
    asked = request_from(
        where,
        launch_kind,
        flags.spec,
        values_of(flags, arms, verdict, rounds, payload),
        data_from_flags(payload),
        output,
        resume=run.resume,
        overwrite=run.overwrite,
        variants=arms.variants,
    )
    try:
        with watched(asked.directory, watch):
            with progress_on_stderr(asked.directory) as on_progress:
                result = sweep_target(
                    asked.spec,
                    asked.target,
                    asked.data,
                    asked.directory,
                    command=command,
                    resume=run.resume,
                    overwrite=run.overwrite,
                    wait=run.wait,
                    break_lock=run.break_lock,
                    started_s=started_s,
                    on_progress=on_progress,
                    on_note=note,
                )
            files = write_report(result, asked.directory)
            going_on = "" if result.complete else how_to_go_on(asked)
            emit_result(result, files, as_json=format == "json", going_on=going_on)
    except KeyboardInterrupt:
        note(how_to_go_on(asked))
        raise
