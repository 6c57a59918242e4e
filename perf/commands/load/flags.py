"""Command-line flags of a load test as text → values, and all of them → the test."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.address import address_of
from tritonsmith.perf.commands.load.options import (
    DataFlags,
    LoadFlags,
    MeasurementFlags,
    ServerFlags,
    ValueFlags,
    WireFlags,
)
from tritonsmith.perf.commands.sweep.options import PayloadFlags
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.data.distribution import Distribution, Span, distribution_from_text, span_from_text
from tritonsmith.perf.data.repeat import repeat_from_text
from tritonsmith.perf.load.load_test import LoadTest, fitted
from tritonsmith.perf.records.schedule import NS_PER_S, Closed, Load, Open, Replay
from tritonsmith.perf.stats.goodput import LIMITS, TOKEN_LIMITS
from tritonsmith.perf.wire.payload import Parameter, request_parameters

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, 5.6.2
# Those that are ours to set, and those that would end a connection or its messages elsewhere.
_OWN_HEADERS = ("content-length", "content-type", "transfer-encoding", "connection", "te", "upgrade")
# Triton's parameters extension (docs/protocol/extension_parameters.md), and what the flags ask for already.
_RESERVED = {
    "sequence_id": "--sequences 8 makes sequences",
    "sequence_start": "--sequences 8 makes sequences",
    "sequence_end": "--sequences 8 makes sequences",
    "priority": "--priority 1",
    "timeout": "--request-timeout 50ms",
    "headers": "-H 'NAME: VALUE'",
    "binary_data_output": "outputs come as binary data",
}
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_from_text(text: str) -> float:
    """`500ms`, `5s`, `2m`; a bare number is seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)?", text.strip())
    if match is None:
        raise UsageError("not a time", code="bad_time", seen=text, valid=["500ms", "5s", "2m"])
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def shapes_from_flags(flags: Sequence[str]) -> dict[str, tuple[Distribution, ...]]:
    """`input_ids:16..128` → {input_ids: its dimensions}; the name may hold colons itself."""
    shapes = {}
    for flag in flags:
        name, colon, dims = flag.rpartition(":")
        if not colon or not name:
            raise UsageError("not NAME:D1,D2,…", code="bad_shape", seen=flag, fix="--shape input_ids:16..128")
        shapes[name] = tuple(distribution_from_text(dim) for dim in dims.split(",") if dim)
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


def metrics_address_from_text(text: str) -> str:
    """`HOST:PORT`, or the metrics' whole `http://` URL → HOST:PORT; empty stays empty."""
    match = re.fullmatch(r"(?:http://)?([^/@]*)(?:/metrics)?/?", text)
    if match is None:
        raise UsageError(
            "metrics are read over plain HTTP, at /metrics",
            code="bad_url",
            seen=text,
            valid=["HOST:PORT"],
            fix="--metrics-url localhost:8002",
        )
    return match[1] and address_of(f"http://{match[1]}", ("http",), "http://localhost:8002").authority


def goodput_from_flags(flags: Sequence[str], streaming: bool, tokens: bool = False) -> dict[str, float]:
    """`20ms` or `latency=20ms`, `first=100ms`, `between=20ms`; by tokens `ttft=200ms,itl=30ms,e2e=2s` → {limit: ms}."""
    limits = {}
    for flag in ",".join(flags).split(",") if flags else ():
        if tokens:
            limits.update(_token_limit(flag))
            continue
        head, equals, text = flag.rpartition("=")
        name = head if equals else "latency"
        if name not in LIMITS or (name != "latency" and not streaming):
            raise UsageError(
                "a limit of streams needs --streaming" if name in LIMITS else "not a limit of goodput",
                code="bad_goodput",
                seen=flag,
                valid=["20ms", "first=100ms", "between=20ms"],
            )
        limits[name] = seconds_from_text(text) * 1000
    return limits


def _token_limit(flag: str) -> dict[str, float]:
    name, _, text = flag.strip().rpartition("=")
    if name not in TOKEN_LIMITS:
        raise UsageError(
            "not a limit of tokens: time to the first, between them, to the last",
            code="bad_goodput",
            seen=flag,
            valid=["ttft=200ms", "itl=30ms", "e2e=2s"],
        )
    return {name: seconds_from_text(text) * 1000}


