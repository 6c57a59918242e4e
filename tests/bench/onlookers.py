"""Trials with nobody looking on, with the table on the terminal, and with the page asked once a second → what looking on costs.

    python -m tests.bench.onlookers [--rounds 60] [--seconds 1]      # stderr is a terminal; a quiet machine

The race that is shown has 20 configs at 3 load points; the page is asked at a moment of its own in each trial, then every
second, as a browser does. The ways take turns, as the arms of a sweep do, each round in an order of its own, and `nobody`
comes twice: what the two of it differ by is what this machine can tell. Two numbers each:

- the throughput beside that of `nobody`, and how many rounds a difference of 3 % needs on this machine;
- CPU: of this process (client and drawing, by RUSAGE_SELF) an answered request, beside that of `nobody`, and of the page's
  process as a share of the machine. A rate moves with whatever else the machine does, CPU hardly: looking on cannot cost more
  throughput than the share of the machine's CPU that it takes, where server and client would have used all of it.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
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
from tritonsmith.perf.stats import Ratio, arm_ratio, fit_rounds
from tritonsmith.perf.sweep.live.follow import Follower
from tritonsmith.perf.sweep.live.race import RaceWatch
from tritonsmith.perf.sweep.plan import SweepSpec, Trial
from tritonsmith.perf.sweep.trial import measure

WAYS = ("nobody", "nobody, again", "table", "page")
TOLD = 0.03
ASK = """
import sys, time, urllib.request
print("x", end="", flush=True)
time.sleep(float(sys.argv[2]))
while True:
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/data").read()
    time.sleep(1)
"""
PORT = 18799
SHOWN = arms_of(20)


def main() -> None:
    """Print throughput beside that of `nobody`, and what looking on cost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    spec = SweepSpec(
        model=MODEL,
        space={"instance_group.count": [1, 2]},
        concurrency=(4,),
        duration_s=given.seconds,
        warmup_s=0.1,
    )
    values, cpu_us = (np.full((len(WAYS), given.rounds), np.nan) for _ in range(2))
    draws_s, pages_s, watched_s = [], 0.0, 0.0
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
                            [sys.executable, "-c", ASK, str(PORT), f"{random.Random(number).random():.3f}"],
                            stdout=subprocess.PIPE,
                        )
                        looking.enter_context(told)
                        looking.callback(told.kill)
                        assert told.stdout is not None and told.stdout.read(1), "it began"
                    before_s, ours_s, begun_s = _cpu_of_s(page.pid), _cpu_s(), time.perf_counter()
                    result = measure(subject, trial, spec, payloads)
                    ours_s = _cpu_s() - ours_s
                    if way == "page":
                        pages_s += _cpu_of_s(page.pid) - before_s
                        watched_s += time.perf_counter() - begun_s
                assert result.summary is not None and result.server is not None
                values[WAYS.index(way), round_] = result.summary.throughput_per_s.value
                cpu_us[WAYS.index(way), round_] = ours_s / max(1, result.server.requests) * 1e6
                file.write(event("trial", **json_of(trial_of(trial, 300.0))))
                file.flush()
    for words, numbers_of in (("throughput", values), ("CPU a request of this process", cpu_us)):
        table = fit_rounds(numbers_of)
        for place_of, way in enumerate(WAYS[1:], start=1):
            ratio = arm_ratio(table, place_of, [0])
            emit_text(
                f"{way:<13} {numbers.times(ratio)} ({numbers.times_span(ratio)}) of the {words} with nobody"
                f"{_needs(ratio, given.rounds)}"
            )
    emit_text(f"one drawing of 20 configs: {np.median(draws_s) * 1e3:.1f} ms of CPU, between two trials")
    share = pages_s / watched_s
    emit_text(
        f"the page's process: {share:.2%} of a core while a trial ran, {share / (os.cpu_count() or 1):.2%} of the machine"
    )


def _cpu_s() -> float:
    """Of this process, its threads included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu_of_s(pid: int) -> float:
    """Of another process, to the nanosecond: its times are in ticks of 10 ms, more than an answer takes."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _needs(ratio: Ratio, rounds: int) -> str:
    """How many rounds until the interval is TOLD to either side: its width falls with the root of them."""
    if ratio.interval is None or ratio.interval.low <= 0:
        return ""
    half = math.log(ratio.interval.high / ratio.interval.low) / 2
    needed = math.ceil(rounds * (half / math.log1p(TOLD)) ** 2)
    return f"; ±{TOLD:.0%} is told" if needed <= rounds else f"; ±{TOLD:.0%} would take {needed:,} rounds"


if __name__ == "__main__":
    main()
