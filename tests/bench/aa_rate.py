"""Sweeps over identical configs on a live server → how often a winner is named, which is never right.

    python -m tests.bench.aa_rate [--sweeps 40] [--arms 4] [--rounds 4] [--seconds 0.15]

The arms differ in a parameter that the backend does not read. They are loaded once, side by side; each sweep
is planned, ordered, measured and judged as `tritonsmith sweep` does it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter

from tests.bench.live_arms import live_arms, measure_sweep
from tests.bench.tiny_server import MODEL, payload_for
from tritonsmith.builder.base.text.console import emit_text
from tritonsmith.perf.sweep.plan import SweepSpec


def main() -> None:
    """Print one line a sweep, then the rate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=40)
    parser.add_argument("--arms", type=int, default=4, help="beside the A/A pair")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[4])
    given = parser.parse_args()
    spec = SweepSpec.model_validate(
        {
            "model": MODEL,
            "space": {"parameters.label.string_value": [str(i) for i in range(given.arms)]},
            "concurrency": given.concurrency,
            "rounds": given.rounds,
            "duration_s": given.seconds,
            "warmup_s": 0.05,
        }
    )
    began_s = time.monotonic()
    outcomes: Counter[str] = Counter()
    with live_arms(spec) as (arm_server, arms):
        emit_text(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {len(arms)} arms alike")
        for number in range(given.sweeps):
            verdict, _ = measure_sweep(
                replace_seed(spec, number), arm_server, arms, lambda arm, trial: [payload_for(MODEL)]
            )
            outcomes[verdict.outcome] += 1
            emit_text(f"{number + 1:3d}  {verdict.sentence}")
    text = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    wrong = outcomes["winner"]
    emit_text(
        f"{given.sweeps} sweeps in {time.monotonic() - began_s:.0f} s: {text}; "
        f"a winner among identical configs: {wrong} of {given.sweeps} ({wrong / given.sweeps:.0%})"
    )


def replace_seed(spec: SweepSpec, seed: int) -> SweepSpec:
    """The same sweep in another order."""
    return spec.model_copy(update={"seed": seed})


if __name__ == "__main__":
    main()