def headers_from_flags(flags: Sequence[str]) -> dict[str, str]:
    """`Authorization: Bearer …`, or @FILE with such lines, which no list of processes shows → {name: value}."""
    headers = {}
    for line in [line for flag in flags for line in _header_lines(flag)]:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError(  # whatever it is, it may be a secret
                "not NAME:VALUE", code="bad_header", seen=f"{len(line)} characters", fix="-H 'NAME: VALUE'"
            )
        name, value = name.strip(), value.strip()
        if not _NAME.fullmatch(name) or not value.isascii() or not value.replace("\t", " ").isprintable():
            raise UsageError(
                "a header's name is letters, digits and dashes, and its value printable ASCII",
                code="bad_header",
                seen=f"{len(line)} characters",
                fix="-H 'NAME: VALUE'; percent-encode or base64 what is not ASCII",
            )
        if name.lower().startswith("inference-header-") or name.lower() in _OWN_HEADERS:
            raise UsageError("this header is made with each request", code="bad_header", seen=name)
        headers[name] = value
    return headers


def parameters_from_flags(flags: Sequence[str]) -> dict[str, Parameter]:
    """`max_tokens:256:int`, as perf_analyzer's flag of that name takes it → {name: value}; the value may hold colons."""
    found: dict[str, Parameter] = {}
    for flag in flags:
        name, _, rest = flag.partition(":")
        text, colon, kind = rest.rpartition(":")
        if not name or not colon or kind not in _PARAMETER_TYPES:
            raise UsageError(
                "not NAME:VALUE:TYPE",
                code="bad_parameter",
                seen=flag,
                valid=list(_PARAMETER_TYPES),
                fix="--request-parameter max_tokens:256:int",
            )
        if name in _RESERVED or name.startswith("triton_"):
            raise UsageError(
                f"`{name}` is reserved for Triton, which would not hand it to the model",
                code="reserved_parameter",
                seen=flag,
                fix=_RESERVED.get(name, "give it another name"),
            )
        if name in found:
            raise UsageError(f"`{name}` is given twice", code="bad_parameter", seen=flag)
        try:
            found[name] = _PARAMETER_TYPES[kind](text)
        except (ValueError, KeyError):
            raise UsageError(
                f"not a value of type {kind}", code="bad_parameter", seen=flag, valid=[_RANGES[kind]]
            ) from None
    return found


def _whole(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not low <= int(text) <= high:
        raise ValueError(text)
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # JSON has no word for it
        raise ValueError(text)
    return value


_PARAMETER_TYPES: Mapping[str, Callable[[str], Parameter]] = {
    "int": lambda text: _whole(text, -(1 << 63), (1 << 63) - 1),
    # Triton holds an int64 and no more: over HTTP a larger number became a double, over gRPC it is refused (seen with 2.51).
    "uint": lambda text: _whole(text, 0, (1 << 63) - 1),
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "string": str,
    "double": _finite,
}
_RANGES = {
    "int": "-2^63..2^63-1",
    "uint": "0..2^63-1, Triton's own limit",
    "bool": "true, false",
    "double": "a finite number",
}


def _header_lines(flag: str) -> list[str]:
    if not flag.startswith("@"):
        return [flag]
    path = Path(flag[1:])
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the file of headers cannot be read: {error}", code="bad_header", where=Where(path)
        ) from None


def replay_from_file(path: Path) -> Replay:
    """A file of send times in seconds, one a line → Replay."""
    try:
        times = [float(line) for line in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"not a file of send times in seconds: {error}", code="bad_replay", where=Where(path)
        ) from error
    return Replay(tuple(round(time_s * NS_PER_S) for time_s in times))


