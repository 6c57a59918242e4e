"""Rules about the five-model layout of TensorRT-LLM: its templates and the parameters of its backend."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Final

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.files.engine_files import (
    parameter,
    parameter_field,
)

BACKEND: Final = "tensorrtllm"
_TEMPLATES = "TensorRT-LLM/triton_backend/all_models/inflight_batcher_llm"
CPP = "TensorRT-LLM/triton_backend/inflight_batcher_llm/src/model_instance_state.cc"
_STATE = "TensorRT-LLM/triton_backend/inflight_batcher_llm/src/model_state.cc"
_FILL = "fill it in: python3 tools/fill_template.py -i config.pbtxt {}:VALUE"
_PLACEHOLDER = re.compile(
    r"""(?P<skipped>#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|\$\{(?P<name>\w+)\}"""
)
_TYPES = ("V1", "v1", "inflight_batching", "inflight_fused_batching")
ENGINE_PATH, _TYPE, _ENCODER, _TOKENIZER = (
    "gpt_model_path",
    "gpt_model_type",
    "encoder_model_path",
    "tokenizer_dir",
)

_BOOLEAN = re.compile(r"True|true|TRUE|1|False|false|FALSE|0")
_INTEGER, _NUMBER = re.compile(r"\s*[+-]?\d.*"), re.compile(r"\s*[+-]?(\d|\.\d).*")
# What the backend reads with a default, and by what form. Source: CPP and _STATE, GetParameter.
_FORMS: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys(
        (
            *(
                "kv_cache_onboard_blocks",
                "enable_trt_overlap",
                "exclude_input_in_output",
                "enable_kv_cache_reuse",
            ),
            *(
                "normalize_log_probs",
                "enable_chunked_context",
                "enable_context_fmha_fp32_acc",
                "multi_block_mode",
            ),
            *("cuda_graph_mode", "speculative_decoding_fast_logits"),
        ),
        _BOOLEAN,
    ),
    **dict.fromkeys(
        (
            *(
                "max_beam_width",
                "max_tokens_in_paged_kv_cache",
                "sink_token_length",
                "kv_cache_host_memory_bytes",
            ),
            *(
                "cancellation_check_period_ms",
                "stats_check_period_ms",
                "iter_stats_max_iterations",
                "num_nodes",
            ),
            *(
                "request_stats_max_iterations",
                "lora_cache_optimal_adapter_size",
                "lora_cache_max_adapter_size",
            ),
            *("lora_cache_host_memory_bytes", "cuda_graph_cache_size", "recv_poll_period_ms"),
        ),
        _INTEGER,
    ),
    **dict.fromkeys(
        (
            *("kv_cache_free_gpu_mem_fraction", "cross_kv_cache_fraction", "gpu_weights_percent"),
            "lora_cache_gpu_memory_fraction",
        ),
        _NUMBER,
    ),
    "batch_scheduler_policy": re.compile("max_utilization|guaranteed_no_evict"),
    "decoding_mode": re.compile("top_k|top_p|top_k_top_p|beam_search|medusa|redrafter|lookahead|eagle"),
}
_OTHERS = (
    *(ENGINE_PATH, _TYPE, _ENCODER, _TOKENIZER, "FORCE_CPU_ONLY_INPUT_TENSORS", "max_attention_window_size"),
    *(
        "gpu_device_ids",
        "participant_ids",
        "lora_prefetch_dir",
        "executor_worker_path",
        "lookahead_window_size",
    ),
    *("lookahead_ngram_size", "lookahead_verification_set_size", "medusa_choices", "eagle_choices"),
    *("guided_decoding_backend", "xgrammar_tokenizer_info_path", "encoder_input_features_data_type"),
)
_FORM_WORDS = {_BOOLEAN: "true or false", _INTEGER: "a whole number", _NUMBER: "a number"}


def is_engine_model(model: Model) -> bool:
    """Whether it is the model of that layout that has the engine: of the C++ backend, or of its twin in Python."""
    config = model.config
    return config.backend == BACKEND or (
        config.backend == "python" and {ENGINE_PATH, _TYPE} <= set(config.parameters)
    )


def value_of(model: Model, name: str) -> str:
    """A parameter's value; empty where it is not there or a template's placeholder, which the backend takes for none."""
    text = parameter(model, name) or ""
    return "" if _is_placeholder(text) else text


