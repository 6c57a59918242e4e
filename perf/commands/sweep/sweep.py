"""`tritonsmith sweep`: a repository, a model and settings → a run directory with a report, the verdict on stdout."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from tritonsmith.perf.server.launches.table import HELP as LAUNCH_HELP


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
    where: Annotated[
        str,
        typer.Argument(
            metavar="DIR|URL",
            help="A model repository, or the URL of a Triton that is running.",
            show_default=True,
        ),
    ] = "model_repository",
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="The model to sweep; default: the only one.", show_default=False),
    ] = "",
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045 - Typer reads the annotation at run time on Python 3.10
        typer.Option(
            "--set",
            metavar="PATH=V1,V2",
            help="A field of Triton's model config, or client.batch_size, and its values; may be repeated. Default: "
            "instance counts and, where requests are batched, queue delays.",
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
    variants: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR",
            help="Every variant of the model in this directory, as `build --variants DIR` lays them out.",
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
        typer.Option(
            help="The ensemble that gets the load; -m is one of its composing models, --set OTHER:PATH=… another.",
            show_default=False,
        ),
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
        typer.Option("--launch", metavar="KIND", help=LAUNCH_HELP),
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
    difference. Without --set the instance count and the queue delay are tried. Ctrl-C keeps what was measured
    and writes the report; --resume goes on from there. Exit code 4 when no arm meets the constraints.

    Examples: tritonsmith sweep model_repository/ -m minilm
              tritonsmith sweep model_repository/ -m minilm --set instance_group.count=1,2
              tritonsmith sweep model_repository/ --spec sweep.yaml --budget 120s
    """
    import shlex
    import sys
    import time

    from tritonsmith.perf.commands.load.flags import ranges_from_flags, seconds_from_text, shapes_from_flags
    from tritonsmith.perf.commands.sweep.flags import (
        counts,
        numbers,
        pairs,
        settings,
        spec_from_flags,
        with_variants_in,
    )
    from tritonsmith.perf.commands.sweep.output import emit_result, progress_on_stderr
    from tritonsmith.perf.data import DataOptions
    from tritonsmith.perf.report import write_report
    from tritonsmith.perf.sweep.run.session import sweep_target
    from tritonsmith.perf.sweep.target import only_model, target_from_text

    started_s = time.monotonic()
    flags = {
        "model": model or None,
        "space": dict(settings(set_)) or None,
        "variants": dict(pairs(variant, "=", "--variant fp16=models/minilm_fp16")) or None,
        "beside": counts(beside) or None,
        "load_model": load_model,
        "concurrency": None if concurrency is None else numbers(concurrency),
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
    target = target_from_text(where, launch_kind)
    wanted = spec_from_flags(spec, flags, output if resume else None, lambda: only_model(target))
    if variants is not None:
        wanted = with_variants_in(wanted, variants)
    values = DataOptions(
        file=data, shapes=shapes_from_flags(shape or []), ranges=ranges_from_flags(range_ or [])
    )
    directory = output or Path(f"sweep-{wanted.model}")
    with progress_on_stderr() as on_progress:
        result = sweep_target(
            wanted,
            target,
            values,
            directory,
            command=shlex.join(["tritonsmith", *sys.argv[1:]]),
            resume=resume,
            started_s=started_s,
            on_progress=on_progress,
        )
    emit_result(result, write_report(result, directory), as_json=format is SweepFormat.json)
