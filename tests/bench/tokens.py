"""Our load by tokens beside AIPerf on one scripted server → TTFT, ITL and tokens/s of both, CPU a chunk, chunks/s of a core.

Below each client's numbers are the server's own of that client's run, since no two runs on a busy machine are alike.
Tokens/s differ in what they mean: ours are those that came while the load was on, AIPerf's (and the server's here) all of
them over the time from the first request to the last answer.

    python -m tests.bench.tokens [--aiperf PATH] [--requests 48] [--users 4] [--only scripted|live] [--model MODEL.gguf]

With a model both ask Triton's generate_stream of the embedded server, too, in turns: AIPerf with its endpoint of templates,
which reads no count of the server's, so that it counts the answers' tokens with the model's tokenizer. Tokens/s are there
of both from the first request to the last answer. A client on the server's own cores slows it down, so beside what each
says are the engine's own means of that run (vllm:time_to_first_token_seconds, vllm:time_per_output_token_seconds).

Install AIPerf into an environment of its own (pip install aiperf==0.13.0) and name its command; without it ours runs alone.
CPU a chunk is that of all of a client's processes from the first request to the last chunk, so that starting up is not in
it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tritonsmith.builder.base.text.console import emit_text, note
from tritonsmith.perf.records.record import load_records
from tritonsmith.perf.server.launch import Server, ServerSpec, launch
from tritonsmith.perf.stats.goodput import inter_token_latency_ns
from tritonsmith.perf.tokens.metrics import times_to_first_ns
from tritonsmith.perf.tokens.tokenizer import tokenizer_from_file

SERVER = Path(__file__).parents[1] / "perf" / "tokens" / "scripted_server.py"
STEADY = {"first_ms": 60.0, "gap_ms": 10.0}
SPARSE = {"first_ms": 1.0, "gap_ms": 2.0}
DENSE = {"first_ms": 1.0, "gap_ms": 1.0, "lump": 16}  # a client that is behind finds several chunks in a read


@dataclass(frozen=True)
class Told:
    """What a client says: TTFT's median and mean and ITL's mean in ms, tokens a second and an answer; the CPU of all its
    processes, in s, at instants of the run."""

    ttft_ms: float
    ttft_mean_ms: float
    itl_ms: float
    tokens_per_s: float
    tokens_per_answer: float
    samples: list[tuple[int, float]]


@dataclass(frozen=True)
class Asked:
    """A server as each client is told of it."""

    ours: list[str]
    aiperf: list[str]


def openai_at(port: int) -> Asked:
    """The scripted one's OpenAI API."""
    there = ["-u", f"http://127.0.0.1:{port}", "--endpoint-type", "chat", "--use-server-token-count"]
    return Asked([f"openai://127.0.0.1:{port}/v1"], there)


def triton_at(http_url: str, model: Path) -> Asked:
    """Triton's generate_stream of `chat`, greedy answers of exactly as many tokens as are asked for."""
    template = (
        '{"text_input": {{ text|tojson }}, "stream": true, "temperature": 0, "ignore_eos": true, '
        '"max_tokens": {{ max_tokens }}, "min_tokens": {{ max_tokens }}}'
    )
    extra = json.dumps({"payload_template": template, "response_field": "text_output"})
    there = ["-u", f"http://{http_url}", "--endpoint-type", "template", "--extra-inputs", extra]
    return Asked(
        [
            f"http://{http_url}",
            "--tokens",
            "--tokenizer",
            str(model),
            "--request-parameter",
            "temperature:0:double",
        ],
        [*there, "--custom-endpoint", "/v2/models/chat/generate_stream"],
    )


@dataclass(frozen=True)
class Truth:
    """A run by the server's own clock: median TTFT and mean ITL in ms, tokens/s, its ends, its chunks."""

    ttft_ms: float
    itl_ms: float
    tokens_per_s: float
    first_ns: int
    last_ns: int
    chunks: int


