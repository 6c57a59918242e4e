"""model.json, vLLM's engine arguments → what OpenVINO GenAI's scheduler takes, and the arguments that it has no word for.

Names, defaults and meanings are those of vLLM's AsyncEngineArgs (vllm/engine/arg_utils.py).
"""

import math
from collections import namedtuple

EngineSettings = namedtuple(
    "EngineSettings",
    ["scheduler", "properties", "max_num_seqs", "kv_tokens", "max_model_len", "seed", "unused"],
)
"""scheduler: fields of SchedulerConfig. properties: OpenVINO's, of the device. kv_tokens: tokens that the KV cache holds
together, None where it grows. max_model_len: None where the model says. unused: [argument] that mean nothing here."""

# OpenVINO's CPU plugin has KV blocks of this many tokens and of no other number.
BLOCK_TOKENS = 32
DEFAULT_MAX_NUM_SEQS = 256
_DTYPES = {
    "auto": None,
    "float32": "f32",
    "float": "f32",
    "bfloat16": "bf16",
    "float16": "f16",
    "half": "f16",
}
_GIB = 2**30
# Read by the backend itself, or true of it anyway: one device, no compiled CUDA graphs, no log of its own.
_MEANT = {
    "model": None,
    "task": ("auto", "generate"),
    "runner": ("auto", "generate"),
    "tensor_parallel_size": (1,),
    "pipeline_parallel_size": (1,),
    "data_parallel_size": (1,),
    "block_size": (None, BLOCK_TOKENS),
    "kv_cache_dtype": ("auto",),
    "device": ("auto", "cpu"),
    "disable_log_requests": None,
    "enable_log_requests": None,
    "disable_log_stats": None,
    "enforce_eager": None,
    "enable_lora": (False, "false", "False", None),
}


class ArgumentRefused(Exception):
    """An engine argument whose value cannot be; the message names both."""


def settings_from(arguments, cores, cache_gib=None):
    """({argument: value} of model.json, cores to run on, VLLM_CPU_KVCACHE_SPACE) → EngineSettings.

    ArgumentRefused for what vLLM would refuse, too, and for what would make the answers other than asked for.
    """
    left = dict(arguments)
    if not isinstance(left.get("model"), str) or not left["model"]:
        raise ArgumentRefused(
            "model.json names no 'model': a path relative to its directory, or an absolute one"
        )
    if str(left.get("enable_lora", False)).lower() == "true":
        raise ArgumentRefused(
            "enable_lora: the embedded vllm backend serves no LoRA adapters; serve without them"
        )
    max_model_len = _whole(left, "max_model_len", 1)
    max_num_seqs = _whole(left, "max_num_seqs", 1) or DEFAULT_MAX_NUM_SEQS
    batched = _whole(left, "max_num_batched_tokens", 1)
    if batched is not None and batched < max_num_seqs:
        raise ArgumentRefused(
            f"max_num_batched_tokens ({batched}) must be at least max_num_seqs ({max_num_seqs})"
        )
    chunked = _flag(left, "enable_chunked_prefill", True)
    if not chunked and batched is not None and max_model_len is not None and batched < max_model_len:
        raise ArgumentRefused(
            f"max_num_batched_tokens ({batched}) is smaller than max_model_len ({max_model_len}): without chunked "
            "prefill no prompt longer than that would ever be scheduled"
        )
    scheduler = {
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": batched or max(256, max_num_seqs, 0 if chunked else max_model_len or 0),
        "enable_prefix_caching": _flag(left, "enable_prefix_caching", True),
        "dynamic_split_fuse": chunked,
        "num_kv_blocks": 0,
        "cache_size": 0,
    }
    kv_tokens = _kv_cache(left, scheduler, cache_gib)
    properties = {"INFERENCE_NUM_THREADS": cores, "ENABLE_CPU_PINNING": True}
    dtype = left.pop("dtype", "auto")
    if dtype not in _DTYPES:
        raise ArgumentRefused(f"dtype: {dtype!r} is none of {', '.join(sorted(_DTYPES))}")
    if _DTYPES[dtype]:
        properties["INFERENCE_PRECISION_HINT"] = _DTYPES[dtype]
    if _DTYPES[dtype] == "f32":
        # Else quantised weights are multiplied with activations of 8 bits, by other kernels for one row than for many.
        properties |= {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}
    seed = _whole(left, "seed", 0) or 0
    unused = [name for name, value in sorted(left.items()) if not _is_meant(name, value)]
    return EngineSettings(scheduler, properties, max_num_seqs, kv_tokens, max_model_len, seed, unused)


