"""Flags of a load by tokens → its test and what it asks; UsageError for flags that do not go with it."""

from __future__ import annotations

from dataclasses import replace

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.commands.load.flags import (
    goodput_from_flags,
    parameters_from_flags,
    seconds_from_text,
    test_from_flags,
)
from tritonsmith.perf.commands.load.options import (
    DataFlags,
    LoadFlags,
    MeasurementFlags,
    TokenFlags,
    WireFlags,
)
from tritonsmith.perf.data.distribution import Distribution, Span, distribution_from_text
from tritonsmith.perf.load.load_test import LoadTest
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.tokens.openai import is_openai
from tritonsmith.perf.tokens.prompts import PromptOptions
from tritonsmith.perf.tokens.run import TokenOptions

_TIMEOUT = "10m"
_PROMPTS = 512


def is_by_tokens(target: str, tokens: TokenFlags) -> bool:
    """Whether a load by tokens is meant; UsageError for its flags without it."""
    if tokens.tokens or is_openai(target):
        return True
    defaults = TokenFlags()
    given = [n for n in TokenFlags.__dataclass_fields__ if getattr(tokens, n) != getattr(defaults, n)]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} is of a load by tokens", code="tokens_needed", fix="--tokens"
        )
    return False


def token_test_from_flags(
    target: str,
    load: LoadFlags,
    measurement: MeasurementFlags,
    data: DataFlags,
    wire: WireFlags,
    tokens: TokenFlags,
) -> tuple[LoadTest, TokenOptions]:
    """The test of a model that is yet to be named, and the prompts."""
    _check(target, load, measurement, data, wire, tokens)
    goodput_ms = goodput_from_flags(measurement.goodput or [], streaming=False, tokens=True)
    sampling = parameters_from_flags(load.request_parameter or [])
    plain_load = replace(load, request_parameter=None)
    test = test_from_flags(target, plain_load, replace(measurement, goodput=None), data, wire)
    if tokens.sessions is not None:
        test = replace(test, load=Closed(tokens.sessions, seconds_from_text(load.ramp)))
    test = replace(
        test,
        goodput_ms=goodput_ms,
        timeout_s=seconds_from_text(measurement.timeout or _TIMEOUT),
        streaming=True,
        protocol=test.protocol or "http",
    )
    count = data.pool or (1 << 31 if tokens.prompts is not None else _PROMPTS)
    is_load_given = any(
        v is not None for v in (load.concurrency, load.request_rate, load.replay, tokens.sessions)
    )
    if tokens.prompts is not None and not is_load_given and measurement.requests is not None:
        count = min(count, measurement.requests)
    prompts = PromptOptions(
        file=tokens.prompts,
        isl=_lengths("--isl", tokens.isl) if tokens.isl else None,
        osl=_lengths("--osl", tokens.osl) if tokens.osl else None,
        shared_prefix=tokens.shared_prefix,
        turns=_lengths("--turns", tokens.turns) if tokens.turns else Span(3, 3),
        count=count,
        sessions=tokens.sessions is not None,
        seed=measurement.seed,
    )
    more = (tokens.endpoint, tokens.tokenizer, sampling, tokens.dollars_per_hour)
    return test, TokenOptions(prompts, *more, is_load_given=is_load_given)


def _lengths(flag: str, text: str) -> Distribution:
    try:
        return distribution_from_text(text)
    except UsageError as error:
        valid = ("512", "64..1024", "512~64")
        raise UsageError(f"{flag}: {error.message}", code=error.code, seen=error.seen, valid=valid) from None


def _check(
    target: str,
    load: LoadFlags,
    measurement: MeasurementFlags,
    data: DataFlags,
    wire: WireFlags,
    tokens: TokenFlags,
) -> None:
    others = {
        "--slo-p99": measurement.slo_p99,
        "--data": data.data,
        "--shape": data.shape,
        "--range": data.range_,
        "--batch-size": data.batch_size,
        "--repeat": data.repeat != "pool",
        "--sequences": load.sequences or load.sequence_length,
        "--shared-memory": wire.shared_memory != "none",
    }
    if is_openai(target):
        others |= {
            "--protocol": wire.protocol,
            "--priority": load.priority,
            "--request-timeout": load.request_timeout,
        }
    elif tokens.endpoint != "chat":
        others["--endpoint, which OpenAI's API has,"] = True
    given = [name for name, value in others.items() if value]
    if given:
        raise UsageError(
            f"{given[0]} does not go with a load by tokens", code="bad_tokens", seen=", ".join(given)
        )
    made_up = {"--isl": tokens.isl, "--shared-prefix": tokens.shared_prefix, "--turns": tokens.turns}
    unused = [name for name, value in made_up.items() if value and tokens.prompts is not None]
    if unused:
        raise UsageError(
            f"{unused[0]} is of made-up prompts, and --prompts has others",
            code="bad_tokens",
            fix=f"leave out {unused[0]}",
        )
    if tokens.turns and tokens.sessions is None:
        raise UsageError("--turns are those of sessions", code="bad_tokens", fix="--sessions 8")
    if tokens.sessions is not None and (load.request_rate or load.replay or load.step or load.concurrency):
        raise UsageError("--sessions is the load, a closed loop", code="two_loads")
