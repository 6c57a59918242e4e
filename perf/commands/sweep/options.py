"""The flags of `tritonsmith sweep`, as they are typed, None where not given: one frozen dataclass a panel of its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tritonsmith.perf.commands.flattened import flag


@dataclass(frozen=True, slots=True)
class SweepFlags:
    """What is swept, at which loads, for how long; perf.commands.sweep.flags has the spec's key of each flag."""

    model: str | None = flag(None, "The model to sweep; default: the only one.", "--model", "-m")
    set_: list[str] | None = flag(
        None,
        "A field of Triton's model config, client.batch_size, or engine.ARGUMENT of a language model, and its values; "
        "may be repeated; default: instance counts and, where requests are batched, queue delays; of a language model "
        "engine.max_num_seqs.",
        "--set",
        metavar="PATH=V1,V2",
    )
    concurrency: str | None = flag(
        None, "Load points: requests in flight.  [default: 1,8,32]", "--concurrency", "-c"
    )
    budget: str | None = flag(None, "Wall-clock time for the whole sweep (60s).")
    spec: Path | None = flag(None, "A sweep.yaml; flags given beside it win.", "--sweep-spec", "--spec")


@dataclass(frozen=True, slots=True)
class ArmFlags:
    """What stands beside the current config, and which combinations are measured."""

    PANEL: ClassVar[str] = "Arms"

    variant: list[str] | None = flag(
        None,
        "Another model directory with the same inputs and outputs, as an arm; may be repeated.",
        metavar="NAME=DIR",
    )
    variants: Path | None = flag(
        None,
        "Every variant of the model in this directory, as `build --variants DIR` lays them out.",
        metavar="DIR",
    )
    load_model: str | None = flag(
        None,
        "The ensemble that gets the load; -m is one of its composing models, --set OTHER:PATH=… another.",
    )
    beside: list[str] | None = flag(
        None, "Another model under load all the time at concurrency N; may be repeated.", metavar="MODEL:N"
    )
    search: Literal["auto", "grid", "optuna", "random"] | None = flag(
        None,
        "Measure all combinations (grid), or those that a search proposes.  [default: grid up to 200 combinations]",
    )
    proposals: int | None = flag(None, "Combinations that a search measures.  [default: 24]", min=2)
    placement: Literal["auto", "side_by_side", "in_place"] | None = flag(
        None, "Whether arms are loaded beside each other, as scratch models, or in place.  [default: auto]"
    )


@dataclass(frozen=True, slots=True)
class VerdictFlags:
    """What is better, and what is not taken whatever it gives."""

    PANEL: ClassVar[str] = "Verdict"

    objective: Literal["throughput", "p50", "p90", "p99", "ttft", "itl", "cost", "energy"] | None = flag(
        None, "What is to be best.  [default: throughput]"
    )
    at: int | None = flag(None, "Compare at this load point only.  [default: at each]")
    margin: float | None = flag(None, "A difference below this share does not matter.  [default: 0.05]")
    slo_p99: str | None = flag(
        None, "Find each arm's highest request rate with p99 within this (20ms), instead of --concurrency."
    )
    dollars_per_hour: float | None = flag(None, "Price of the server, for --objective cost.")
    max_p99: str | None = flag(None, "Constraint: p99 latency (20ms).")
    max_memory: float | None = flag(
        None, "Constraint: memory of the server and the arm's instances.", metavar="MIB"
    )
    max_failures: float | None = flag(None, "Constraint: share of failed requests.  [default: 0.01]")
    max_wrong: float | None = flag(
        None, "Constraint: share of wrong answers; checks answers by the outputs in --data."
    )
    answers: Literal["same", "any"] | None = flag(
        None, "same: an arm whose answers differ from the current config's is excluded.  [default: same]"
    )
    rtol: float | None = flag(None, "Relative tolerance between answers of floats.  [default: 0.001]")


@dataclass(frozen=True, slots=True)
class RoundFlags:
    """How often and how long each arm is measured."""

    PANEL: ClassVar[str] = "Rounds"

    rounds: int | None = flag(
        None, "Rounds of the sweep.  [default: 4, or with --budget as many as fit]", min=1
    )
    duration: str | None = flag(None, "Time of one measurement (500ms, 5s, 2m).  [default: 1s]")
    warmup: str | None = flag(None, "Time before each measurement.  [default: 200ms]")
    seed: int | None = flag(None, "Seed of the order of trials and of the data.  [default: 0]")


@dataclass(frozen=True, slots=True)
class PayloadFlags:
    """What is sent."""

    PANEL: ClassVar[str] = "Data"

    batch_size: int | None = flag(
        None, "Rows of each request; default: 1, or as the data has them.", "--batch-size", "-b", min=1
    )
    data: Path | None = flag(None, "Input values, as in `load`; default: values are drawn.")
    shape: list[str] | None = flag(None, "NAME:D1,D2 without the batch; a dimension may be LOW..HIGH.")
    range_: list[str] | None = flag(None, "NAME:LOW..HIGH of the values that are drawn.", "--range")
    repeat: str | None = flag(
        None,
        "How requests repeat, as in `load`.  [default: 0 where an arm has a response cache, else pool]",
    )
    isl: int | None = flag(None, "Of a language model: words of each request's text.  [default: 64]", min=1)
    osl: int | None = flag(None, "Of a language model: tokens of each answer.  [default: 64]", min=1)
    shared_prefix: int | None = flag(
        None, "Of those words, how many all requests begin with.  [default: 0]", min=0
    )


@dataclass(frozen=True, slots=True)
class RunFlags:
    """How a sweep goes about a run that is there already, and a server that others share."""

    PANEL: ClassVar[str] = "Run"

    resume: bool = flag(
        False,
        "Continue the run in --output, as it was asked for: finished trials of the same content are reused.",
        "--resume",
    )
    overwrite: bool = flag(
        False, "Replace the run in --output by a new one; other files there stay.", "--overwrite"
    )
    wait: bool = flag(False, "Wait for another sweep of the same running server to end.", "--wait")
    break_lock: bool = flag(
        False,
        "Sweep a server that a sweep on another machine holds, which cannot be seen from here.",
        "--break-lock",
    )
    restore: bool = flag(
        False, "Only restore what a sweep that was killed left changed on the server at URL.", "--restore"
    )