def _is_placeholder(text: str) -> bool:
    return text.startswith("${") and text.endswith("}")


def parameter_text(name: str, value: str) -> str:
    """A parameter as config.pbtxt has it."""
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'


UNFINISHED = f'backend: "tensorrtllm"\n{parameter_text(_TYPE, "inflight_fused_batching")}\n'
_FILLED = UNFINISHED + parameter_text(ENGINE_PATH, "/engines/m")


@rule(
    "TRTLLM001",
    "error",
    "poll",
    then="the text does not parse, and the server does not poll the model",
    fix=_FILL.format("NAME"),
    source=f"{_TEMPLATES}/tensorrt_llm/config.pbtxt; tools/fill_template.py",
    bad=f"{_FILLED}\nmax_batch_size: ${{triton_max_batch_size}}",
    good=f"{_FILLED}\nmax_batch_size: 8",
    needs="",
)
def unfilled_template(model: Model, context: Context) -> Iterator[Hit]:
    """A `${…}` of a template stands where a number or word is to be."""
    parsed = model.parsed
    if parsed is None or parsed.message is not None:
        return
    for found in _PLACEHOLDER.finditer(parsed.text):
        if name := found["name"]:
            line = parsed.text.count("\n", 0, found.start()) + 1
            yield Hit(f"'{name}' is not filled in", seen=found.group(), line=line, fix=_FILL.format(name))


@rule(
    "TRTLLM002",
    "error",
    "load",
    then="the model does not load: this one has no default",
    fix=_FILL.format("NAME"),
    source=f"{CPP}, ModelInstanceState; {_TEMPLATES}/preprocessing/1/model.py, initialize",
    bad=UNFINISHED + parameter_text(ENGINE_PATH, "${engine_dir}"),
    good=_FILLED,
)
def unfilled_parameter(model: Model, context: Context) -> Iterator[Hit]:
    """A parameter without a default is left out or still a template's `${…}`, or backend is."""
    if _is_placeholder(model.config.backend):
        yield Hit("the backend is not filled in", "backend", model.config.backend)
    if is_engine_model(model):
        needed = [_TYPE] if model.config.backend == BACKEND else []
        if not (value_of(model, ENGINE_PATH) or value_of(model, _ENCODER)):
            needed.append(ENGINE_PATH)
    else:
        # Of those that are there: other models may have parameters of that name, and mean others by leaving them out.
        needed = [_TOKENIZER] if model.config.backend == "python" and parameter(model, _TOKENIZER) else []
    for name in needed:
        if not value_of(model, name):
            seen = parameter(model, name)
            placeholder = seen[2:-1] if seen else name
            yield Hit(
                f"{name} is not {'filled in' if seen else 'given'}",
                parameter_field(name) if seen is not None else None,
                seen,
                fix=_FILL.format(placeholder),
            )


@rule(
    "TRTLLM003",
    "error",
    "load",
    then="the model does not load",
    fix="write inflight_fused_batching",
    source=f"{CPP}, getBatchingTypeFromParams",
    bad=f'backend: "tensorrtllm"\n{parameter_text(ENGINE_PATH, "/engines/m")}\n{parameter_text(_TYPE, "inflight")}',
    good=_FILLED,
)
def unknown_batching(model: Model, context: Context) -> Iterator[Hit]:
    """gpt_model_type is none that the backend knows."""
    seen = value_of(model, _TYPE)
    if model.config.backend == BACKEND and seen and seen not in _TYPES:
        yield Hit(f"'{seen}' is none of {', '.join(_TYPES[1:])}", parameter_field(_TYPE), seen)


@rule(
    "TRTLLM004",
    "warning",
    "silent",
    then="the backend warns in the server's log and takes its default",
    fix="write it in the form that the backend reads",
    source=f"{_STATE}, GetParameter; {CPP}",
    bad=f"{_FILLED}\n{parameter_text('enable_chunked_context', 'yes')}",
    good=f"{_FILLED}\n{parameter_text('enable_chunked_context', 'true')}",
)
def unread_parameter(model: Model, context: Context) -> Iterator[Hit]:
    """A parameter of the TensorRT-LLM backend has a value of another form than it reads."""
    for name, form in _FORMS.items() if model.config.backend == BACKEND else ():
        seen = value_of(model, name)
        if seen and not form.fullmatch(seen):
            wanted = _FORM_WORDS.get(form, form.pattern.replace("|", ", "))
            yield Hit(f"{name} is to be {wanted}", parameter_field(name), seen, fix=f"write {wanted}")


