"""Does every fault really, and prints what became of it: fault | times | next run succeeded | what a server saw.

    python -m tests.bench.reliability [ROW ...] [--kills 50] [--times 10] [--seed 6] [--scratch DIR]

With no name every row is made, which takes 20 to 30 minutes on two cores. Exits with 1 when a fault was not survived.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.bench import damage, kills, stores
from tests.bench.ground import ROOT, Row
from tests.bench.kills import Tell, fresh
from tritonsmith.builder.base.text import console
from tritonsmith.builder.base.text.console import emit_document, emit_json, is_drawable, note, progress

_LINE_EVERY_S = 60.0

Make = Callable[[Path, int, int, Tell], list[Row]]
"""(empty directory, times, seed, tell) → rows"""

# Name → (what makes it, whether it is one of many kills, whether it mounts and so needs a namespace of its own).
ROWS: dict[str, tuple[Make, bool, bool]] = {
    "build-kill": (kills.kill_builds, True, False),
    "publish-kill": (kills.kill_publishes, True, False),
    "first-build-kill": (kills.kill_first_builds, False, False),
    "two-builds": (kills.two_builds, False, False),
    "local-cache": (damage.local_cache, False, False),
    "shared-cache": (damage.shared_cache, False, False),
    "full-disk": (damage.full_disks, False, True),
    "read-only": (damage.read_only, False, True),
    "s3-build": (stores.errors_of_a_build, False, False),
    "s3-publish": (stores.errors_of_a_publish, False, False),
    "two-publishers": (stores.two_publishers, False, False),
    "two-machines": (stores.two_machines, False, False),
}


def main() -> int:
    """Make the rows, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.reliability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("row", nargs="*", help=", ".join(ROWS))
    parser.add_argument("--kills", type=int, default=50, help="of build and of publish")
    parser.add_argument("--times", type=int, default=10, help="each fault that has no number of its own")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--scratch", type=Path, help="default: a directory that is removed at the end")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    given = parser.parse_args()
    unknown = [name for name in given.row if name not in ROWS]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(ROWS)}")
    with tempfile.TemporaryDirectory(prefix="tritonsmith-reliability-") as temporary:
        scratch = (given.scratch or Path(temporary)).absolute()
        rows = [row for name in given.row or ROWS for row in _made(name, given, scratch)]
    if given.json:
        emit_json([asdict(row) for row in rows])
        return 0
    emit_document("| fault | times | next run succeeded | what a server saw |\n|---|---:|---:|---|")
    for row in rows:
        emit_document(row.line)
    emit_document(
        f"\nseed {given.seed}; {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end"
    )
    for row in rows:
        for problem in row.problems:
            emit_document(f"NOT SURVIVED: {row.fault}: {problem}")
    return 1 if any(row.problems for row in rows) else 0


def _made(name: str, given: argparse.Namespace, scratch: Path) -> list[Row]:
    make, is_kill, mounts = ROWS[name]
    times = given.kills if is_kill else given.times
    started = time.monotonic()
    if mounts and "TRITONSMITH_MAY_MOUNT" not in os.environ:
        rows = _in_namespace(name, given, scratch)
    else:
        with progress(name) as bar:
            rows = make(fresh(scratch / name), times, given.seed, partial(_tell, bar, [started]))
    for row in rows:
        survived = "survived" if not row.problems else f"NOT SURVIVED: {row.problems[0]}"
        note(f"{name}: {row.times} times in {time.monotonic() - started:.0f} s, {survived}")
    return rows


def _tell(bar: console.Tell, told_s: list[float], what: str, done: int, total: int) -> None:
    """A bar on a terminal, a line a minute elsewhere."""
    bar(what, done, total)
    if not is_drawable(sys.stderr) and time.monotonic() - told_s[0] > _LINE_EVERY_S:
        told_s[0] = time.monotonic()
        note(f"{what}: {done} of {total}")


def _in_namespace(name: str, given: argparse.Namespace, scratch: Path) -> list[Row]:
    """The row by a child that may mount small and read-only file systems which nobody else sees."""
    command = [sys.executable, "-m", "tests.bench.reliability", name, "--json"]
    command += ["--times", str(given.times), "--seed", str(given.seed), "--scratch", str(scratch)]
    try:
        done = subprocess.run(
            ["unshare", "-Urm", *command],
            cwd=ROOT,
            env={**os.environ, "TRITONSMITH_MAY_MOUNT": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        return [Row(name, seen="not done: no `unshare` here")]
    if done.returncode:
        return [Row(name, seen=f"not done: exit code {done.returncode}", problems=["the row broke off"])]
    return [Row(**row) for row in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(main())
