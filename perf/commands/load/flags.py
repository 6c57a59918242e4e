"""Command-line flags of a load test as text → values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.perf.data.distribution import Distribution, Span, distribution_from_text, span_from_text
from tritonsmith.perf.records.schedule import NS_PER_S, Closed, Load, Open, Replay
from tritonsmith.perf.stats.goodput import LIMITS

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


def load_from_flags(
    concurrency: int | None,
    request_rate: float | None,
    arrival: str,
    replay: Path | None,
    seed: int,
    ramp_s: float,
    steps: tuple[tuple[float, float], ...] = (),
) -> Load:
    """Exactly one of --concurrency (--sequences), --request-rate and --replay; concurrency 8 when there is none."""
    given = [
        flag
        for flag, value in (
            ("--concurrency", concurrency),
            ("--request-rate", request_rate),
            ("--replay", replay),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError("a test has one load", code="two_loads", seen=" ".join(given))
    if steps and request_rate is None and concurrency is None:
        raise UsageError(
            "--step needs the load that follows",
            code="bad_load",
            valid=["--request-rate 200", "--concurrency 16"],
        )
    if replay is not None:
        return replay_from_file(replay)
    if request_rate is not None:
        return Open(request_rate, "poisson" if arrival == "poisson" else "constant", seed, ramp_s, steps)
    return Closed(concurrency or 8, ramp_s, concurrencies_of(steps))


def concurrencies_of(steps: tuple[tuple[float, float], ...]) -> tuple[tuple[int, float], ...]:
    """Steps of a closed loop: whole numbers of requests in flight."""
    for value, _ in steps:
        if not value.is_integer():
            raise UsageError("a step of a closed loop is a concurrency", code="bad_load", seen=f"{value:g}")
    return tuple((int(value), duration_s) for value, duration_s in steps)
