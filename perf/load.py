"""One load test: (a live server, a model, a load) → records, their summary and the server's own counters."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from builder import __version__
from builder.errors import TrialError, UsageError, Where
from perf.answers import Validation
from perf.counters import ServerCounters, counters_between
from perf.data import DataOptions, ModelInterface, Span, interface_from_metadata, payloads_from_options
from perf.generator import ClientOptions, Progress, generate
from perf.record import RequestRecords
from perf.schedule import NS_PER_S, Load, Replay, load_label
from perf.stats import Estimate, Summary, summarise
from perf.wire.http import HttpTarget
from perf.wire.payload import InferPayload, Parameter
from perf.wire.rest import call_json, model_path
from perf.wire.target import Target


@dataclass(frozen=True, slots=True)
class LoadTest:
    """What is asked.

    model:      empty means the only one that the server has ready.
    duration_s, requests: as in perf.generator.generate.
    parameters: request parameters (priority, timeout …) of every request.
    validate_every: one answer in so many is compared with the data's outputs, where they have any; 0 none.
    """

    model: str
    load: Load
    version: str = ""
    duration_s: float | None = 5.0
    requests: int | None = None
    warmup_s: float = 0.5
    data: DataOptions = field(default_factory=DataOptions)
    protocol: Literal["http", "grpc"] = "http"
    grpc_url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    timeout_s: float = 30.0
    max_connections: int = 1024
    processes: int = 1
    validate_every: int = 100


@dataclass(frozen=True, slots=True)
class LoadTestResult:
    """What came out; `server` is None when its counters could not be compared, `why_no_server` says why."""

    records: RequestRecords
    summary: Summary
    server: ServerCounters | None
    why_no_server: str = ""


def run_load_test(
    url: str, test: LoadTest, on_progress: Callable[[Progress], None] | None = None
) -> LoadTestResult:
    """Put the load on the server at its HTTP URL. Failed requests are in the records, not raised.

    Raises ServerError when nothing answers, TrialError when the model is not served, UsageError when the
    data do not fit it.
    """
    rest = HttpTarget(url, headers=test.headers, ca_file=test.ca_file)
    about_server = call_json(rest, "/v2")
    model = interface_of(rest, test.model or only_model(rest), test.version)
    payloads = payloads_from_options(model, test.data, parameters=test.parameters)
    target = target_of(rest, test)
    before: list[list[dict[str, Any]] | None] = []
    records = generate(
        target,
        test.load,
        payloads,
        warmup_s=test.warmup_s,
        duration_s=test.duration_s,
        requests=test.requests,
        seed=test.data.seed,
        options=ClientOptions(
            timeout_s=test.timeout_s,
            max_connections=test.max_connections,
            processes=test.processes,
            validation=_validation(test, payloads),
        ),
        environment=environment_of(about_server),
        on_progress=on_progress,
        at_measure_start=lambda: before.append(_statistics(rest, model)),
    )
    after = _statistics(rest, model)
    server, why = None, "the server does not tell statistics"
    if before and before[0] is not None and after is not None:
        server, why = counters_between(before[0], after), "the model was reloaded during the test"
    return LoadTestResult(records, summarise(records), server, "" if server else why)


def interface_of(rest: HttpTarget, model: str, version: str = "") -> ModelInterface:
    """What the server says the model takes."""
    path = model_path(model, version)
    found = interface_from_metadata(call_json(rest, path), call_json(rest, f"{path}/config"))
    return replace(found, version=version)


def only_model(rest: HttpTarget) -> str:
    """The one model that is ready; UsageError names all when there are several or none."""
    rows = call_json(rest, "/v2/repository/index", method="POST")
    ready = sorted({row["name"] for row in rows if row.get("state", "READY") == "READY"})
    if len(ready) != 1:
        raise UsageError(
            "which model?" if ready else "the server has no model ready",
            code="no_model",
            valid=ready,
            fix=f"--model {ready[0]}" if ready else None,
        )
    return str(ready[0])


def target_of(rest: HttpTarget, test: LoadTest) -> Target:
    """The measured side of the server."""
    if test.protocol == "http":
        return rest
    from perf.wire.grpc import GrpcTarget

    parts = urlsplit(rest.base_url)
    url = test.grpc_url
    if not url:
        scheme = "grpcs" if parts.scheme == "https" else "grpc"
        url = f"{scheme}://{parts.hostname}:{(parts.port or 8000) + 1}"
    return GrpcTarget(url, {name.lower(): value for name, value in test.headers.items()}, test.ca_file)


def _validation(test: LoadTest, payloads: Sequence[InferPayload]) -> Validation | None:
    if not test.validate_every or all(payload.expected is None for payload in payloads):
        return None
    return Validation(every=test.validate_every)


def _statistics(rest: HttpTarget, model: ModelInterface) -> list[dict[str, Any]] | None:
    try:
        return list(call_json(rest, model_path(model.name, model.version) + "/stats")["model_stats"])
    except (TrialError, KeyError, TypeError):
        return None


def environment_of(about_server: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers depend on besides the load: both ends' software and the client's machine."""
    return {
        "tritonsmith": __version__,
        "server": f"{about_server.get('name', '')} {about_server.get('version', '')}".strip(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load_average_1min": os.getloadavg()[0],
    }


@dataclass(frozen=True, slots=True)
class ServedAt:
    """Where a server answers; grpc_url is empty when only its HTTP URL is known."""

    http_url: str
    grpc_url: str = ""


@contextmanager
def server_at(where: str, log_path: Path | None = None) -> Iterator[ServedAt]:
    """An HTTP URL as it is, or an embedded server's on this model repository while the block runs."""
    if "://" in where:
        yield ServedAt(where)
        return
    directory = Path(where)
    if not directory.is_dir():
        raise UsageError(
            "neither a URL nor a model repository",
            code="no_target",
            seen=where,
            valid=["http://HOST:8000", "a model repository's directory"],
        )
    from perf.server.launch import ServerSpec, launch

    with launch(ServerSpec(kind="embedded", repositories=(directory,), log_path=log_path)) as server:
        yield ServedAt(f"http://{server.http_url}", server.grpc_url)


# Flags → values.


_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_from_text(text: str) -> float:
    """`500ms`, `5s`, `2m`; a bare number is seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)?", text.strip())
    if match is None:
        raise UsageError("not a time", code="bad_time", seen=text, valid=["500ms", "5s", "2m"])
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def span_from_text(text: str, number: type[int] | type[float] = int) -> Span:
    """`128` or `16..128`."""
    low, dots, high = text.partition("..")
    try:
        span = Span(number(low), number(high if dots else low))
    except ValueError as error:
        raise UsageError("not a number or LOW..HIGH", code="bad_span", seen=text) from error
    if span.low > span.high:
        raise UsageError("LOW is above HIGH", code="bad_span", seen=text)
    return span


def shapes_from_flags(flags: Sequence[str]) -> dict[str, tuple[Span, ...]]:
    """`input_ids:16..128` → {input_ids: its dimensions}; the name may hold colons itself."""
    shapes = {}
    for flag in flags:
        name, colon, dims = flag.rpartition(":")
        if not colon or not name:
            raise UsageError("not NAME:D1,D2,…", code="bad_shape", seen=flag, fix="--shape input_ids:16..128")
        shapes[name] = tuple(span_from_text(dim) for dim in dims.split(",") if dim)
    return shapes


def ranges_from_flags(flags: Sequence[str]) -> dict[str, Span]:
    """`input_ids:0..30521` → {input_ids: Span}."""
    ranges = {}
    for flag in flags:
        name, colon, text = flag.rpartition(":")
        if not colon or not name:
            raise UsageError(
                "not NAME:LOW..HIGH", code="bad_span", seen=flag, fix="--range input_ids:0..30521"
            )
        whole = not any(mark in text.replace("..", "") for mark in ".eE")
        ranges[name] = span_from_text(text, int if whole else float)
    return ranges


def headers_from_flags(flags: Sequence[str]) -> dict[str, str]:
    """`Authorization: Bearer …` → {name: value}."""
    headers = {}
    for flag in flags:
        name, colon, value = flag.partition(":")
        if not colon or not name.strip():
            raise UsageError("not NAME:VALUE", code="bad_header", seen=flag)
        headers[name.strip()] = value.strip()
    return headers


def replay_from_file(path: Path) -> Replay:
    """A file of send times in seconds, one a line → Replay."""
    try:
        times = [float(line) for line in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"not a file of send times in seconds: {error}", code="bad_replay", where=Where(path)
        ) from error
    return Replay(tuple(round(time_s * NS_PER_S) for time_s in times))


# Values → what people read.


def result_as_dict(result: LoadTestResult) -> dict[str, Any]:
    """JSON form; `failures` counts the warm-up's too, `summary` is of the measurement alone."""
    header = result.records.header
    return {
        "model": header.model,
        "url": header.url,
        "protocol": header.protocol,
        "seed": header.seed,
        "failures": result.records.failures(),
        "summary": result.summary.as_dict(),
        "server": None if result.server is None else result.server.as_dict(),
        "interrupted": header.interrupted,
        "environment": dict(header.environment),
    }


def text_of_result(result: LoadTestResult, load: Load) -> str:
    """The verdict first, failures before any number; then throughput, latency, server and client."""
    header, summary = result.records.header, result.summary
    lines = [
        f"{summary.validity.verdict.value}  {header.model}, {load_label(load)}, {header.protocol}, "
        f"{summary.duration_s:.1f} s, seed {header.seed}"
    ]
    failures = result.records.failures()
    if failures:
        failed = sum(failures.values())
        early = failed - sum(summary.failures.values())
        where = f", {early:,} of them in the warm-up" if early else ""
        lines.append(f"  FAILED      {failed:,} of {len(result.records):,} requests{where}")
        lines += [f"              {count:,} × {reason}" for reason, count in failures.items()]
    if header.interrupted:
        lines.append("  interrupted before its time; the numbers are of what was done")
    lines += [f"  because     {reason}" for reason in summary.validity.reasons]
    if summary.validity.recommendation:
        lines.append(f"  try         {summary.validity.recommendation}")
    lines.append(f"  throughput  {_number(summary.throughput_per_s, 1.0, 'inferences/s')}")
    label = "latency   "
    for name, estimate in summary.latency_ns.items():
        lines.append(f"  {label}  {name:<5} {_number(estimate, 1e-6, 'ms')}")
        label = " " * 10
    lines += _server_lines(result)
    lines.append(_client_line(result))
    return "\n".join(lines)


def _number(estimate: Estimate, scale: float, unit: str) -> str:
    if estimate.value is None:
        return f"unknown: {estimate.why}"
    value = estimate.value * scale
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 10 else 3
    text = f"{value:,.{digits}f} {unit}"
    if estimate.interval is None:
        return f"{text}  ({estimate.why})" if estimate.why else text
    low, high = estimate.interval.low * scale, estimate.interval.high * scale
    return f"{text}  ({low:,.{digits}f} to {high:,.{digits}f})"


def _server_lines(result: LoadTestResult) -> list[str]:
    server = result.server
    if server is None:
        return [f"  server      no counters: {result.why_no_server}"]
    compute_us = server.mean_compute_input_us + server.mean_compute_infer_us + server.mean_compute_output_us
    lines = [
        f"  server      queue {server.mean_queue_us:,.0f} µs, compute {compute_us:,.0f} µs a request "
        f"(input {server.mean_compute_input_us:,.0f}, infer {server.mean_compute_infer_us:,.0f}, "
        f"output {server.mean_compute_output_us:,.0f})"
    ]
    if server.mean_batch_size is not None and server.batch_executions:
        total = sum(server.batch_executions.values())
        most = sorted(server.batch_executions.items(), key=lambda item: -item[1])[:6]
        shares = ", ".join(f"{size}: {100 * count / total:.0f} %" for size, count in sorted(most))
        lines.append(f"              mean batch {server.mean_batch_size:.2f} ({shares})")
    if server.cache_hits or server.cache_misses:
        lines.append(
            f"              response cache {server.cache_hits:,} hits, {server.cache_misses:,} misses"
        )
    return lines


def _client_line(result: LoadTestResult) -> str:
    header, summary = result.records.header, result.summary
    each_us = header.client_cpu_s / max(1, len(result.records)) * 1e6
    share = "unknown" if summary.client_cpu_share is None else f"{100 * summary.client_cpu_share:.0f} %"
    line = f"  client      CPU {share} of a core, {each_us:.0f} µs a request"
    if header.load["kind"] != "closed":
        lag = summary.send_lag_ns
        line += (
            f"; due {summary.scheduled_per_s:,.1f}/s, sent {summary.sent_per_s:,.1f}/s, "
            f"send lag p50 {lag['p50'] / 1000:,.0f} µs, p99 {lag['p99'] / 1000:,.0f} µs"
        )
    if header.checked:
        line += f"; {header.checked:,} answers checked"
    return line
