"""Flags of a load by tokens: what they mean, and the one error of those that do not go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.commands.load.options import (
    DataFlags,
    LoadFlags,
    MeasurementFlags,
    TokenFlags,
    WireFlags,
)
from tritonsmith.perf.commands.load.token_flags import is_by_tokens, token_test_from_flags
from tritonsmith.perf.data.distribution import Normal, Span
from tritonsmith.perf.load.load_test import LoadTest
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.tokens.run import TokenOptions

OPENAI, TRITON = "openai://h:9000/v1", "http://h:8000"


def asked(target: str = OPENAI, **flags: Any) -> tuple[LoadTest, TokenOptions]:
    groups: list[Any] = [LoadFlags(), MeasurementFlags(), DataFlags(), WireFlags(), TokenFlags()]
    given = [
        replace(group, **{n: v for n, v in flags.items() if n in type(group).__dataclass_fields__})
        for group in groups
    ]
    return token_test_from_flags(target, *given)


def test_lengths_limits_and_costs() -> None:
    test, options = asked(
        isl="512~64",
        osl="16..32",
        goodput=["ttft=200ms,itl=30ms", "e2e=2s"],
        request_parameter=["temperature:0:double"],
    )
    assert options.prompts.isl == Normal(512, 64) and options.prompts.osl == Span(16, 32)
    assert test.goodput_ms == {"ttft": 200, "itl": 30, "e2e": 2000}
    assert options.sampling == {"temperature": 0.0} and not test.parameters
    assert test.timeout_s == 600 and test.load == Closed(8) and test.asks_over == "http"
    assert asked(timeout="5s")[0].timeout_s == 5


def test_sessions_are_the_load() -> None:
    test, options = asked(sessions=6)
    assert test.load == Closed(6) and options.prompts.sessions and options.prompts.turns == Span(3, 3)


def test_a_trace_is_the_load_where_none_is_given() -> None:
    assert not asked(prompts=Path("trace.jsonl"), requests=50)[1].is_load_given
    assert asked(prompts=Path("trace.jsonl"), requests=50)[1].prompts.count == 50
    assert asked(prompts=Path("trace.jsonl"), concurrency=4)[1].is_load_given


def test_grpc_is_asked_where_it_is_named() -> None:
    assert asked("grpc://h:8001")[0].asks_over == "grpc"
    assert asked(TRITON, protocol="grpc")[0].asks_over == "grpc"
    assert asked(TRITON)[0].asks_over == "http"


@pytest.mark.parametrize(
    ("target", "flags", "said"),
    [
        (OPENAI, {"data": Path("x.npz")}, "--data"),
        (OPENAI, {"slo_p99": "20ms"}, "--slo-p99"),
        (OPENAI, {"protocol": "grpc"}, "--protocol"),
        (OPENAI, {"repeat": "0"}, "--repeat"),
        (TRITON, {"sequences": 3}, "--sequences"),
        (TRITON, {"endpoint": "completions"}, "--endpoint"),
        (OPENAI, {"prompts": Path("p"), "isl": "5"}, "--isl"),
        (OPENAI, {"turns": "5"}, "--sessions 8"),
        (OPENAI, {"isl": "abc"}, "--isl: not a number"),
        (OPENAI, {"osl": "9..2"}, "--osl: LOW is above HIGH"),
        (OPENAI, {"sessions": 2, "request_rate": 5.0}, "--sessions is the load"),
        (OPENAI, {"goodput": ["first=20ms"]}, "ttft=200ms"),
        (OPENAI, {"goodput": ["20ms"]}, "ttft=200ms"),
        (OPENAI, {"osl": "many"}, "not a number"),
    ],
)
def test_flags_that_do_not_go_together_are_one_error(target: str, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(target, **flags)
    assert said in str(caught.value)


def test_flags_of_tokens_need_a_load_by_tokens() -> None:
    assert is_by_tokens(OPENAI, TokenFlags()) and not is_by_tokens(TRITON, TokenFlags())
    with pytest.raises(UsageError) as caught:
        is_by_tokens(TRITON, TokenFlags(osl="12"))
    assert caught.value.fix == "--tokens"