def steps_from_flags(flags: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """`100:5s` → (requests a second, seconds), in the order given."""
    steps = []
    for flag in flags:
        rate, _, duration = flag.partition(":")
        try:
            steps.append((float(rate), seconds_from_text(duration)))
        except ValueError as error:
            raise UsageError("not LOAD:DURATION", code="bad_load", seen=flag, fix="--step 100:5s") from error
    return tuple(steps)


def test_from_flags(
    target: str, load: LoadFlags, measurement: MeasurementFlags, data: DataFlags, wire: WireFlags
) -> LoadTest:
    """The test of a model that is yet to be named; UsageError for flags that do not go together."""
    meant = load_from_flags(load, measurement.seed)
    if load.step and (load.sequences is not None or load.sequence_length):
        raise UsageError("sequences have no steps: they end when they are over", code="bad_load")
    if load.sequences is not None and load.concurrency not in (None, load.sequences):
        raise UsageError("--sequences is the concurrency", code="two_loads", seen=f"-c {load.concurrency}")
    duration_s = seconds_from_text(measurement.duration)
    if measurement.requests is None and load.replay is None and not duration_s:
        raise UsageError(
            "a measurement takes time", code="bad_time", seen=measurement.duration, fix="--duration 5s"
        )
    timeout_us = round(seconds_from_text(load.request_timeout) * 1e6) if load.request_timeout else None
    length = load.sequence_length
    test = LoadTest(
        model="",
        load=meant,
        duration_s=duration_s,
        requests=measurement.requests,
        warmup_s=seconds_from_text(measurement.warmup),
        data=replace(
            data_from_flags(data), batch_size=data.batch_size, pool=data.pool or 32, seed=measurement.seed
        ),
        protocol=wire.protocol,
        streaming=wire.streaming,
        sequences=load.sequences is not None,
        sequence_length=distribution_from_text(length) if length else None,
        shared_memory=wire.shared_memory,
        cuda_device=wire.cuda_device,
        output_bytes=wire.output_shared_memory_size,
        grpc_url=wire.grpc_url,
        metrics_url=metrics_address_from_text(wire.metrics_url),
        **server_fields(wire),
        parameters=request_parameters(
            priority=load.priority,
            timeout_us=timeout_us,
            other=parameters_from_flags(load.request_parameter or []),
        ),
        timeout_s=seconds_from_text(measurement.timeout or "30s"),
        processes=load.processes,
        validate_every=data.check_every,
        repeat=repeat_from_text(data.repeat),
        goodput_ms=goodput_from_flags(measurement.goodput or [], wire.streaming),
    )
    return fitted(test, target)


def server_fields(flags: ServerFlags) -> dict[str, Any]:
    """What a server wants to see → the LoadTest's fields of it."""
    if flags.key is not None and flags.cert is None:
        raise UsageError("a key needs its certificate", code="bad_certificate", fix="--cert FILE")
    files = {"ca_file": flags.ca_file, "cert_file": flags.cert, "key_file": flags.key}
    return {
        "headers": headers_from_flags(flags.header or []),
        "verify": not flags.insecure,
        **{name: None if path is None else str(path) for name, path in files.items()},
    }


def data_from_flags(flags: ValueFlags | PayloadFlags) -> DataOptions:
    """--data, --shape and --range → where values come from."""
    shapes, ranges = shapes_from_flags(flags.shape or []), ranges_from_flags(flags.range_ or [])
    return DataOptions(file=flags.data, shapes=shapes, ranges=ranges)


def check_no_load(load: LoadFlags, measurement: MeasurementFlags) -> None:
    """UsageError when a load is given beside --slo-p99."""
    given = (load.concurrency, load.request_rate, load.replay, measurement.requests)
    if any(value is not None for value in given):
        raise UsageError(
            "--slo-p99 finds the request rate itself",
            code="two_loads",
            fix="leave out --concurrency, --request-rate, --replay and --requests",
        )


def load_from_flags(load: LoadFlags, seed: int) -> Load:
    """Exactly one of --concurrency (--sequences), --request-rate and --replay; concurrency 8 when there is none."""
    concurrency = load.sequences if load.concurrency is None else load.concurrency
    loads = {
        "--concurrency": concurrency,
        "--request-rate": load.request_rate,
        "--replay": load.replay,
    }
    given = [flag for flag, value in loads.items() if value is not None]
    ramp_s, steps = seconds_from_text(load.ramp), steps_from_flags(load.step or [])
    if len(given) > 1:
        raise UsageError("a test has one load", code="two_loads", seen=" ".join(given))
    if steps and load.request_rate is None and concurrency is None:
        raise UsageError(
            "--step needs the load that follows",
            code="bad_load",
            valid=["--request-rate 200", "--concurrency 16"],
        )
    if load.replay is not None:
        return replay_from_file(load.replay)
    if load.request_rate is not None:
        return Open(load.request_rate, load.arrival, seed, ramp_s, steps)
    return Closed(concurrency or 8, ramp_s, concurrencies_of(steps))


def concurrencies_of(steps: tuple[tuple[float, float], ...]) -> tuple[tuple[int, float], ...]:
    """Steps of a closed loop: whole numbers of requests in flight."""
    for value, _ in steps:
        if not value.is_integer():
            raise UsageError("a step of a closed loop is a concurrency", code="bad_load", seen=f"{value:g}")
    return tuple((int(value), duration_s) for value, duration_s in steps)
