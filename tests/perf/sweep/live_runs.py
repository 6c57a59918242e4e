"""A sweep's trials with values of one's choice → the lines of its journal, as the sweep writes them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.perf.report.test_report import ENVIRONMENT, summary
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.stats import Estimate
from tritonsmith.perf.sweep.live.follow import STEP, Step
from tritonsmith.perf.sweep.plan import Arm, SweepSpec, Trial
from tritonsmith.perf.sweep.trial import TrialResult

SPEC = SweepSpec(
    model="crepe", space={"instance_group.count": [1, 2]}, concurrency=(1, 8, 32), rounds=4, budget_s=60.0
)
SUMMARY = summary(300.0, 0)


def arms_of(others: int, label: Callable[[int], str] = "count {}".format) -> tuple[Arm, ...]:
    """The A/A pair and so many others."""
    pair = [
        Arm(f"arm0{i}", text, {}, {}, True)
        for i, text in enumerate(("current config", "current config, again"))
    ]
    return (
        *pair,
        *(Arm(f"arm{i:02d}", label(i), {"instance_group.count": i}, {}) for i in range(2, 2 + others)),
    )


def trial_of(trial: Trial, per_s: float) -> TrialResult:
    """A trial that measured this throughput."""
    estimate = Estimate(per_s, None, None)
    return TrialResult(trial, replace(SUMMARY, throughput_per_s=estimate), None, None, 1.2)


def event(kind: str, **fields: Any) -> str:
    """One line of a journal."""
    return json.dumps({"event": kind, **fields}) + "\n"


def begun(trial: Trial, text: str, done: int, expected: int) -> str:
    """The line of a trial that begins."""
    step = Step(
        text=text, done=done, expected=expected, used_s=4 + 1.2 * done, unix_s=time.time(),
        arm_id=trial.arm_id, confirms=trial.confirms, settles=trial.settles,
    )  # fmt: skip
    return event(STEP, **json_of(step))


def start_of(spec: SweepSpec, arms: tuple[Arm, ...]) -> str:
    """The first line."""
    return event(
        "start",
        spec=spec.model_dump(mode="json"),
        environment=ENVIRONMENT,
        arms=[json_of(arm) for arm in arms],
        notes=["Arms stood side by side: there is room."],
        content={},
    )


def journal(
    arms: tuple[Arm, ...], gains: Mapping[str, float], rounds: int = 3, spec: SweepSpec = SPEC
) -> Iterator[str]:
    """The lines of a whole sweep. gains: arm → its factor at every load point; 1 where it has none."""
    yield start_of(spec, arms)
    expected, number = rounds * len(arms) * len(spec.concurrency), 0
    for round_ in range(rounds):
        for point in spec.concurrency:
            for arm in arms:
                trial = Trial(number, round_, arm.id, point)
                yield begun(trial, f"round {round_ + 1}, concurrency {point}: {arm.label}", number, expected)
                # Two of the current config are a little apart, and no two rounds are the same.
                value = (
                    300.0
                    * gains.get(arm.id, 1.0)
                    * (1 + 0.003 * ((7 * number + 3 * round_ * round_) % 11))
                    * (1 + round_ / 50)
                )
                yield event("trial", **json_of(trial_of(trial, value)))
                number += 1
    yield event(
        "end", stop_reason=f"all {rounds} rounds were measured", complete=True, interrupted=False, wall_s=99.0
    )


def write(directory: Path, lines: Iterator[str] | list[str]) -> Path:
    """The directory, with the lines as its journal."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.jsonl").write_text("".join(lines))
    return directory
