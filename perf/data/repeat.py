"""`0`, `0.3`, `zipf:1.1:10000` or `pool` → which of the requests so far, or which new one, each request is; from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.per_request.varied_bytes import distinct_of, prepared_payloads, words_for

Ids = npt.NDArray[np.int64]

DEFAULT_UNIVERSE = 10_000
MOST_UNIVERSE = 10_000_000
POOL = "pool"
_BLOCK = 256
"""Drawn at once: dear enough to be shared, and short enough to hold up no request (0.1 ms)."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """How requests repeat; equal numbers are equal requests, byte for byte.

    share:    of requests that are one of those before, each of these as likely as the next; the others are new.
    exponent: not None: every request is one of `universe`, the k-th most frequent as often as k^-exponent (Zipf).
    """

    share: float = 0.0
    exponent: float | None = None
    universe: int = DEFAULT_UNIVERSE

    def __str__(self) -> str:
        """As --repeat takes it."""
        return f"{self.share:g}" if self.exponent is None else f"zipf:{self.exponent:g}:{self.universe}"

    @property
    def sentence(self) -> str:
        """`no two requests are the same`."""
        if self.exponent is not None:
            return (
                f"each request is one of {self.universe:,}, the k-th as often as k^-{self.exponent:g} (Zipf)"
            )
        return (
            f"{100 * self.share:g} % of the requests repeat one before"
            if self.share
            else ("no two requests are the same")
        )

    @property
    def least_distinct(self) -> int:
        """Different requests that there must be for it to mean anything."""
        return self.universe if self.exponent is not None else DEFAULT_UNIVERSE

    def blocks(self, seed: int, part: int = 0, parts: int = 1) -> Iterator[Ids]:
        """The numbers without end, in pieces.

        part, parts: of several processes, each goes through numbers of its own; of Zipf all draw from the same.
        """
        rng = np.random.default_rng([seed, part])
        if self.exponent is not None:
            weights = np.arange(1, self.universe + 1, dtype=np.float64) ** -self.exponent
            ends = np.cumsum(weights) / weights.sum()
            while True:
                drawn = np.searchsorted(ends, rng.random(_BLOCK), side="right")
                yield np.minimum(drawn, self.universe - 1).astype(np.int64)
        known = 0
        while True:
            is_new = rng.random(_BLOCK) >= self.share
            if known == 0:
                is_new[0] = True
            before = known + np.cumsum(is_new) - is_new
            again = np.minimum((rng.random(_BLOCK) * before).astype(np.int64), np.maximum(before - 1, 0))
            known += int(is_new.sum())
            yield np.where(is_new, before, again).astype(np.int64) * parts + part


def repeat_from_text(text: str) -> Repeat | None:
    """See the module; None for `pool`, whose requests are sent again and again."""

    def refused(why: str) -> UsageError:
        return UsageError(
            f"--repeat: {why}",
            code="bad_repeat",
            seen=text,
            valid=["0", "0.3", "zipf:1.1", f"zipf:1.1:{DEFAULT_UNIVERSE}", POOL],
        )

    if text == POOL:
        return None
    name, *rest = text.split(":")
    try:
        if name != "zipf":
            share = float(text)
            if not 0 <= share < 1:
                raise refused(f"the share of repeated requests is 0 or more and below 1; {POOL} repeats all")
            return Repeat(share)
        exponent = float(rest[0]) if rest else math.nan
        universe = int(rest[1]) if len(rest) > 1 else DEFAULT_UNIVERSE
    except ValueError:
        raise refused("not a share of repeated requests, and not zipf:EXPONENT:REQUESTS") from None
    if len(rest) > 2 or not 0 <= exponent <= 10 or not 2 <= universe <= MOST_UNIVERSE:
        raise refused(f"zipf:EXPONENT:REQUESTS with an exponent of 0..10 and 2..{MOST_UNIVERSE} requests")
    return Repeat(0.0, exponent, universe)


def check_distinct(repeat: Repeat, payloads: Sequence[InferPayload]) -> str:
    """`the low bits of 7 values of x`: what makes each request another; UsageError where too few can be made."""
    _, places = prepared_payloads(payloads)
    distinct = distinct_of(places)
    if distinct >= repeat.least_distinct:
        return words_for(places)
    names = ", ".join(dict.fromkeys(t.name for payload in payloads for t in payload.inputs))
    raise UsageError(
        f"only {distinct:,} different requests can be made of these values, --repeat {repeat} needs {repeat.least_distinct:,}",
        code="too_few_requests",
        seen=f"changed: {words_for(places)}; inputs: {names}",
        fix=f"--range INPUT:LOW..HIGH with more values, or --repeat {POOL} to send the same ones again and again",
    )
