"""`16`, `16..128` or `20~5` → a distribution of whole numbers to draw sizes and lengths from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritonsmith.builder.base.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Span:
    """A number, or a range both ends of which may be drawn."""

    low: int | float
    high: int | float

    def draw(self, rng: np.random.Generator) -> int:
        """One whole number, each as likely as the next."""
        return int(rng.integers(int(self.low), int(self.high), endpoint=True))


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal distribution of whole numbers, cut off below 1."""

    mean: float
    deviation: float

    def draw(self, rng: np.random.Generator) -> int:
        """One whole number."""
        return max(1, round(float(rng.normal(self.mean, self.deviation))))


Distribution = Span | Normal


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


def distribution_from_text(text: str) -> Distribution:
    """`128`, `16..128` (uniform) or `128~32` (normal: mean and standard deviation)."""
    mean, tilde, deviation = text.partition("~")
    if not tilde:
        return span_from_text(text)
    try:
        normal = Normal(float(mean), float(deviation))
    except ValueError as error:
        raise UsageError("not a number, LOW..HIGH or MEAN~DEVIATION", code="bad_span", seen=text) from error
    if not (normal.mean >= 1 and 0 <= normal.deviation < 1e9):
        raise UsageError("the mean must be at least 1", code="bad_span", seen=text)
    return normal
