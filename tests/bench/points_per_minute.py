"""`tritonsmith sweep` over 5 configs × 5 load points, as a user runs it → wall time and seconds a point.

    python -m tests.bench.points_per_minute [--rounds 2] [--duration 300ms] [--placement auto]

The space is the one of the peer's run in docs/performance.md: instance count 1–2 × max_batch_size 16, 32 beside
the current config, concurrency 1 to 16.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.tiny_server import MODEL, write_model
from tritonsmith.builder.base.text.console import emit_text
from tritonsmith.perf.sweep.run_record import load_run


def main() -> None:
    """Print the verdict, the wall time and what a point took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--duration", default="300ms")
    parser.add_argument("--placement", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        repository, output = Path(directory) / "model_repository", Path(directory) / "run"
        repository.mkdir()
        write_model(repository)
        command = [
            sys.executable, "-m", "tritonsmith", "sweep", str(repository), "--model", MODEL,
            "--set", "instance_group.count=1,2", "--set", "max_batch_size=8,16",
            "--concurrency", "1,2,4,8,16", "--rounds", str(given.rounds), "--duration", given.duration,
            "--warmup", "100ms", "--placement", given.placement, "--output", str(output),
        ]  # fmt: skip
        emit_text(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
        began_s = time.monotonic()
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        wall_s = time.monotonic() - began_s
        run = load_run(output)
        points = len(run.arms) * len(run.spec.concurrency)
        emit_text(f"exit code {done.returncode}; {run.verdict.sentence}")
        emit_text(
            f"{len(run.arms)} arms × {len(run.spec.concurrency)} load points = {points} points, "
            f"{len(run.trials)} trials ({run.environment['placement']}) in {wall_s:.1f} s: "
            f"{wall_s / points:.2f} s a point, {wall_s / len(run.trials):.2f} s a trial"
        )


if __name__ == "__main__":
    main()
