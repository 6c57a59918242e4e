"""Command-line flags of a load test as text → values, and all of them → the test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.perf.commands.load.options import (
    DataFlags,
    LoadFlags,
    MeasurementFlags,
    ValueFlags,
    WireFlags,
)
from tritonsmith.perf.commands.sweep.options import SweepFlags
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.data.distribution import Distribution, Span, distribution_from_text, span_from_text
from tritonsmith.perf.data.repeat import repeat_from_text
from tritonsmith.perf.load.load_test import LoadTest, fitted
from tritonsmith.perf.records.schedule import NS_PER_S, Closed, Load, Open, Replay
from tritonsmith.perf.stats.goodput import LIMITS
from tritonsmith.perf.wire.payload import request_parameters

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
    return match[1]


def goodput_from_flags(flags: Sequence[str], streaming: bool) -> dict[str, float]:
    """`20ms` or `latency=20ms`, `first=100ms`, `between=20ms` → {limit: milliseconds}."""
    limits = {}
    for flag in flags:
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


def headers_from_flags(flags: Sequence[str]) -> dict[str, str]:
    """`Authorization: Bearer …`, or @FILE with such lines, which no list of processes shows → {name: value}."""
    headers = {}
    for line in [line for flag in flags for line in _header_lines(flag)]:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError(  # whatever it is, it may be a secret
                "not NAME:VALUE", code="bad_header", seen=f"{len(line)} characters", fix="-H 'NAME: VALUE'"
            )
        headers[name.strip()] = value.strip()
    return headers


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
            data_from_flags(data), batch_size=data.batch_size, pool=data.pool, seed=measurement.seed
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
        headers=headers_from_flags(wire.header or []),
        ca_file=None if wire.ca_file is None else str(wire.ca_file),
        parameters=request_parameters(priority=load.priority, timeout_us=timeout_us),
        timeout_s=seconds_from_text(measurement.timeout),
        processes=load.processes,
        validate_every=data.check_every,
        repeat=repeat_from_text(data.repeat),
        goodput_ms=goodput_from_flags(measurement.goodput or [], wire.streaming),
    )
    return fitted(test, target)


def data_from_flags(flags: ValueFlags | SweepFlags) -> DataOptions:
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