def main() -> None:
    """Print both clients' numbers, the server's of the same, and what a chunk costs each."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tokens", description=__doc__)
    parser.add_argument("--aiperf", default=shutil.which("aiperf"), help="AIPerf's command")
    parser.add_argument("--requests", type=int, default=48, help="of the run that is compared")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--chunks", type=int, default=100_000, help="of the run that measures cost")
    parser.add_argument("--only", choices=("scripted", "live"))
    parser.add_argument("--model", type=Path, help="a GGUF file, for the live server")
    parser.add_argument("--rounds", type=int, default=3, help="of the live server")
    given = parser.parse_args()
    if not given.aiperf:
        note("AIPerf is not there: pip install aiperf==0.13.0 in a venv, --aiperf VENV/bin/aiperf")
    with tempfile.TemporaryDirectory(prefix="tritonsmith-bench-") as directory:
        place = Path(directory)
        if given.only != "live":
            scripted(given, place)
        if given.model and given.only != "scripted":
            live(given, place)
    emit_text(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end")


def clients_of(given: argparse.Namespace, place: Path, tokenizer: Any) -> dict[str, Any]:
    """Ours, and AIPerf where it is there, by name."""
    return {"ours": ours} | ({"AIPerf": AiPerf(given.aiperf, place, tokenizer)} if given.aiperf else {})


def scripted(given: argparse.Namespace, place: Path) -> None:
    """Both beside the server's own times, and what a chunk costs each."""
    clients = clients_of(given, place, numbers_tokenizer())
    told, true = {}, {}
    with server(STEADY) as port:
        for name, client in clients.items():
            told[name] = client(openai_at(port), given.users, given.requests, 64)
            true[name] = truth(port)
    for name, one in told.items():
        for who, numbers in ((name, one), ("  server", true[name])):
            emit_text(
                f"{who:<10}TTFT p50 {numbers.ttft_ms:7.2f} ms, ITL mean {numbers.itl_ms:6.3f} ms, "
                f"{numbers.tokens_per_s:7.1f} output tokens/s"
            )
    costs = {
        (how, name): cost_us(client, given.chunks, script)
        for how, script in (("one chunk a read", SPARSE), ("16 chunks a read", DENSE))
        for name, client in clients.items()
    }
    for (how, name), cost in costs.items():
        emit_text(f"{how}: {name:<8}{cost:7.1f} µs of CPU a chunk, {1e6 / cost:9,.0f} chunks/s of one core")
    for how in dict.fromkeys(how for how, _ in costs) if len(clients) == 2 else ():
        times = costs[how, "AIPerf"] / costs[how, "ours"]
        emit_text(f"{how}: chunks/s of one core {times:.1f} times AIPerf's (wanted: 5)")


def live(given: argparse.Namespace, place: Path) -> None:
    """Both on the embedded server, in turns, beside the engine's own numbers; whether their ranges meet."""
    model = given.model.absolute()
    clients = clients_of(given, place, tokenizer_from_file(model)._inner)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
    with served(model, place / "repository") as running:
        for round_ in range(given.rounds):
            time.sleep(2)
            for name in sorted(clients, reverse=bool(round_ % 2)):
                before = engine_sums(running)
                one = clients[name](triton_at(running.http_url, model), given.users, given.requests, 64)
                engine_ttft_ms, engine_itl_ms = engine_means_ms(running, before, given.requests)
                rows[name].append(
                    {
                        "TTFT mean, ms": one.ttft_mean_ms,
                        "  the engine's": engine_ttft_ms,
                        "  difference": one.ttft_mean_ms - engine_ttft_ms,
                        "ITL mean, ms": one.itl_ms,
                        "  the engine's ": engine_itl_ms,
                        "  difference ": one.itl_ms - engine_itl_ms,
                        "output tokens/s": one.tokens_per_s,
                        "tokens an answer": one.tokens_per_answer,
                    }
                )
                note(f"{name}: {rows[name][-1]}")
            note(f"round {round_ + 1} of {given.rounds} is over")
    emit_text(
        f"\n{model.name} on the embedded Triton, {given.users} users; medians (ranges) of {given.rounds} rounds"
    )
    for what in next(iter(rows.values()))[0]:
        values = {name: [row[what] for row in runs] for name, runs in rows.items()}
        shown = ", ".join(
            f"{name} {statistics.median(v):.2f} ({min(v):.2f}–{max(v):.2f})" for name, v in values.items()
        )
        meet = max(map(min, values.values())) <= min(map(max, values.values()))
        emit_text(f"{what:<18}{shown}{'' if len(values) < 2 or meet else '; ranges do not meet'}")


