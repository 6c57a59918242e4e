"""A sweep of a language model: texts of stated lengths, answered token by token, other ones in every trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data import ModelInterface
from tritonsmith.perf.data.distribution import Span
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.plan.config_path import ENGINE, is_of_engine
from tritonsmith.perf.tokens.prompts import PromptOptions, made_up
from tritonsmith.perf.tokens.triton import TritonRequests, check_text_model
from tritonsmith.perf.wire.payload import InferPayload

DEFAULT_TOKENS = 64
DEFAULT_DURATION_S, DEFAULT_WARMUP_S = 5.0, 1.0
_PROMPTS = 1024
"""A trial's different prompts: a prefix cache is to find of them only what --shared-prefix says that they share."""

Fresh = Callable[[int], Sequence[InferPayload]]
"""A trial's number → its requests."""


def is_language_model(model: ModelInterface) -> bool:
    """Whether it is asked by tokens, without anybody saying so."""
    try:
        check_text_model(model)
    except UsageError:
        return False
    return True


def fitted(spec: SweepSpec, model: ModelInterface) -> tuple[SweepSpec, list[str]]:
    """The spec with the lengths and times of a language model's sweep, and what to say of it; another model's as it is.

    UsageError for lengths where the model takes no text, and for what a sweep by tokens cannot do.
    """
    if spec.isl is None and spec.osl is None and not spec.shared_prefix and not is_language_model(model):
        return spec, []
    check_text_model(model)
    if spec.batch_size != 1 or spec.slo_p99_ms is not None or spec.repeat is not None:
        raise UsageError(
            "a language model is swept by single requests at stated numbers of users",
            code="bad_setting",
            seen="batch_size, slo_p99 or repeat",
            fix="--concurrency 1,8,32 --objective ttft or itl",
        )
    isl, osl = spec.isl or DEFAULT_TOKENS, spec.osl or DEFAULT_TOKENS
    update: dict[str, Any] = {"isl": isl, "osl": osl}
    given = spec.model_fields_set
    update |= {} if "duration_s" in given else {"duration_s": DEFAULT_DURATION_S}
    update |= {} if "warmup_s" in given else {"warmup_s": DEFAULT_WARMUP_S}
    shared = (
        f", {spec.shared_prefix} of them the same in all requests of a trial" if spec.shared_prefix else ""
    )
    return spec.model_copy(update=update), [
        f"Requests are made-up texts of about {isl} words{shared}, each answered with {osl} tokens (ignore_eos), streamed."
    ]


def check_engine(spec: SweepSpec, current: Mapping[str, Any], *, has_scratch: bool) -> None:
    """UsageError when settings of an engine are to be swept and there is none whose file could be changed.

    current: the model's config, with its engine's arguments. has_scratch: the server has a repository to write to.
    """
    swept = next((path for path in spec.space if is_of_engine(path)), None)
    if swept is None or (ENGINE in current and has_scratch):
        return
    if current.get("backend") == "vllm":
        why = (
            f"{swept} cannot be swept: the engine's arguments stand in the model's files, which are elsewhere"
        )
        raise UsageError(
            why, code="no_engine", fix="--launch embedded or binary:PATH, with the repository's directory"
        )
    raise UsageError(
        f"{swept} is of a language model's engine, and '{spec.model}' is none of the vllm backend",
        code="no_engine",
        seen=f"backend {current.get('backend') or current.get('platform') or 'unknown'}",
    )


def fresh_requests(spec: SweepSpec, model: ModelInterface) -> Fresh | None:
    """None for a model that is not asked by tokens."""
    if spec.isl is None or spec.osl is None:
        return None
    asked = PromptOptions(
        isl=Span(spec.isl, spec.isl),
        osl=Span(spec.osl, spec.osl),
        shared_prefix=spec.shared_prefix,
        count=_PROMPTS,
    )
    make = TritonRequests(model, {"temperature": 0.0}, {})

    def of_trial(number: int) -> Sequence[InferPayload]:
        prompts = made_up(replace(asked, seed=spec.seed + 1 + number), None)
        return [make(prompt.messages, prompt) for prompt in prompts]

    return of_trial
