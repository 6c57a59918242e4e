"""A job on the command line is killed at random moments, again and again → what of its rows was lost, doubled or wrong."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.perf.batch.jobs import ask, problems_of, write_rows
from tests.perf.fake_server import fake_server

_LEAST_S = 0.8  # until a process has imported what it needs


@dataclass
class Kills:
    """kills: how many hit a running job; resumed: how many of the runs after one went on from rows that were done.

    jobs: how many were run to their end. asked_twice: rows that were sent again after a kill, of `rows` in all.
    """

    kills: int = 0
    in_the_middle: int = 0
    jobs: int = 0
    rows: int = 0
    asked_twice: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """For a table."""
        return (
            f"{self.kills} kills over {self.jobs} jobs ({self.in_the_middle} after the first answer and before the last), "
            f"{self.rows:,} rows: {len(self.problems)} lost, doubled or wrong; {self.asked_twice:,} asked twice"
        )


def kill_jobs(scratch: Path, kills: int, seed: int, rows: int = 600, delay_s: float = 0.005) -> Kills:
    """Jobs of `rows` rows, each killed up to ten times before it may end, until there were so many kills."""
    found, rng = Kills(), random.Random(seed)
    while found.kills < kills:
        directory = scratch / f"job{found.jobs}"
        directory.mkdir(parents=True)
        source = write_rows(directory / "in.jsonl", map(ask, range(rows)))
        output = directory / "out.jsonl"
        with fake_server(delay_s=delay_s) as server:
            command = [
                *(sys.executable, "-m", "tritonsmith", "batch", str(source), "-o", str(output)),
                *("--url", server.url, "--in-flight", "2", "-q"),
            ]
            for _ in range(rng.randint(1, 10)):
                if found.kills >= kills or output.exists():
                    break
                _kill(command, rng, found, server_rows=lambda: sum(server.values_seen.values()), rows=rows)
            ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
            is_done = output.exists() and ended.returncode in (0, 2)
            found.problems += (
                problems_of(output, rows) if is_done else [f"{ended.returncode}: {ended.stderr[-300:]}"]
            )
            left = sorted(path.name for path in directory.iterdir())
            found.problems += (
                [] if left == ["in.jsonl", "out.jsonl"] or ended.returncode else [f"left behind: {left}"]
            )
            seen = server.values_seen
            found.problems += [f"row {n} was never asked" for n in range(rows) if not seen[float(n)]][:5]
            found.asked_twice += sum(count - 1 for count in seen.values())
        found.jobs, found.rows = found.jobs + 1, found.rows + rows
    return found


def _kill(command: list[str], rng: random.Random, found: Kills, server_rows: object, rows: int) -> None:
    assert callable(server_rows)
    before = server_rows()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Every other kill is aimed: it comes after the first answers of this run.
    if rng.random() < 0.5:
        until = before + rng.randint(1, max(2, rows // 3))
        while server_rows() < until and process.poll() is None:
            time.sleep(0.002)
    else:
        time.sleep(rng.uniform(0.0, 2 * _LEAST_S))
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        found.kills += 1
        found.in_the_middle += before < server_rows() and server_rows() < rows + before
    process.wait(30)