def told(settings, arguments):
    """The one log line about the arguments that mean nothing here; None when there are none."""
    if not settings.unused:
        return None
    named = ", ".join(f"{name}={arguments[name]!r}" for name in settings.unused)
    return (
        f"[vllm] engine arguments that the embedded backend (OpenVINO GenAI on CPU) has no use for: {named}"
    )


def context(settings, made_for):
    """Tokens of a prompt and its answer together. made_for: the weights' own, None where they do not say."""
    asked, room = settings.max_model_len, settings.kv_tokens
    if asked and made_for and asked > made_for:
        raise ArgumentRefused(
            f"User-specified max_model_len ({asked}) is greater than the derived max_model_len ({made_for}), which the "
            "model was made for"
        )
    if asked and room and asked > room:
        raise ArgumentRefused(
            f"the model's max seq len ({asked}) is larger than the maximum number of tokens that can be stored in KV "
            f"cache ({room}); increase num_gpu_blocks_override or decrease max_model_len"
        )
    limit = min((n for n in (asked, made_for, room) if n), default=None)
    if limit is None:
        raise ArgumentRefused("the model does not say which context it was made for; set max_model_len")
    return limit


def wants_metrics(config, arguments):
    """Whether REPORT_CUSTOM_METRICS asks for them; upstream's releases want "yes", later ones "true"."""
    value = config.get("parameters", {}).get("REPORT_CUSTOM_METRICS", {}).get("string_value", "")
    return value.lower() in ("yes", "true") and not arguments.get("disable_log_stats")


def check_room(settings, available_bytes):
    """ArgumentRefused for a KV cache that memory cannot hold."""
    gib = settings.scheduler["cache_size"]
    if available_bytes is not None and gib * _GIB > available_bytes:
        raise ArgumentRefused(
            f"the KV cache is to take {gib} GiB and {available_bytes / _GIB:.1f} GiB of memory are available; lower "
            "kv_cache_memory_bytes (or the variable VLLM_CPU_KVCACHE_SPACE)"
        )


def _kv_cache(left, scheduler, cache_gib):
    """Sets num_kv_blocks or cache_size; the tokens that fit, where that is known."""
    blocks = _whole(left, "num_gpu_blocks_override", 1)
    if blocks is not None:
        tokens = blocks * (_whole(left, "block_size", 1) or 16)
        scheduler["num_kv_blocks"] = max(1, tokens // BLOCK_TOKENS)
        return scheduler["num_kv_blocks"] * BLOCK_TOKENS
    size = _whole(left, "kv_cache_memory_bytes", 1)
    gib = cache_gib if size is None else size / _GIB
    # The engine counts in whole GiB.
    scheduler["cache_size"] = 0 if not gib else math.ceil(gib)
    return None


def _whole(left, name, least):
    value = left.pop(name, None)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or int(value) != float(value) or int(value) < least:
            raise ValueError
    except (TypeError, ValueError):
        raise ArgumentRefused(f"{name}: {value!r} is not a whole number of at least {least}") from None
    return int(value)


def _flag(left, name, default):
    value = left.pop(name, None)
    if value is None:
        return default
    words = {"true": True, "false": False}
    if str(value).lower() not in words:
        raise ArgumentRefused(f"{name}: {value!r} is neither true nor false")
    return words[str(value).lower()]


def _is_meant(name, value):
    return value is None or (name in _MEANT and (_MEANT[name] is None or value in _MEANT[name]))
