"""(a server, a load, prompts) → one load test by tokens: every request, every chunk, and what they tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.digest import digest_of_value
from tritonsmith.perf.load.counting import Counting
from tritonsmith.perf.load.load_test import (
    LoadTest,
    check_options,
    client_options,
    environment_of,
    fitted,
    measured,
    metrics_url_of,
    server_of,
)
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.load.runs.generator import Progress
from tritonsmith.perf.load.served_model import interface_of, members_of
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import Replay
from tritonsmith.perf.tokens import openai
from tritonsmith.perf.tokens.files import prompts_from_file
from tritonsmith.perf.tokens.metrics import with_counts
from tritonsmith.perf.tokens.prompts import Prompt, PromptOptions, made_up
from tritonsmith.perf.tokens.sessions import MakeRequest, PromptSessions
from tritonsmith.perf.tokens.tokenizer import Tokenizer, tokenizer_from_file
from tritonsmith.perf.tokens.triton import TritonRequests, check_text_model
from tritonsmith.perf.tokens.wire import GrpcTextTarget, TextTarget
from tritonsmith.perf.wire.target import Target

Endpoint = Literal["chat", "completions"]
_MOST_TOKENS = "max_tokens"


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """What a load by tokens is asked beside its load.

    endpoint:   of OpenAI's API.
    tokenizer:  the model's, for lengths of prompts and where the server does not count its tokens.
    sampling:   parameters of every request, by the server's own names (temperature …).
    dollars_per_hour: what the server costs.
    is_load_given: a load was asked for; else a trace's timestamps are one.
    """

    prompts: PromptOptions = field(default_factory=PromptOptions)
    endpoint: Endpoint = "chat"
    tokenizer: Path | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    dollars_per_hour: float | None = None
    is_load_given: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """A server that is ready to be asked: where, how a request is made, what is seen of it."""

    target: Target
    make: MakeRequest
    counting: Counting | str
    metrics_url: str
    about: Mapping[str, Any]


def run_token_test(
    url: str, test: LoadTest, tokens: TokenOptions, on_progress: Callable[[Progress], None] | None = None
) -> LoadTestResult:
    """The load on the server at an http(s), grpc(s) or openai(s) URL. Failed requests are in the records, not raised.

    Raises what run_load_test does; TrialError when an OpenAI server refuses the first request, UsageError for prompts
    that are none and for a model that writes no text.
    """
    _check_sampling(tokens.sampling)
    tokenizer = None if tokens.tokenizer is None else tokenizer_from_file(tokens.tokenizer)
    options = tokens.prompts
    read = prompts_from_file if options.file is not None else made_up
    prompts = read(options, tokenizer)
    in_order = not tokens.is_load_given and prompts[0].at_ns is not None
    if in_order:
        test = _as_traced(test, prompts)
    keep_text = tokenizer is not None or options.sessions
    asked = (_asked_openai if openai.is_openai(url) else _asked_triton)(url, test, tokens, keep_text)
    payloads = [asked.make(prompt.messages, prompt) for prompt in prompts]
    sessions = PromptSessions(tuple(prompts), asked.make) if options.sessions else None
    environment = {**environment_of(asked.about), "prompts": digest_of_value([repr(p) for p in prompts])}
    told = _told(prompts, tokens, tokenizer)
    told["plain_chats"] = not openai.is_openai(url) and any(
        len(p.messages) + len(p.later) > 1 for p in prompts
    )

    def complete(records: RequestRecords) -> RequestRecords:
        counted = with_counts(records, None if tokenizer is None else tokenizer.count)
        about = {**told, "shorter": _shorter(records, prompts)}
        observed = {**counted.header.observed, "tokens": about}
        return replace(counted, header=replace(counted.header, observed=observed))

    return measured(
        test,
        asked.target,
        payloads,
        replace(client_options(test), sessions=sessions, in_order=in_order),
        asked.counting,
        asked.metrics_url,
        environment,
        on_progress,
        complete,
    )


def _as_traced(test: LoadTest, prompts: list[Prompt]) -> LoadTest:
    """Requests when the trace says, from its first one on; a duration cuts it off."""
    begin_ns = prompts[0].at_ns or 0
    times = tuple((prompt.at_ns or 0) - begin_ns for prompt in prompts)
    return fitted(replace(test, load=Replay(times)), "")


def _told(prompts: list[Prompt], tokens: TokenOptions, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What a report says of the prompts, and what it needs to make costs of."""
    options = tokens.prompts
    by_length = options.file is None or any(prompt.exactly for prompt in prompts)
    return {
        "prompts": len(prompts),
        "from_file": options.file is not None,
        "sessions": options.sessions,
        "approximate_lengths": by_length and tokenizer is None,
        "dollars_per_hour": tokens.dollars_per_hour,
    }


def _shorter(records: RequestRecords, prompts: list[Prompt]) -> int:
    """Answers that the server, which counts them, ended before the length that was asked for exactly."""
    if records.output_tokens is None:
        return 0
    asked = np.array([prompt.output_tokens if prompt.exactly else 0 for prompt in prompts], dtype=np.int64)
    told = np.asarray(records.output_tokens)
    return int((records.ok & (told >= 0) & (told < asked[records.payload_index])).sum())


def _check_sampling(sampling: Mapping[str, Any]) -> None:
    most = sampling.get(_MOST_TOKENS)
    if most is not None and (not isinstance(most, int) or most < 1):
        raise UsageError(
            "an answer has at least one token",
            code="bad_parameter",
            seen=f"max_tokens {most}",
            fix="--osl 128",
        )


def _asked_openai(url: str, test: LoadTest, tokens: TokenOptions, keep_text: bool) -> Asked:
    target = openai.openai_target(url, test, tokens.endpoint, keep_text)
    model, about = openai.served_model(target, test.model)
    requests = openai.OpenAiRequests(model, tokens.endpoint, tokens.sampling)
    openai.probe(target, requests)
    return Asked(target, requests, "OpenAI's API tells none", test.metrics_url, about)


def _asked_triton(url: str, test: LoadTest, tokens: TokenOptions, keep_text: bool) -> Asked:
    test = replace(test, streaming=True, protocol=test.protocol or "http")
    check_options(test)
    api, target = server_of(url, test)
    about = api.server_metadata()
    model = interface_of(api, test.model, test.version)
    check_text_model(model)
    made: Target
    if test.asks_over == "grpc":
        made = GrpcTextTarget(**_fields(target), keep_text=keep_text)
    else:
        made = TextTarget(**_fields(target), keep_text=keep_text)
    metrics_url = test.metrics_url or metrics_url_of(url)
    counting = Counting(api, model.name, model.version, metrics_url, members_of(api, model))
    return Asked(made, TritonRequests(model, tokens.sampling, test.parameters), counting, metrics_url, about)


def _fields(target: Any) -> dict[str, Any]:
    """A target's own fields, for one that is the same and reads more."""
    return {name: getattr(target, name) for name in type(target).__dataclass_fields__}