@rule(
    "TRTLLM005",
    "warning",
    "silent",
    then="the backend does not read it and takes its default",
    fix="write the parameter's name",
    source=f"{_TEMPLATES}/tensorrt_llm/config.pbtxt; {CPP}",
    bad=f"{_FILLED}\n{parameter_text('kv_cache_free_gpu_memory_fraction', '0.8')}",
    good=f"{_FILLED}\n{parameter_text('kv_cache_free_gpu_mem_fraction', '0.8')}",
)
def misspelt_parameter(model: Model, context: Context) -> Iterator[Hit]:
    """A parameter of the TensorRT-LLM backend has nearly the name of one that it reads."""
    known = (*_FORMS, *_OTHERS)
    for name in sorted(model.config.parameters) if model.config.backend == BACKEND else ():
        close = [] if name in known else difflib.get_close_matches(name, known, 1, 0.9)
        if close:
            yield Hit(
                f"the backend has no parameter '{name}'", parameter_field(name), name, fix=f"write {close[0]}"
            )


@rule(
    "TRTLLM009",
    "warning",
    "silent",
    then="instances share GPUs, or the backend warns in the server's log and chooses them itself",
    fix="name the GPUs of each instance: 0,1;2,3",
    source=f"{_STATE}, LoadParameters; {CPP}, ModelInstanceState (mInstanceIndex)",
    bad=f"{_FILLED}\n{parameter_text('gpu_device_ids', '0,1')}\ninstance_group {{ kind: KIND_CPU count: 2 }}",
    good=f"{_FILLED}\n{parameter_text('gpu_device_ids', '0;1')}\ninstance_group {{ kind: KIND_CPU count: 2 }}",
)
def wrong_device_ids(model: Model, context: Context) -> Iterator[Hit]:
    """gpu_device_ids of the TensorRT-LLM backend is no list of numbers, or has GPUs for fewer instances than there are."""
    text = value_of(model, "gpu_device_ids") if model.config.backend == BACKEND else ""
    if not text:
        return
    place, known = parameter_field("gpu_device_ids"), context.target.gpus
    parts = [part.strip() for part in re.split("[;,]", text)]
    if not all(re.fullmatch(r"\d{1,6}", part) for part in parts):
        yield Hit("gpu_device_ids is no list of numbers", place, text)
        return
    count = sum(max(1, group.count) for group in model.config.instance_group)
    if count > len(text.split(";")) > 0:
        yield Hit(f"gpu_device_ids has GPUs for {len(text.split(';'))} of {count} instances", place, text)
    if known is not None and max(map(int, parts)) >= known:
        yield Hit(f"gpu_device_ids names GPU {max(map(int, parts))}, and the target has {known}", place, text)


@rule(
    "TRTLLM010",
    "error",
    "silent",
    then="the calls of one fail in the other: a decoupled model answers decoupled calls, another one plain ones",
    fix="set decoupled alike in both",
    source=f"{_TEMPLATES}/tensorrt_llm_bls/1/lib/triton_decoder.py, _exec_triton_request and _exec_triton_request_single",
    bad="# in tensorrt_llm_bls/config.pbtxt\nmodel_transaction_policy { decoupled: true }  # and tensorrt_llm is not",
    good="# in tensorrt_llm_bls/config.pbtxt\nmodel_transaction_policy { decoupled: true }  # and tensorrt_llm is, too",
    needs="files",
)
def decoupled_in_one(model: Model, context: Context) -> Iterator[Hit]:
    """tensorrt_llm_bls is decoupled and the model that it calls is not, or the other way round."""
    name = parameter(model, "tensorrt_llm_model_name")
    if model.config.backend != "python" or name is None or "accumulate_tokens" not in model.config.parameters:
        return
    called = context.repository.models.get("tensorrt_llm" if not name or _is_placeholder(name) else name)
    if called is None or called.config is None or not is_engine_model(called):
        return
    ours = model.config.model_transaction_policy.decoupled
    theirs = called.config.model_transaction_policy.decoupled
    if ours != theirs:
        yield Hit(
            f"decoupled is {str(ours).lower()} here, and {str(theirs).lower()} in {called.name}",
            "model_transaction_policy.decoupled"
            if model.config.HasField("model_transaction_policy")
            else None,
            ours,
        )
