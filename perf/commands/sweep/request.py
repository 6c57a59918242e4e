"""What was given of a sweep, and the run that it goes on with → what `sweep_target` takes; a run cut short → how to go on."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.perf.commands.sweep.flags import spec_from_flags, with_variants_in
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run.asked import data_over
from tritonsmith.perf.sweep.run.resume import Earlier, earlier_run
from tritonsmith.perf.sweep.run.session import check_output
from tritonsmith.perf.sweep.run_record import JOURNAL, RESULT, is_run, load_run
from tritonsmith.perf.sweep.target import SweepTarget, only_model, target_from_text

DEFAULT_REPOSITORY, DEFAULT_LAUNCH = "model_repository", "embedded"


@dataclass(frozen=True, slots=True)
class Request:
    """One sweep. directory: of the run. journal: of the run that is there already, its inode; 0 where there is none."""

    spec: SweepSpec
    target: SweepTarget
    data: DataOptions
    directory: Path
    overwrite: bool
    journal: int


def request_from(
    where: str | None,
    launch: str | None,
    spec_file: Path | None,
    given: dict[str, Any],
    data: DataOptions,
    output: Path | None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    variants: Path | None = None,
) -> Request:
    """What is not given is as in the run that is resumed, else the default. Nothing is started or written."""
    if resume and overwrite:
        raise UsageError("--resume goes on with a run, --overwrite begins anew", code="two_ways")
    if output is not None:
        check_output(output, resume=resume, overwrite=overwrite)
    earlier = Earlier()
    if resume:
        output = output or Path(f"sweep-{_model(where, launch, spec_file, given)}")
        if not is_run(output) and "model" not in given and spec_file is None:
            raise UsageError(
                "there is no run to resume", code="no_run", where=Where(output), fix="--output of a sweep"
            )
        earlier = earlier_run(output)
    asked = earlier.asked
    if asked is not None:
        where, launch, data = where or asked.where, launch or asked.launch, data_over(data, asked.data)
    target = _target(where, launch)
    spec = spec_from_flags(spec_file, given, earlier, lambda: only_model(target))
    if variants is not None:
        spec = with_variants_in(spec, variants)
    directory = output or Path(f"sweep-{spec.model}")
    check_output(directory, resume=resume, overwrite=overwrite)
    return Request(spec, target, data, directory, overwrite, _journal(directory))


def _journal(directory: Path) -> int:
    try:
        return (directory / JOURNAL).stat().st_ino
    except OSError:
        return 0


def _target(where: str | None, launch: str | None) -> SweepTarget:
    return target_from_text(where or DEFAULT_REPOSITORY, launch or DEFAULT_LAUNCH)


def _model(where: str | None, launch: str | None, spec_file: Path | None, given: dict[str, Any]) -> str:
    return spec_from_flags(spec_file, given, None, lambda: only_model(_target(where, launch))).model


def how_to_go_on(asked: Request) -> str:
    """After a Ctrl-C, one line."""
    directory, now = asked.directory, _journal(asked.directory)
    quoted = shlex.quote(str(directory))
    if not now or (asked.overwrite and now == asked.journal):
        return "nothing was measured yet; the same command begins anew"
    if (directory / RESULT).is_file() and load_run(directory).complete:
        return f"the sweep is whole: tritonsmith report {quoted} writes its report"
    if asked.target.is_attached:
        return f"tritonsmith report {quoted} shows what was measured; --overwrite begins anew"
    return f"tritonsmith sweep --resume -o {quoted} goes on from here"
