"""A request's sampling_parameters, JSON by vLLM's names → Sampling, or a refusal that says which value cannot be.

Defaults and limits are those of vLLM's SamplingParams (vllm/sampling_params.py). Values may come as texts ("0.5"), as
upstream's backend takes them. What OpenVINO GenAI cannot do is refused and never left out.
"""

import json
import math
from collections import namedtuple

Sampling = namedtuple(
    "Sampling",
    "n temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty seed stop stop_token_ids "
    "ignore_eos max_tokens min_tokens logprobs include_stop_str_in_output skip_special_tokens",
)
"""As vLLM has them; top_k 0 is off, seed and logprobs may be None, stop is a tuple of texts."""


class SamplingRefused(Exception):
    """A parameter that is unknown, or whose value cannot be; the message names it."""


def sampling_from(text):
    """The JSON text of a request's parameters ("" and "{}" are the defaults) → Sampling."""
    try:
        given = json.loads(text) if text else {}
    except ValueError as error:
        raise SamplingRefused(f"sampling_parameters is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise SamplingRefused(f"sampling_parameters is no JSON object but a {type(given).__name__}")
    values = dict(_DEFAULTS)
    for name, value in given.items():
        if value is None:
            continue
        if name in _READ:
            values[name] = _READ[name](name, value)
        elif name not in _HARMLESS or value not in _HARMLESS[name]:
            raise SamplingRefused(_why_not(name, value))
    sampling = Sampling(**values)
    _check(sampling)
    return sampling


def _why_not(name, value):
    if name in _UNABLE or name in _HARMLESS:
        return f"{name}={value!r} is not possible here: the embedded vllm backend's engine has no such thing"
    return f"unknown sampling parameter '{name}'; there are {', '.join(sorted(_READ))}"


def _check(s):
    if s.temperature == 0 and s.n > 1:
        raise SamplingRefused(f"n must be 1 when using greedy sampling (temperature 0), got {s.n}")
    if s.min_tokens > s.max_tokens:
        raise SamplingRefused(f"min_tokens must be at most max_tokens={s.max_tokens}, got {s.min_tokens}")
    if s.logprobs is not None and s.logprobs > (1 if s.temperature == 0 else 0):
        raise SamplingRefused(
            f"logprobs={s.logprobs} is not possible here: the engine tells that of the token it took (logprobs=0, "
            "and 1 with temperature 0)"
        )
    if s.ignore_eos and s.min_tokens and s.stop_token_ids:
        raise SamplingRefused("ignore_eos, min_tokens and stop_token_ids are not possible here all together")


def _number(low=None, high=None, above=False):
    def read(name, value):
        try:
            number = float(value)
            if isinstance(value, bool) or not math.isfinite(number):
                raise ValueError
        except (TypeError, ValueError):
            raise SamplingRefused(f"{name}: {value!r} is not a number") from None
        if (low is not None and (number <= low if above else number < low)) or (
            high is not None and number > high
        ):
            bounds = f"{'above' if above else 'at least'} {low}" + (
                f" and at most {high}" if high is not None else ""
            )
            raise SamplingRefused(f"{name} must be {bounds}, got {value}")
        return number

    return read


def _whole(least):
    def read(name, value):
        try:
            if isinstance(value, bool) or int(value) != float(value):
                raise ValueError
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            raise SamplingRefused(f"{name}: {value!r} is not a whole number") from None
        if number < least:
            raise SamplingRefused(f"{name} must be at least {least}, got {number}")
        return number

    return read


def _top_k(name, value):
    return max(0, _whole(-1)(name, value))


def _seed(name, value):
    number = _whole(-1)(name, value)
    return None if number == -1 else number


def _flag(name, value):
    words = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in words:
        raise SamplingRefused(f"{name}: {value!r} is neither true nor false")
    return words[str(value).lower()]


def _texts(name, value):
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SamplingRefused(f"{name}: {value!r} is neither a text nor a list of texts")
    if "" in texts:
        raise SamplingRefused(f"{name} cannot contain an empty string")
    return tuple(texts)


def _ids(name, value):
    if not isinstance(value, list):
        raise SamplingRefused(f"{name}: {value!r} is not a list of token ids")
    return frozenset(_whole(0)(name, one) for one in value)


_DEFAULTS = {
    "n": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "seed": None,
    "stop": (),
    "stop_token_ids": frozenset(),
    "ignore_eos": False,
    "max_tokens": 16,
    "min_tokens": 0,
    "logprobs": None,
    "include_stop_str_in_output": False,
    "skip_special_tokens": True,
}
_READ = {
    "n": _whole(1),
    "temperature": _number(0.0),
    "top_p": _number(0.0, 1.0, above=True),
    "top_k": _top_k,
    "min_p": _number(0.0, 1.0),
    "presence_penalty": _number(-2.0, 2.0),
    "frequency_penalty": _number(-2.0, 2.0),
    "repetition_penalty": _number(0.0, above=True),
    "seed": _seed,
    "stop": _texts,
    "stop_token_ids": _ids,
    "ignore_eos": _flag,
    "max_tokens": _whole(1),
    "min_tokens": _whole(0),
    "logprobs": _whole(0),
    "include_stop_str_in_output": _flag,
    "skip_special_tokens": _flag,
}
# Fields of SamplingParams that ask for nothing with these values.
_HARMLESS = {
    "best_of": (1, "1"),
    "detokenize": (True,),
    "spaces_between_special_tokens": (True,),
    "use_beam_search": (False, "false"),
    "length_penalty": (1, 1.0),
    "early_stopping": (False,),
    "logit_bias": ({},),
    "bad_words": ([],),
}
_UNABLE = (
    "prompt_logprobs",
    "truncate_prompt_tokens",
    "allowed_token_ids",
    "logits_processors",
    "guided_decoding",
    "structured_outputs",
    "lora_name",
    "extra_args",
    "output_kind",
)
