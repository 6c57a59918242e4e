"""Text of people ↔ numbers of bytes, of seconds and of things: `20GiB`, `30d`, `3 models`."""

from __future__ import annotations

import re

from tritonsmith.builder.base.errors import UsageError

_BYTES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
}  # fmt: skip
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def bytes_from_text(text: str, flag: str) -> int:
    """`20GiB` → bytes; a bare number is bytes. UsageError names the flag."""
    number, unit = _parts(text)
    if number is None or unit not in _BYTES:
        raise UsageError(
            f"{flag}: not a size: {text!r}",
            code="size",
            seen=text,
            valid=("500MB", "20GiB", "1.5TiB"),
        )
    return int(number * _BYTES[unit])


def seconds_from_text(text: str, flag: str) -> float:
    """`30d` → seconds; the unit must be given. UsageError names the flag."""
    number, unit = _parts(text)
    if number is None or unit not in _SECONDS:
        raise UsageError(
            f"{flag}: not a duration: {text!r}",
            code="duration",
            seen=text,
            valid=("90min", "12h", "30d", "8w"),
        )
    return number * _SECONDS[unit]


def _parts(text: str) -> tuple[float | None, str]:
    found = _QUANTITY.fullmatch(text)
    return (float(found[1]), found[2].lower()) if found else (None, "")


def counted(number: int, noun: str) -> str:
    """`1 model`, `3 models`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def text_of_bytes(size_bytes: float) -> str:
    """Bytes → `3.4 GiB`."""
    size, unit = float(size_bytes), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, bigger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def text_of_seconds(duration_s: float) -> str:
    """Seconds → `5 d`, in the largest unit of which there is at least one."""
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if duration_s >= seconds:
            return f"{duration_s / seconds:.0f} {unit}"
    return f"{max(duration_s, 0):.0f} s"
