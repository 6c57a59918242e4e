"""(how requests repeat, a pool of payloads) → whether so many different ones can be made of it, and of what."""

from __future__ import annotations

from collections.abc import Sequence

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data.repeat import POOL, Repeat
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.varied_bytes import distinct_of, prepared_payloads, words_for


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
