"""The flags of `tritonsmith sweep` that make its spec and data, as they are typed: None where not given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from typer import Option


@dataclass(frozen=True, slots=True)
class SweepFlags:
    """What is swept, and with which values; perf.commands.sweep.flags has the spec's key of each."""

    model: Annotated[
        str | None, Option("--model", "-m", help="The model to sweep; default: the only one.")
    ] = None
    set_: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="PATH=V1,V2",
            help="A field of Triton's model config, or client.batch_size, and its values; may be repeated. Default: "
            "instance counts and, where requests are batched, queue delays.",
        ),
    ] = None
    spec: Annotated[Path | None, Option(help="A sweep.yaml; flags given beside it win.")] = None
    concurrency: Annotated[
        str | None, Option("--concurrency", "-c", help="Load points.  [default: 1,8,32]")
    ] = None
    rounds: Annotated[int | None, Option(min=1, help="Default: 4, or with --budget as many as fit.")] = None
    duration: Annotated[str | None, Option(help="Of one measurement.  [default: 1s]")] = None
    warmup: Annotated[str | None, Option(help="Before each measurement.  [default: 200ms]")] = None
    budget: Annotated[str | None, Option(help="Wall-clock time for the whole sweep (60s).")] = None
    objective: Annotated[
        Literal["throughput", "p50", "p90", "p99", "cost", "energy"] | None,
        Option(help="What is to be best.  [default: throughput]"),
    ] = None
    at: Annotated[int | None, Option(help="Load point of a latency objective.  [default: the largest]")] = (
        None
    )
    slo_p99: Annotated[
        str | None,
        Option(
            help="Find each arm's highest request rate with p99 within this (20ms), instead of --concurrency."
        ),
    ] = None
    dollars_per_hour: Annotated[float | None, Option(help="Price of the server, for --objective cost.")] = (
        None
    )
    max_p99: Annotated[str | None, Option(help="Constraint: p99 latency (20ms).")] = None
    max_memory: Annotated[
        float | None,
        Option(metavar="MIB", help="Constraint: memory of the server and the arm's instances."),
    ] = None
    max_failures: Annotated[
        float | None, Option(help="Constraint: share of failed requests.  [default: 0.01]")
    ] = None
    max_wrong: Annotated[
        float | None,
        Option(help="Constraint: share of wrong answers; checks answers by the outputs in --data."),
    ] = None
    rtol: Annotated[float | None, Option(help="With --max-wrong: relative tolerance.  [default: 0.001]")] = (
        None
    )
    variant: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=DIR",
            help="Another model directory with the same inputs and outputs, as an arm; may be repeated.",
        ),
    ] = None
    variants: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Every variant of the model in this directory, as `build --variants DIR` lays them out.",
        ),
    ] = None
    beside: Annotated[
        list[str] | None,
        Option(
            metavar="MODEL:N",
            help="Another model under load all the time at concurrency N; may be repeated.",
        ),
    ] = None
    load_model: Annotated[
        str | None,
        Option(
            help="The ensemble that gets the load; -m is one of its composing models, --set OTHER:PATH=… another."
        ),
    ] = None
    search: Annotated[
        Literal["auto", "grid", "optuna", "random"] | None,
        Option(help="All combinations, or proposals.  [default: grid up to 200 combinations]"),
    ] = None
    proposals: Annotated[
        int | None, Option(min=2, help="Combinations that a search measures.  [default: 24]")
    ] = None
    batch_size: Annotated[int | None, Option("--batch-size", "-b", min=1, help="Rows a request.")] = None
    data: Annotated[Path | None, Option(help="Input values, as in `load`; drawn by default.")] = None
    shape: Annotated[
        list[str] | None, Option(help="NAME:D1,D2 without the batch; a dimension may be LOW..HIGH.")
    ] = None
    range_: Annotated[
        list[str] | None, Option("--range", help="NAME:LOW..HIGH of the values that are drawn.")
    ] = None
    seed: Annotated[int | None, Option(help="Of the order of trials and the data.  [default: 0]")] = None
    placement: Annotated[
        Literal["auto", "side_by_side", "in_place"] | None,
        Option(help="Arms as scratch models side by side, or in place.  [default: auto]"),
    ] = None
