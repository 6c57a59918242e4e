"""`tritonsmith batch` on the demo's models → its rate beside `load`'s best, what sorting saves, memory, kills.

    python -m tests.bench.batch_jobs [rate] [order] [memory] [kills] [--repository DIR] [--rows 20000] [--rounds 3]

Without parts, all of them. `rate` is README's row. The demo's repository is built when none is named.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tests import onnx_models
from tests.conftest import ROOT
from tests.perf.batch.kills import kill_jobs
from tritonsmith.builder.base.text.console import emit_text
from tritonsmith.perf.batch.job import BatchJob, run_batch
from tritonsmith.perf.batch.place import Question, asked_of
from tritonsmith.perf.batch.result import BatchResult
from tritonsmith.perf.batch.rows.asks import Plain
from tritonsmith.perf.batch.rows.lines import lines_of
from tritonsmith.perf.batch.sending.pack import Packer
from tritonsmith.perf.data.options import DataOptions
from tritonsmith.perf.load.load_test import LoadTest, ServedAt, run_load_test, server_at
from tritonsmith.perf.records.schedule import Closed

PARTS = ("rate", "order", "memory", "kills")
LEVELS = (1, 2, 4, 8)
WORDS = (
    *("the", "a", "model", "server", "batch", "request", "answers", "rows", "of", "text", "length"),
    *("token", "river", "stone", "light", "city", "under", "over"),
)


def main() -> None:
    """Print a table a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), default=[])
    parser.add_argument("--repository", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", type=int, default=128, help="requests by which the best level is found")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for part in given.parts or PARTS:
            emit_text(f"\n{part}")
            for line in globals()[f"_{part}"](given, scratch):
                emit_text(line)


# Rows.


def sentences(path: Path, count: int) -> Path:
    """Texts of 3 to 60 words, most of them short, as most texts are."""
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            words = min(60, max(3, round(rng.lognormvariate(2.4, 0.7))))
            text = " ".join(rng.choices(WORDS, k=words))
            file.write(json.dumps({"id": str(number), "TEXT": text}) + "\n")
    return path


def tokens(path: Path, count: int) -> Path:
    """Token ids of 5 to 128, so many as the sentences have."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for number in range(count):
            length = int(np.clip(rng.lognormal(2.6, 0.7), 5, 128))
            ids = rng.integers(1000, 28000, length).tolist()
            file.write(
                json.dumps({"id": str(number), "input_ids": ids, "attention_mask": [1] * length}) + "\n"
            )
    return path


def demo_repository(given: argparse.Namespace, scratch: Path) -> Path:
    """The demo's text models, built when no repository is named."""
    if given.repository is not None:
        return Path(given.repository)
    into = scratch / "model_repository"
    command = [sys.executable, "-m", "tritonsmith", "build", "minilm", "sentences", "--repository", str(into)]
    subprocess.run(
        [*command, "--spec", str(ROOT / "examples/demo/models.yaml")], check=True, cwd=ROOT / "examples/demo"
    )
    return into


# Parts.


def _rate(given: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """The job's rate against closed loops that send the very requests that the job packs, each once.

    Which level is the best is found before the rounds, so that the best of each round is not the luckiest one of them.
    """
    with server_at(str(demo_repository(given, scratch))) as served:
        for model, make in (("minilm", tokens), ("sentences", sentences)):
            source = make(scratch / f"{model}.jsonl", given.rows)
            requests = packed_requests(source, model, served, scratch / model)
            tried: dict[int, list[float]] = {level: [] for level in LEVELS}
            for _ in range(given.rounds):
                for level, rates in tried.items():
                    rates.append(_load(served, model, requests, level, given.part))
            best = max(LEVELS, key=lambda level: statistics.median(tried[level]))
            done, loads = [], []
            for number in range(given.rounds):
                for arm in ("load", "job") if number % 2 else ("job", "load"):
                    if arm == "job":
                        done.append(_job(source, scratch / f"{model}{number}.jsonl", model, served))
                    else:
                        loads.append(_load(served, model, requests, best, len(requests)))
            ratios = [one.rows_per_s / rate for one, rate in zip(done, loads, strict=True)]
            widths = ", ".join(str(one.in_flight) for one in done)
            levels = ", ".join(f"{statistics.median(rates):,.0f} at {n}" for n, rates in tried.items())
            yield f"{model}: load's rows/s by requests in flight: {levels}"
            yield (
                f"{model}: {given.rows:,} rows at {statistics.median(one.rows_per_s for one in done):,.0f} rows/s, "
                f"load at {best} {statistics.median(loads):,.0f}: "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; wanted ≥ 0.95); "
                f"{widths} in flight, {done[0].requests:,} requests, "
                f"checked in {statistics.median(one.check_s for one in done):.1f} s"
            )


def packed_requests(source: Path, model: str, served: ServedAt, into: Path) -> list[Path]:
    """The job's own requests as files that `load` sends."""
    asked = asked_of(Question(Plain(model)), None, served, None)
    packer = Packer((asked.reader.row(line) for line in lines_of(source)), asked.reader.most_rows or 1)
    into.mkdir()
    files: list[Path] = []
    while packed := packer.next():
        arrays = {
            name: np.concatenate([row.arrays[name] for row in packed.rows]) for name in packed.rows[0].arrays
        }
        given: dict[str, Any] = {n: _decoded(a) if a.dtype == object else a for n, a in arrays.items()}
        files.append(into / f"{len(files):06}.npz")
        np.savez(files[-1], **given)
    return files


def _decoded(array: Any) -> Any:
    return np.array([value.decode() for value in array.ravel()]).reshape(array.shape)


def _load(served: ServedAt, model: str, files: list[Path], level: int, count: int) -> float:
    """Rows a second of the first so many requests, each sent once."""
    part = files[0].parent.with_name(f"{files[0].parent.name}-{count}")
    if not part.is_dir():
        part.mkdir()
        for file in files[:count]:
            os.link(file, part / file.name)
    test = LoadTest(
        model,
        Closed(level),
        duration_s=None,
        requests=min(count, len(files)),
        data=DataOptions(file=part, pool=count),
        validate_every=0,
    )
    summary = run_load_test(served.http_url, served.known_to(test)).summary
    return float(summary.throughput_per_s.value or 0.0)


def _job(source: Path, output: Path, model: str, served: ServedAt, **changes: Any) -> BatchResult:
    return run_batch(BatchJob(source, output, served.http_url, Question(Plain(model)), **changes))


def _order(given: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """Sorted by length against the order of the input, interleaved."""
    rows = min(given.rows, 4000)
    with server_at(str(demo_repository(given, scratch))) as served:
        for model, make in (("minilm", tokens), ("sentences", sentences)):
            source = make(scratch / f"order-{model}.jsonl", rows)
            ratios = []
            for number in range(given.rounds):
                done = {
                    by: _job(source, scratch / f"{model}-{number}-{by}.jsonl", model, served, by_length=by)
                    for by in (True, False)
                }
                ratios.append(done[True].rows_per_s / done[False].rows_per_s)
            yield (
                f"{model}: {rows:,} rows of mixed lengths sorted by length: {statistics.median(ratios):.2f}× the rate of the "
                f"order of the input ({min(ratios):.2f} to {max(ratios):.2f}); "
                f"{done[True].requests:,} requests instead of {done[False].requests:,}"
            )


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The highest resident memory until the process ends; what wait4 tells has the parent's in it."""
    highest = 0.0
    while process.poll() is None:
        with suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            lines = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
            highest = max([highest, *(int(kib) / 1024 for kib in lines)])
        time.sleep(0.02)
    return highest


def _memory(given: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """The highest resident memory of the command at ten times the rows."""
    onnx_models.add_model(scratch / "tiny", "m", onnx_models.affine(["n", 4]), "max_batch_size: 64")
    peaks = {}
    with server_at(str(scratch / "tiny")) as served:
        for rows in (20_000, 200_000):
            source, output = scratch / f"{rows}.jsonl", scratch / f"{rows}.out.jsonl"
            with source.open("w") as file:
                file.writelines(f'{{"id":"{number}","x":[0,1,2,3]}}\n' for number in range(rows))
            command = [
                sys.executable,
                "-m",
                "tritonsmith",
                "batch",
                str(source),
                "-o",
                str(output),
                "-m",
                "m",
                "-q",
            ]
            process = subprocess.Popen([*command, "--url", served.http_url], stdout=subprocess.DEVNULL)
            peaks[rows] = peak_mib(process)
            yield f"{rows:,} rows: {peaks[rows]:,.0f} MiB at most, exit {process.returncode}"
    more = peaks[200_000] - peaks[20_000]
    yield f"180,000 rows more: {more:+,.0f} MiB ({more * 2**20 / 180_000:.0f} bytes a row)"


def _kills(given: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """For docs/reliability.md."""
    found = kill_jobs(scratch / "kills", 50, seed=0)
    yield found.text
    yield from found.problems


if __name__ == "__main__":
    main()
