"""Trials with nobody looking on, with the table on the terminal, and with the page asked once a second → their throughput.

    python -m tests.bench.onlookers [--rounds 25] [--seconds 0.5]      # stderr is a terminal

The race that is shown has 20 configs at 3 load points. The three ways take turns, as the arms of a sweep do, and are compared
as they are: with an interval.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil

from tests.bench.live_arms import live_arms
from tests.bench.tiny_server import MODEL, payload_for
from tests.perf.sweep.live_runs import arms_of, begun, event, journal, trial_of
from tritonsmith.builder.base.text.console import emit_text
from tritonsmith.builder.base.text.progress import pictured
from tritonsmith.perf.commands.sweep.live_table import live_lines
from tritonsmith.perf.commands.sweep.watch import WatchFlags, watched
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.report import numbers
from tritonsmith.perf.stats import arm_ratio, fit_rounds
from tritonsmith.perf.sweep.live.follow import Follower
from tritonsmith.perf.sweep.live.race import RaceWatch
from tritonsmith.perf.sweep.plan import SweepSpec, Trial
from tritonsmith.perf.sweep.trial import measure

WAYS = ("nobody", "table", "page")
ASK = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/data").read()
    print("x", end="", flush=True)
    time.sleep(1)
"""
PORT = 18799
SHOWN = arms_of(20)


def main() -> None:
    """Print throughput beside that of `nobody`, and what looking on cost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.5)
    given = parser.parse_args()
    spec = SweepSpec(
        model=MODEL,
        space={"instance_group.count": [1, 2]},
        concurrency=(4,),
        duration_s=given.seconds,
        warmup_s=0.1,
    )
    values = np.full((len(WAYS), given.rounds), np.nan)
    draws_s, pages_s = [], 0.0
    with live_arms(spec) as (arm_server, arms), tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        directory = Path(place)
        subject, payloads = arm_server.subject(arms[0]), [payload_for(MODEL)]
        watch = RaceWatch(Follower(directory))
        stack.enter_context(watched(directory, WatchFlags(watch_port=PORT)))
        file = stack.enter_context((directory / "run.jsonl").open("w"))
        file.writelines([*journal(SHOWN, {"arm02": 1.2}, rounds=4)][:-1])
        file.flush()
        (page,) = (p for p in psutil.Process().children() if "watch_page" in " ".join(p.cmdline()))
        time.sleep(3.0)  # it has started

        def lines(columns: int, height: int) -> list[str]:
            race = watch.look()
            return [] if race is None else live_lines(race, columns, height)

        number = 1000
        for round_ in range(given.rounds):
            for way in random.Random(round_).sample(WAYS, len(WAYS)):
                number += 1
                trial = Trial(number, 4 + round_, SHOWN[number % len(SHOWN)].id, 8)
                file.write(begun(trial, "round 5, concurrency 8: count 2", number, 9999))
                file.flush()
                with ExitStack() as looking:
                    if way == "table":
                        draw = looking.enter_context(pictured(lines))
                        begun_s = time.thread_time()
                        draw()
                        draws_s.append(time.thread_time() - begun_s)
                    if way == "page":
                        told = subprocess.Popen(
                            [sys.executable, "-c", ASK, str(PORT)], stdout=subprocess.PIPE
                        )
                        looking.enter_context(told)
                        looking.callback(told.kill)
                        assert told.stdout is not None and told.stdout.read(1), "it asks"
                    before_s = sum(page.cpu_times()[:2])
                    result = measure(subject, trial, spec, payloads)
                    if way == "page":
                        pages_s += sum(page.cpu_times()[:2]) - before_s
                assert result.summary is not None
                values[WAYS.index(way), round_] = result.summary.throughput_per_s.value
                file.write(event("trial", **json_of(trial_of(trial, 300.0))))
                file.flush()
    table = fit_rounds(values)
    for place_of, way in enumerate(WAYS[1:], start=1):
        ratio = arm_ratio(table, place_of, [0])
        emit_text(
            f"{way:<6} {numbers.times(ratio)} ({numbers.times_span(ratio)}) of the throughput with nobody"
        )
    emit_text(f"one drawing of 20 configs: {np.median(draws_s) * 1e3:.1f} ms of CPU, between two trials")
    emit_text(
        f"the page's process: {pages_s / given.rounds / (given.seconds + 0.1):.2%} of a core while a trial ran"
    )


if __name__ == "__main__":
    main()