_SUMS = ("vllm:request_params_n", "vllm:time_to_first_token_seconds", "vllm:time_per_output_token_seconds")


def engine_sums(running: Server) -> dict[str, float]:
    """The sums and counts of the engine's histograms so far."""
    with urllib.request.urlopen(f"http://{running.metrics_url}/metrics", timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith(_SUMS)]
    pairs = (line.rsplit(" ", 1) for line in lines if "_bucket" not in line)
    return {name.partition("{")[0]: float(value) for name, value in pairs}


def engine_means_ms(running: Server, before: dict[str, float], requests: int) -> tuple[float, float]:
    """TTFT and ITL of so many requests since, once they are reported."""
    deadline = time.monotonic() + 30
    while (now := engine_sums(running))[f"{_SUMS[0]}_count"] - before[f"{_SUMS[0]}_count"] < requests:
        assert time.monotonic() < deadline, "the engine does not report its requests"
        time.sleep(0.1)
    ttft_ms, itl_ms = (
        (now[f"{name}_sum"] - before[f"{name}_sum"]) / (now[f"{name}_count"] - before[f"{name}_count"]) * 1e3
        for name in _SUMS[1:]
    )
    return ttft_ms, itl_ms


@contextmanager
def served(model: Path, repository: Path) -> Iterator[Server]:
    """A live Triton with the model as `chat`, no prefix cache, so that nobody finds what another has asked."""
    (repository / "chat" / "1").mkdir(parents=True)
    config = (
        'backend: "vllm"\ninstance_group [{ kind: KIND_MODEL }]\nmodel_transaction_policy { decoupled: true }\n'
        'parameters { key: "REPORT_CUSTOM_METRICS" value { string_value: "yes" } }\n'
    )
    (repository / "chat" / "config.pbtxt").write_text(config)
    arguments = {"model": str(model), "enable_prefix_caching": False}
    (repository / "chat" / "1" / "model.json").write_text(json.dumps(arguments))
    with launch(ServerSpec(repositories=(repository,), startup_timeout_s=300)) as running:
        yield running


