"""Builds random ONNX graphs, serves them, asks them from many threads, and holds each row's answer against ONNX Runtime.

    python -m tests.bench.graphs [--graphs 500] [--first 0] [--seed 1] [--piece 50]

A graph is built either with a stated max_batch_size, where rows that mix are to be refused, or with none, where they
are to turn batching off. What is served is asked over HTTP and gRPC by eight threads, requests of one to four rows, while
a queue delay makes the server merge them. ONNX Runtime answers each row alone where the model is batched, and each
request where it is not. Every answer that differs without a word of the build is a wrong answer, and exits with 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from tests.bench.wide_graphs import Wide, request, wide_graph
from tritonsmith.builder.base.tensors import DTYPES
from tritonsmith.builder.base.text.console import emit_text, note
from tritonsmith.builder.build.build import BuildOptions, build
from tritonsmith.builder.build.results import BuildResult, ModelOutcome
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.perf.server.launch import Server, ServerSpec, launch

THREADS = 8
_WIRE = {np.dtype(d.numpy): d.kserve for d in DTYPES if d.numpy is not None}
LARGEST = 4
# Of a row's length, as an export is held to; integers, booleans and strings are the same.
_ALLOWED = {"float16": 4e-3, "float32": 2e-4, "float64": 2e-4}


@dataclass
class Tally:
    """What became of the graphs."""

    graphs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unbatched: int = 0
    noted: int = 0
    served: int = 0
    requests: int = 0
    merged: int = 0
    answers: int = 0
    told: int = 0
    wrong: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Takes another's counts in."""
        self.refused.update(other.refused)
        self.wrong += other.wrong
        self.faults += other.faults
        for name in (
            "graphs",
            "unbatched",
            "noted",
            "served",
            "requests",
            "merged",
            "answers",
            "told",
            "seconds",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def run_piece(seeds: Sequence[int], directory: Path, asked: int = 24) -> Tally:
    """One repository: the graphs of the seeds, built in one build and served by one server."""
    started = time.monotonic()
    graphs = {f"g{seed}": wide_graph(seed) for seed in seeds}
    result = _built(graphs, directory)
    tally = Tally(graphs=len(graphs))
    live: dict[str, ModelOutcome] = {}
    for outcome in result.outcomes:
        if outcome.error is not None:
            tally.refused[outcome.error.code] += 1
            if outcome.error.code != "rows_mixed":
                said = " ".join(str(outcome.error).split())[:300]
                note(f"refused: {_told(outcome.model, graphs)}: {outcome.error.code}: {said}")
            if outcome.error.traceback:
                tally.faults.append(f"{_told(outcome.model, graphs)}: {outcome.error}")
            continue
        live[outcome.model] = outcome
        is_off = outcome.rows.get("verdict") in ("mixed", "cannot_run")
        tally.unbatched += is_off
        tally.noted += bool(outcome.rows.get("note")) and not is_off
    with launch(ServerSpec(repositories=(result.repository,), exit_timeout_s=0)) as server:
        for model, reason in server.refusals().items():
            tally.faults.append(f"{_told(model, graphs)}: built, and not served: {reason}")
            live.pop(model, None)
        tally.served = len(live)
        clients = _Clients(server)
        with ThreadPoolExecutor(THREADS) as threads:
            for name, outcome in live.items():
                _ask(name, graphs[name], outcome, directory, clients, threads, asked, tally)
    tally.seconds = time.monotonic() - started
    return tally


def _built(graphs: Mapping[str, Wide], directory: Path) -> BuildResult:
    lines = ["models:"]
    for name, wide in graphs.items():
        onnx.save(wide.proto, str(directory / f"{name}.onnx"))
        lines += [f"  {name}:", f"    source: {{onnx: {name}.onnx}}"]
        lines += [f"    max_batch_size: {2 * LARGEST}"] if int(name[1:]) % 2 else []
        lines += ["    dynamic_batching: {max_queue_delay_microseconds: 10000}"]
    spec = directory / "models.yaml"
    spec.write_text("\n".join(lines) + "\n")
    return build(BuildOptions(spec, cache=Cache(directory / "cache")))


def _told(name: str, graphs: Mapping[str, Wide]) -> str:
    return f"{name} ({', '.join(graphs[name].applied)})"


class _Clients:
    """An HTTP and a gRPC client a thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._own = threading.local()

    def answer(self, model: str, tensors: Mapping[str, Any], outputs: Sequence[str], over: str) -> list[Any]:
        import tritonclient.grpc as grpc
        import tritonclient.http as http

        module: Any = http if over == "http" else grpc
        if not hasattr(self._own, over):
            url = self._server.http_url if over == "http" else self._server.grpc_url
            setattr(self._own, over, module.InferenceServerClient(url))
        made = []
        for name, value in tensors.items():
            shaped = value if value.ndim else value.reshape(1)
            wire = "BYTES" if value.dtype == object else _WIRE[value.dtype]
            made.append(module.InferInput(name, list(shaped.shape), wire))
            made[-1].set_data_from_numpy(
                np.array([v.encode() for v in shaped.flat], dtype=object).reshape(shaped.shape)
                if wire == "BYTES"
                else np.ascontiguousarray(shaped)
            )
        answer = getattr(self._own, over).infer(model, made)
        return [answer.as_numpy(name) for name in outputs]

    def executions(self, model: str) -> int:
        import tritonclient.http as http

        with http.InferenceServerClient(self._server.http_url) as client:
            stats = client.get_inference_statistics(model)["model_stats"][0]
        return int(stats["execution_count"])


def _ask(
    name: str,
    wide: Wide,
    outcome: ModelOutcome,
    directory: Path,
    clients: _Clients,
    threads: ThreadPoolExecutor,
    asked: int,
    tally: Tally,
) -> None:
    """Many requests at once; each answer is held against ONNX Runtime's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    path = str(directory / f"{name}.onnx")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    text = (outcome.directory / "config.pbtxt").read_text()
    batches = "max_batch_size: 0" not in text and "max_batch_size" in text
    rng = np.random.default_rng(int(name[1:]) + 10**6)
    requests = [request(wide, int(rng.integers(1, LARGEST + 1)), rng) for _ in range(asked)]
    expected = [_expected(session, tensors, wide, alone=batches) for tensors in requests]

    def ask(number: int) -> list[Any] | Exception:
        over = "http" if number % 2 else "grpc"
        try:
            return clients.answer(name, requests[number], wide.outputs, over)
        except Exception as error:  # of two protocols
            return error

    answers = list(threads.map(ask, range(len(requests))))
    tally.requests += len(answers)
    tally.merged += max(0, len(answers) - clients.executions(name))
    for number, (answer, own) in enumerate(zip(answers, expected, strict=True)):
        if isinstance(own, Exception) or isinstance(answer, Exception):
            if isinstance(own, Exception) != isinstance(answer, Exception):
                tally.faults.append(
                    f"{_told(name, {name: wide})}: request {number}: {answer!r}, alone: {own!r}"[:600]
                )
            continue
        tally.answers += 1
        difference = _difference(answer, own, wide.outputs)
        if difference and outcome.rows.get("note") and batches:
            tally.told += 1
        elif difference:
            size = next(iter(requests[number].values())).shape[:1]
            tally.wrong.append(
                f"{_told(name, {name: wide})}: request {number} of {size} rows, {batches=}: {difference}"
            )


def _expected(session: Any, tensors: Mapping[str, Any], wide: Wide, *, alone: bool) -> list[Any] | Exception:
    """ONNX Runtime's answers: of every row alone, laid one after another, or of the request as it is."""
    try:
        if not alone:
            return list(session.run(list(wide.outputs), dict(tensors)))
        rows = next(iter(tensors.values())).shape[0]
        parts = [
            session.run(list(wide.outputs), {k: v[i : i + 1] for k, v in tensors.items()})
            for i in range(rows)
        ]
        return [np.concatenate(of) for of in zip(*parts, strict=True)]
    except Exception as error:  # ONNX Runtime has many
        return error


def _difference(answer: Sequence[Any], own: Sequence[Any], names: Sequence[str]) -> str:
    """What differs; empty when nothing does."""
    for name, got, wanted in zip(names, answer, own, strict=True):
        # A row that is a scalar is served as `dims: [1]` with `reshape: {shape: []}`.
        if got is None or got.shape not in (wanted.shape, (*wanted.shape, 1)):
            return f"{name} has shape {None if got is None else got.shape}, not {wanted.shape}"
        wanted = wanted.reshape(got.shape)
        if got.dtype == object:
            got = np.array([v.decode() for v in got.flat], dtype=object).reshape(got.shape)
        elif got.dtype != wanted.dtype:
            return f"{name} is {got.dtype}, not {wanted.dtype}"
        allowed = _ALLOWED.get(str(got.dtype))
        if allowed is None:
            if not np.array_equal(got, wanted):
                return f"{name}: {got.tolist()} instead of {wanted.tolist()}"[:300]
            continue
        for row, (a, b) in enumerate(zip(got, wanted, strict=True)):
            if not _alike(np.atleast_1d(a).astype(float), np.atleast_1d(b).astype(float), allowed):
                return f"{name}, row {row}: {a.tolist()} instead of {b.tolist()}"[:300]
    return ""


def _alike(a: Any, b: Any, allowed: float) -> bool:
    special = ~np.isfinite(b)
    if not np.array_equal(a[special], b[special], equal_nan=True):
        return False
    # Squares of the largest numbers are infinite.
    scale = max(1.0, float(np.abs(b[~special]).max(initial=0.0)))
    a, b = a[~special] / scale, b[~special] / scale
    return bool(np.linalg.norm(a - b) <= allowed * max(float(np.linalg.norm(b)), 1e-2 / scale))


def table(tally: Tally) -> str:
    """The counts as Markdown."""
    refused = ", ".join(f"{n} {code}" for code, n in tally.refused.most_common())
    rows = {
        "graphs": tally.graphs,
        "refused at build": f"{tally.refused.total()}{f' ({refused})' if refused else ''}",
        "batching turned off": tally.unbatched,
        "batched with a note": tally.noted,
        "served": tally.served,
        "requests": tally.requests,
        "requests that were merged into another's run": tally.merged,
        "answers compared": tally.answers,
        "different answers of models with a note": tally.told,
        "silently wrong answers": len(tally.wrong),
        "other faults": len(tally.faults),
        "seconds": f"{tally.seconds:.0f}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def run(numbers: range, seed: int, piece: int) -> Tally:
    """All graphs, a piece at a time, each in a directory that goes with it."""
    total = Tally()
    for first in range(numbers.start, numbers.stop, piece):
        seeds = [seed * 1_000_000 + n for n in range(first, min(first + piece, numbers.stop))]
        with tempfile.TemporaryDirectory(prefix="tritonsmith-graphs-") as directory:
            done = run_piece(seeds, Path(directory))
        for line in (*done.wrong, *done.faults):
            note(line)
        total.add(done)
        note(f"{total.graphs} graphs, {len(total.wrong)} wrong, {total.seconds:.0f} s")
    return total


def main() -> int:
    """Runs the graphs, tells every wrong answer on the way, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.graphs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--graphs", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first graph")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--piece", type=int, default=50, help="graphs in one repository")
    given = parser.parse_args()
    tally = run(range(given.first, given.first + given.graphs), given.seed, given.piece)
    emit_text(
        f"{table(tally)}\n\nseed {given.seed}, graphs {given.first} to {given.first + given.graphs - 1}"
    )
    return 1 if tally.wrong or tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
