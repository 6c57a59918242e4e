"""Backend → what its own program reads and answers, and the files it looks for beside the weights.

Sources: triton-inference-server/vllm_backend, src/model.py (auto_complete_config, _init_engine_args, _setup_lora);
NVIDIA/TensorRT-LLM, triton_backend/all_models/llmapi/tensorrt_llm/config.pbtxt and 1/model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BACKENDS = ("vllm", "tensorrtllm")
"""Of a language model, the default first."""

VERSION = "1"
LORA_DIRECTORY = "lora"
"""Adapters lie in the version directory, too, each in `lora/NAME`."""
VLLM_ARGUMENTS_FILE = "model.json"
VLLM_LORA_FILE = "multi_lora.json"
TENSORRTLLM_ARGUMENTS_FILE = "model.yaml"
ARGUMENT_FILES = (VLLM_ARGUMENTS_FILE, VLLM_LORA_FILE, TENSORRTLLM_ARGUMENTS_FILE)

# Source: triton-inference-server/triton_cli, pull request 112 ("LLM API backend option, which require Tensorrt-LLM 0.18.0+").
FIRST_LLMAPI = "0.18.0"

# Source: vllm_backend pull requests 73 and 76, December 2024: what was compared to "yes" is compared to "true" since.
FIRST_TRUE = "24.12"
FLAGS = ("REPORT_CUSTOM_METRICS", "ENABLE_VLLM_HEALTH_CHECK")
_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output, by Triton's words."""

    name: str
    data_type: str
    dims: tuple[int, ...] = (1,)
    optional: bool = False

    def as_config(self) -> dict[str, Any]:
        """As ModelConfig has it."""
        told = {"name": self.name, "data_type": self.data_type, "dims": list(self.dims)}
        return {**told, "optional": True} if self.optional else told


def _optional(data_type: str, *names: str, dims: tuple[int, ...] = (1,)) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, data_type, dims, True) for name in names)


_ANY = (-1,)
# What a server that completes no config must be told. `embedding_request`, which only Triton's own OpenAI front end may
# set, is left to the backend to add.
_VLLM_INPUTS = (
    Tensor("text_input", "TYPE_STRING"),
    *_optional("TYPE_STRING", "image", dims=_ANY),
    *_optional("TYPE_BOOL", "stream"),
    *_optional("TYPE_STRING", "sampling_parameters"),
    *_optional(
        "TYPE_BOOL",
        "exclude_input_in_output",
        "return_finish_reason",
        "return_cumulative_logprob",
        "return_logprobs",
        "return_num_input_tokens",
        "return_num_output_tokens",
    ),
)
_VLLM_OUTPUTS = (
    Tensor("text_output", "TYPE_STRING", _ANY),
    Tensor("finish_reason", "TYPE_STRING", _ANY),
    Tensor("cumulative_logprob", "TYPE_FP32", _ANY),
    Tensor("logprobs", "TYPE_STRING", _ANY),
    Tensor("num_input_tokens", "TYPE_UINT32"),
    Tensor("num_output_tokens", "TYPE_UINT32", _ANY),
)
# Without the inputs of images and of LoRA, which only the newest programs read: a spec may state them.
_LLMAPI_INPUTS = (
    Tensor("text_input", "TYPE_STRING", _ANY),
    *_optional("TYPE_BOOL", "streaming"),
    *_optional("TYPE_INT32", "sampling_param_best_of"),
    *_optional("TYPE_FP32", "sampling_param_temperature"),
    *_optional("TYPE_INT32", "sampling_param_top_k"),
    *_optional(
        "TYPE_FP32",
        "sampling_param_top_p",
        "sampling_param_frequency_penalty",
        "sampling_param_presence_penalty",
    ),
    *_optional("TYPE_INT32", "sampling_param_max_tokens"),
    *_optional("TYPE_STRING", "sampling_param_stop", dims=_ANY),
    *_optional("TYPE_UINT64", "sampling_param_seed"),
    *_optional(
        "TYPE_BOOL",
        "sampling_param_exclude_input_from_output",
        "sampling_param_return_perf_metrics",
        "return_finish_reason",
        "return_stop_reason",
        "return_cumulative_logprob",
        "stop",
    ),
)
_LLMAPI_OUTPUTS = (
    Tensor("text_output", "TYPE_STRING", _ANY),
    Tensor("finish_reason", "TYPE_STRING", _ANY),
    Tensor("stop_reason", "TYPE_STRING", _ANY),
    Tensor("cumulative_logprob", "TYPE_FP32", _ANY),
    *(
        Tensor(name, "TYPE_INT32", _ANY)
        for name in (
            "kv_cache_reused_block",
            "kv_cache_missed_block",
            "kv_cache_alloc_new_blocks",
            "kv_cache_alloc_total_blocks",
        )
    ),
    Tensor("kv_cache_hit_rate", "TYPE_FP32", _ANY),
    *(
        Tensor(name, "TYPE_INT64")
        for name in (
            "arrival_time_ns",
            "first_scheduled_time_ns",
            "first_token_time_ns",
            "last_token_time_ns",
        )
    ),
    Tensor("acceptance_rate", "TYPE_FP32"),
    Tensor("total_accepted_draft_tokens", "TYPE_INT32"),
    Tensor("total_draft_tokens", "TYPE_INT32"),
)

TENSORS: Mapping[str, Mapping[str, tuple[Tensor, ...]]] = {
    "vllm": {"input": _VLLM_INPUTS, "output": _VLLM_OUTPUTS},
    "tensorrtllm": {"input": _LLMAPI_INPUTS, "output": _LLMAPI_OUTPUTS},
}


def flag_text(value: str, release: str | None) -> str:
    """`yes`, `True` → the only word for it that the vLLM backend of a release takes; what is no such word stays.

    release: of Triton; None for the newest.
    """
    word = value.strip().lower()
    if word in _TRUE:
        return "yes" if release is not None and release < FIRST_TRUE else "true"
    return "false" if word in _FALSE else value
