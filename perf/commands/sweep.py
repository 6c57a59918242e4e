"""`tritonsmith sweep`: a repository, a model and settings → a run directory with a report, the verdict on stdout."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from perf.data import DataOptions
    from perf.run_record import RunResult
    from perf.server.launch import Server
    from perf.sweep import SweepSpec
    from perf.sweep_run import SweepProgress


class SweepFormat(str, Enum):
    """How the result is written on stdout."""

    text = "text"
    json = "json"


class Objective(str, Enum):
    """What is to be best."""

    throughput = "throughput"
    p50 = "p50"
    p90 = "p90"
    p99 = "p99"
    cost = "cost"
    energy = "energy"


class SearchChoice(str, Enum):
    """How the space is gone through."""

    auto = "auto"
    grid = "grid"
    optuna = "optuna"
    random = "random"


class PlacementChoice(str, Enum):
    """How arms are put on the server."""

    auto = "auto"
    side_by_side = "side_by_side"
    in_place = "in_place"


def sweep(
    repository: Annotated[
        Path, typer.Argument(metavar="DIR", help="The model repository.", show_default=True)
    ] = Path("model_repository"),
    model: Annotated[str, typer.Option("--model", "-m", help="The model to sweep.", show_default=False)] = "",
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045 - Typer reads the annotation at run time on Python 3.10
        typer.Option(
            "--set",
            metavar="PATH=V1,V2",
            help="A field of Triton's model config, or client.batch_size, and its values; may be repeated.",
            show_default=False,
        ),
    ] = None,
    spec: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A sweep.yaml; flags given beside it win.", show_default=False),
    ] = None,
    concurrency: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--concurrency", "-c", help="Load points.  [default: 1,8,32]", show_default=False),
    ] = None,
    rounds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Default: 4, or with --budget as many as fit.", show_default=False),
    ] = None,
    duration: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of one measurement.  [default: 1s]", show_default=False),
    ] = None,
    warmup: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Before each measurement.  [default: 200ms]", show_default=False),
    ] = None,
    budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Wall-clock time for the whole sweep (60s).", show_default=False),
    ] = None,
    objective: Annotated[
        Optional[Objective],  # noqa: UP045
        typer.Option(help="What is to be best.  [default: throughput]", show_default=False),
    ] = None,
    at: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Load point of a latency objective.  [default: the largest]", show_default=False),
    ] = None,
    slo_p99: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Find each arm's highest request rate with p99 within this (20ms), instead of --concurrency.",
            show_default=False,
        ),
    ] = None,
    dollars_per_hour: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Price of the server, for --objective cost.", show_default=False),
    ] = None,
    max_p99: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Constraint: p99 latency (20ms).", show_default=False),
    ] = None,
    max_memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="MIB",
            help="Constraint: memory of the server and the arm's instances.",
            show_default=False,
        ),
    ] = None,
    max_failures: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Constraint: share of failed requests.  [default: 0.01]", show_default=False),
    ] = None,
    max_wrong: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Constraint: share of wrong answers; checks answers by the outputs in --data.",
            show_default=False,
        ),
    ] = None,
    rtol: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="With --max-wrong: relative tolerance.  [default: 0.001]", show_default=False),
    ] = None,
    variant: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAME=DIR",
            help="Another model directory with the same inputs and outputs, as an arm; may be repeated.",
            show_default=False,
        ),
    ] = None,
    beside: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="MODEL:N",
            help="Another model under load all the time at concurrency N; may be repeated.",
            show_default=False,
        ),
    ] = None,
    load_model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The ensemble that gets the load; -m is its composing model.", show_default=False),
    ] = None,
    search: Annotated[
        Optional[SearchChoice],  # noqa: UP045
        typer.Option(
            help="All combinations, or proposals.  [default: grid up to 200 combinations]", show_default=False
        ),
    ] = None,
    proposals: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=2, help="Combinations that a search measures.  [default: 24]", show_default=False),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--batch-size", "-b", min=1, help="Rows a request.", show_default=False),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Input values, as in `load`; drawn by default.", show_default=False),
    ] = None,
    shape: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME:D1,D2 without the batch; a dimension may be LOW..HIGH.", show_default=False),
    ] = None,
    range_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--range", help="NAME:LOW..HIGH of the values that are drawn.", show_default=False),
    ] = None,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Of the order of trials and the data.  [default: 0]", show_default=False),
    ] = None,
    placement: Annotated[
        Optional[PlacementChoice],  # noqa: UP045
        typer.Option(help="Arms as scratch models side by side, or in place.  [default: auto]"),
    ] = None,
    launch_kind: Annotated[
        str,
        typer.Option(
            "--launch", metavar="KIND", help="embedded, binary:PATH, docker:IMAGE or a running server's URL."
        ),
    ] = "embedded",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Run directory.  [default: sweep-MODEL]", show_default=False),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --output: finished trials of the same content are reused."
        ),
    ] = False,
    format: Annotated[SweepFormat, typer.Option(help="How to write the result.")] = SweepFormat.text,
) -> None:
    """Find the serving settings that are measurably better, or learn that it is a tie.

    Every combination of the --set values is measured at every load point, in interleaved rounds beside the
    current config, which is measured twice: what two identical configs differ by is never called a
    difference. Ctrl-C keeps what was measured and writes the report; --resume goes on from there. Exit code 4
    when no arm meets the constraints.

    Examples: tritonsmith sweep model_repository/ -m minilm --set instance_group.count=1,2
              tritonsmith sweep model_repository/ --spec sweep.yaml --budget 120s
    """
    from builder.console import emit_json, emit_text, note
    from perf.data import DataOptions
    from perf.load_flags import ranges_from_flags, seconds_from_text, shapes_from_flags
    from perf.report import report_json, text_of, write_report
    from perf.sweep import check_space

    flags = {
        "model": model or None,
        "space": dict(_settings(set_)) or None,
        "variants": dict(_pairs(variant, "=", "--variant fp16=models/minilm_fp16")) or None,
        "beside": _counts(beside) or None,
        "load_model": load_model,
        "concurrency": None if concurrency is None else _numbers(concurrency),
        "rounds": rounds,
        "duration_s": None if duration is None else seconds_from_text(duration),
        "warmup_s": None if warmup is None else seconds_from_text(warmup),
        "budget_s": None if budget is None else seconds_from_text(budget),
        "objective": None if objective is None else objective.value,
        "at": at,
        "slo_p99_ms": None if slo_p99 is None else seconds_from_text(slo_p99) * 1000,
        "dollars_per_hour": dollars_per_hour,
        "max_p99_ms": None if max_p99 is None else seconds_from_text(max_p99) * 1000,
        "max_memory_mib": max_memory,
        "max_failures": max_failures,
        "max_wrong": max_wrong,
        "rtol": rtol,
        "search": None if search is None else search.value,
        "proposals": proposals,
        "batch_size": batch_size,
        "seed": seed,
        "placement": None if placement is None else placement.value,
    }
    wanted = spec_from_flags(spec, flags, output if resume else None)
    check_space(wanted)
    values = DataOptions(
        file=data, shapes=shapes_from_flags(shape or []), ranges=ranges_from_flags(range_ or [])
    )
    directory = output or Path(f"sweep-{wanted.model}")
    result = sweep_repository(wanted, repository, values, launch_kind, directory, resume=resume)
    files = write_report(result, directory)
    if format is SweepFormat.json:
        emit_json(report_json(result) | {"files": files.names()})
    else:
        emit_text(text_of(result))
    note(f"report: {files.html}")
    if not result.complete:
        note("--resume goes on from here")
    exit_for(result)


def spec_from_flags(file: Path | None, flags: dict[str, Any], resumed: Path | None = None) -> SweepSpec:
    """A sweep.yaml and flags, None where not given, → SweepSpec; flags win.

    resumed: directory of an earlier run, whose spec stands in where neither names a model.
    """
    from builder.errors import UsageError
    from perf.sweep import spec_from_mapping, spec_from_yaml

    given = {key: value for key, value in flags.items() if value is not None}
    if file is not None:
        base = spec_from_yaml(file).model_dump(exclude_unset=True)
        return spec_from_mapping(base | given)
    if "model" not in given and resumed is not None:
        from perf.resume import earlier_run

        given = {**earlier_run(resumed).spec, **given}
    if "model" not in given:
        raise UsageError("which model?", code="no_model", fix="--model NAME")
    return spec_from_mapping(given)


def _settings(flags: Sequence[str] | None) -> Iterator[tuple[str, list[Any]]]:
    from builder.errors import UsageError
    from perf.sweep import setting_from_text

    seen: set[str] = set()
    for flag in flags or ():
        path, values = setting_from_text(flag)
        if path in seen:
            raise UsageError(
                f"{path} is given twice", code="bad_setting", seen=flag, fix=f"--set {path}=V1,V2"
            )
        seen.add(path)
        yield path, values


def _pairs(flags: Sequence[str] | None, sign: str, example: str) -> Iterator[tuple[str, str]]:
    from builder.errors import UsageError

    seen: set[str] = set()
    for flag in flags or ():
        name, found, value = flag.partition(sign) if sign == "=" else flag.rpartition(sign)
        if not (name and found and value) or name in seen:
            raise UsageError("not what this flag takes", code="bad_setting", seen=flag, fix=example)
        seen.add(name)
        yield name, value


def _counts(flags: Sequence[str] | None) -> dict[str, int]:
    return {
        name: number for name, text in _pairs(flags, ":", "--beside MODEL:4") for number in _numbers(text)[:1]
    }


def _numbers(text: str) -> list[int]:
    from builder.errors import UsageError

    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(
            "load points are whole numbers", code="bad_concurrency", seen=text, fix="--concurrency 1,8,32"
        ) from None


def sweep_repository(
    spec: SweepSpec,
    repository: Path,
    data: DataOptions,
    launch_kind: str,
    output: Path,
    resume: bool = False,
) -> RunResult:
    """Launch a server for the sweep, or attach to one, and run it with a progress bar on stderr.

    A server of this machine gets a second repository for scratch models, so that arms stand side by side.
    One in a container does not see links into this machine's files, and an attached one is not ours to give
    repositories to: there the arms are loaded in place.
    """
    import tempfile
    import time

    from perf.scratch import model_directory
    from perf.server.launch import ServerSpec, kind_from_text, launch
    from perf.sweep_run import SweepOptions, run_sweep

    started_s = time.monotonic()
    kind, reference = kind_from_text(launch_kind)
    local = kind in ("embedded", "binary")
    check_output(output)
    if kind != "attached":
        model_directory([repository], spec.model)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tritonsmith-sweep-")))
        repositories = () if kind == "attached" else (repository, *([directory] if local else []))
        server_spec = ServerSpec(
            kind=kind,
            reference=reference,
            repositories=repositories,
            model_control="none" if kind == "attached" else "explicit",
        )

        def start() -> Server:
            return stack.enter_context(launch(server_spec))

        on_progress = stack.enter_context(progress_on_stderr())
        return run_sweep(
            spec,
            start(),
            SweepOptions(
                repositories=(repository,) if kind != "attached" else (),
                scratch=directory if local else None,
                output=output,
                resume=resume,
                data=data,
                restart=None if kind == "attached" else start,
                started_s=started_s,
                on_progress=on_progress,
                kind=launch_kind,
                command=shlex.join(["tritonsmith", *sys.argv[1:]]),
            ),
        )


def check_output(output: Path) -> None:
    """UsageError when the run directory would bury something that is not a run."""
    from builder.errors import UsageError, Where
    from perf.run_record import JOURNAL

    if output.exists() and not output.is_dir():
        raise UsageError("the output is not a directory", code="bad_output", where=Where(output))
    if output.is_dir() and any(output.iterdir()) and not (output / JOURNAL).exists():
        raise UsageError(
            "the output directory holds something else than a run",
            code="bad_output",
            where=Where(output),
            fix="give a new directory",
        )


@contextmanager
def progress_on_stderr() -> Iterator[Callable[[SweepProgress], None]]:
    """A bar on a terminal, else a line for each round."""
    from builder.console import note, progress, stderr_console

    if stderr_console().is_terminal:
        with progress() as bar:
            task = bar.add_task("starting the server", total=None)

            def show(step: SweepProgress) -> None:
                bar.update(task, description=step.text, completed=step.done, total=step.expected or None)

            yield show
        return
    said = ""

    def tell(step: SweepProgress) -> None:
        nonlocal said
        head = step.text.partition(",")[0]
        if head != said:
            said = head
            note(f"{head}: {step.done} of {step.expected} trials" if step.expected else head)

    yield tell


def exit_for(result: RunResult) -> None:
    """The exit code: 130 interrupted, 4 nothing meets the constraints, 1 not to be completed, else none."""
    from builder.errors import GateError, TrialError

    if result.interrupted:
        raise typer.Exit(130)
    if not result.complete:
        raise TrialError(f"the sweep did not come to its end: {result.stop_reason}", code="sweep_incomplete")
    if result.verdict.outcome == "nothing_fits":
        raise GateError(
            result.verdict.sentence.rstrip("."),
            code="nothing_meets_constraints",
            fix="loosen the constraint, or sweep other settings",
        )
    if not any(trial.summary for trial in result.trials):
        raise TrialError("every trial failed", code="all_trials_failed", seen=result.trials[-1].error)