def cost_us(client: Any, chunks: int, script: dict[str, float]) -> float:
    """CPU of a client's processes from the first request to the last chunk, a chunk, in µs."""
    tokens, users = 256, 16
    with server(script) as port:
        samples = client(openai_at(port), users, users + chunks // tokens, tokens).samples
        seen = truth(port)
    before = max((cpu_s for at_ns, cpu_s in samples if at_ns <= seen.first_ns), default=0.0)
    until = max(cpu_s for at_ns, cpu_s in samples if at_ns <= seen.last_ns + 100_000_000)
    each_us = float((until - before) / seen.chunks * 1e6)
    wall_s = (seen.last_ns - seen.first_ns) / 1e9
    note(
        f"{each_us:.1f} µs of CPU a chunk; {seen.chunks:,} chunks in {wall_s:.1f} s, {until - before:.1f} s of CPU"
    )
    return each_us


@contextmanager
def server(script: dict[str, float]) -> Iterator[int]:
    """The scripted server's port."""
    command = [sys.executable, str(SERVER), json.dumps(script)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)


def ours(asked: Asked, users: int, requests: int, tokens: int) -> Told:
    """`tritonsmith load` in a process of its own; means are of all requests, as AIPerf's are, those of the warm-up, too."""
    with tempfile.TemporaryDirectory() as directory:
        kept = Path(directory) / "run.npz"
        command = [sys.executable, "-m", "tritonsmith", "load", *asked.ours, "-m", "chat", "-c", str(users)]
        command += ["--requests", str(requests), "--warmup", "0s", "--isl", "32", "--osl", str(tokens)]
        output, samples = run([*command, "-o", str(kept), "--format", "json"])
        records = load_records(kept)
    said = json.loads(output)["tokens"]
    assert records.output_tokens is not None
    itl_ns, has_itl = inter_token_latency_ns(records)
    whole_s = (records.end_ns.max() - records.sent_ns.min()) / 1e9
    return Told(
        said["ttft_ns"]["p50"]["value"] / 1e6,
        float(times_to_first_ns(records).mean()) / 1e6,
        float(itl_ns[has_itl].mean()) / 1e6,
        float(records.output_tokens.sum() / whole_s),
        said["output_lengths"]["mean"],
        samples,
    )


@dataclass(frozen=True)
class AiPerf:
    """NVIDIA's AIPerf, with a tokenizer of a directory, since it wants one for its prompts."""

    command: str
    place: Path
    tokenizer: Any

    def __call__(self, asked: Asked, users: int, requests: int, tokens: int) -> Told:
        """One run; its own files say what it found."""
        out = Path(tempfile.mkdtemp(dir=self.place))
        command = [self.command, "profile", "-m", "chat", "--streaming", *asked.aiperf]
        command += ["--concurrency", str(users), "--request-count", str(requests), "--ui", "none"]
        command += ["--isl", "32", "--osl", str(tokens), "--tokenizer", str(self._tokenizer())]
        command += ["--artifact-dir", str(out)]
        _, samples = run(command)
        said = json.loads(next(out.rglob("*profile_export_aiperf.json")).read_text())
        return Told(
            said["time_to_first_token"]["p50"],
            said["time_to_first_token"]["avg"],
            said["inter_token_latency"]["avg"],
            said["output_token_throughput"]["avg"],
            said["output_sequence_length"]["avg"],
            samples,
        )

    def _tokenizer(self) -> Path:
        place = self.place / "tokenizer"
        if not place.exists():
            place.mkdir()
            self.tokenizer.save(str(place / "tokenizer.json"))
            names = {
                f"{end}_token": f"<{end}>"
                for end in ("unk", "bos", "eos")
                if self.tokenizer.token_to_id(f"<{end}>") is not None
            }
            config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
            (place / "tokenizer_config.json").write_text(json.dumps(config))
        return place


def numbers_tokenizer() -> Any:
    """One for a server that does the counting itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(("<unk>", "<bos>", "<eos>", *map(str, range(1000))))}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


def run(command: list[str]) -> tuple[str, list[tuple[int, float]]]:
    """(what it printed, CPU of it and of all processes below it so far, every 30 ms).

    It is sampled, as AIPerf does not wait for all of its own processes.
    """
    samples: list[tuple[int, float]] = []
    seen: dict[tuple[int, float], float] = {}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = psutil.Popen(command, stdout=output, stderr=errors)
        while process.poll() is None:
            with suppress(psutil.Error):
                for one in (process, *process.children(recursive=True)):
                    with suppress(psutil.Error):
                        times = one.cpu_times()
                        seen[one.pid, one.create_time()] = times.user + times.system
            samples.append((time.monotonic_ns(), sum(seen.values())))
            time.sleep(0.03)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(
                f"{command[0]} ended with {process.returncode}: {output.read()[-2000:]}{errors.read()[-2000:]}"
            )
        return output.read(), samples


def truth(port: int) -> Truth:
    """Of the run that is just over."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/log", timeout=60) as answer:
        rows = json.loads(answer.read())
    rows = [row for row in rows if len(row["writes"]) > 8]  # not what was asked before the load
    chunks = [[(at, tokens) for at, tokens, size in row["writes"] if size] for row in rows]
    first = [c[0][0] - row["at_ns"] for c, row in zip(chunks, rows, strict=True)]
    itl = [(c[-1][0] - c[0][0]) / (sum(t for _, t in c) - 1) for c in chunks]
    begin, end = min(row["at_ns"] for row in rows), max(c[-1][0] for c in chunks)
    total = sum(tokens for c in chunks for _, tokens in c)  # in these scripts a chunk holds one
    rate = total / (end - begin) * 1e9
    return Truth(statistics.median(first) / 1e6, statistics.fmean(itl) / 1e6, rate, begin, end, total)


if __name__ == "__main__":
    main()
