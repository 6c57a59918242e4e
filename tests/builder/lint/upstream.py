"""Upstream's own repositories of language models, from their facts: names, types, dims and maps, as they are filled in.

Sources: triton-inference-server/vllm_backend, samples/model_repository/vllm_model and ci/L0_multi_gpu_vllm/multi_lora/
test.sh; NVIDIA/TensorRT-LLM, triton_backend/all_models/inflight_batcher_llm (0c8de69a1ca6, 2a9abd9536aa, 08dc37e368e4,
0193dbd41892) and all_models/llmapi (0ebb1536ac12, 0a71057313ec).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

Files = dict[str, str | bytes]

SAMPLE_ARGUMENTS = {
    "model": "facebook/opt-125m",
    "disable_log_requests": True,
    "gpu_memory_utilization": 0.5,
    "enforce_eager": True,
    "disable_log_stats": False,
}
LORA_ARGUMENTS = {
    "model": "./weights/backbone/gemma-2b",
    "gpu_memory_utilization": 0.7,
    "tensor_parallel_size": 2,
    "block_size": 16,
    "enforce_eager": True,
    "enable_lora": True,
    "max_lora_rank": 32,
    "lora_extra_vocab_size": 256,
    "distributed_executor_backend": "ray",
}
LORA = {"doll": "./weights/loras/GemmaDoll", "sheep": "./weights/loras/GemmaSheep"}


def vllm(
    name: str = "vllm_model", arguments: Mapping[str, object] = SAMPLE_ARGUMENTS, more: str = ""
) -> Files:
    """The sample of the vLLM backend."""
    config = f"""name: "{name}"
backend: "vllm"
max_batch_size: 0
model_transaction_policy {{
  decoupled: True
}}
{_tensors("input", "text_input STRING 1; stream BOOL 1; sampling_parameters STRING 1 ?")}
{_tensors("output", "text_output STRING -1")}
instance_group [ {{ count: 1 kind: KIND_MODEL }} ]
{more}
"""
    return {
        f"repository/{name}/config.pbtxt": config,
        f"repository/{name}/1/model.json": json.dumps(arguments, indent=4),
    }


def vllm_with_lora(enable_lora: object = True) -> Files:
    """The one of its tests with adapters."""
    name = "vllm_llama_multi_lora"
    files = vllm(name, {**LORA_ARGUMENTS, "enable_lora": enable_lora})
    return {**files, f"repository/{name}/1/multi_lora.json": json.dumps(LORA)}


def llmapi() -> Files:
    """all_models/llmapi/tensorrt_llm."""
    inputs = """text_input STRING -1; streaming BOOL 1 ?; sampling_param_best_of INT32 1 ?;
        sampling_param_temperature FP32 1 ?; sampling_param_top_k INT32 1 ?; sampling_param_top_p FP32 1 ?;
        sampling_param_max_tokens INT32 1 ?; sampling_param_stop STRING -1 ?; sampling_param_seed UINT64 1 ?;
        return_finish_reason BOOL 1 ?; stop BOOL 1 ?; lora_id UINT64 1 ?; lora_name STRING 1 ?"""
    outputs = """text_output STRING -1; finish_reason STRING -1; stop_reason STRING -1; cumulative_logprob FP32 -1;
        kv_cache_hit_rate FP32 -1; arrival_time_ns INT64 1; total_draft_tokens INT32 1"""
    config = f"""name: "tensorrt_llm"
backend: "python"
instance_group [ {{ count: 1 kind : KIND_CPU }} ]
{_tensors("input", inputs)}
{_tensors("output", outputs)}
"""
    yaml = """model: TinyLlama/TinyLlama-1.1B-Chat-v1.0
backend: "pytorch"
tensor_parallel_size: 1
pipeline_parallel_size: 1
triton_config:
  max_batch_size: 0
  decoupled: False
"""
    return {
        "repository/tensorrt_llm/config.pbtxt": config,
        "repository/tensorrt_llm/1/model.yaml": yaml,
        "repository/tensorrt_llm/1/model.py": "from tensorrt_llm import LLM  # reads model.yaml\n",
    }


# What the guides fill in; the rest stays `${…}`, which the programs take for not given.
FILLED = {
    "triton_backend": "tensorrtllm",
    "triton_max_batch_size": "64",
    "decoupled_mode": "False",
    "max_beam_width": "1",
    "engine_dir": "/engines/llama",
    "max_tokens_in_paged_kv_cache": "2560",
    "max_attention_window_size": "2560",
    "kv_cache_free_gpu_mem_fraction": "0.5",
    "exclude_input_in_output": "True",
    "enable_kv_cache_reuse": "False",
    "batching_strategy": "inflight_fused_batching",
    "max_queue_delay_microseconds": "0",
    "max_queue_size": "0",
    "encoder_input_features_data_type": "TYPE_FP16",
    "prompt_embedding_table_data_type": "TYPE_FP16",
    "logits_datatype": "TYPE_FP32",
    "tokenizer_dir": "/models/llama",
    "preprocessing_instance_count": "1",
    "postprocessing_instance_count": "1",
    "bls_instance_count": "1",
    "accumulate_tokens": "False",
}
_SCALARS = """temperature FP32; runtime_top_k INT32; runtime_top_p FP32; runtime_top_p_min FP32;
    runtime_top_p_decay FP32; runtime_top_p_reset_ids INT32; len_penalty FP32; early_stopping BOOL;
    repetition_penalty FP32; min_tokens INT32; beam_search_diversity_rate FP32; presence_penalty FP32;
    frequency_penalty FP32; seed UINT64; return_log_probs BOOL; return_context_logits BOOL;
    return_generation_logits BOOL; return_perf_metrics BOOL; return_num_input_tokens BOOL;
    return_num_output_tokens BOOL; exclude_input_in_output BOOL; stop BOOL; streaming BOOL"""
_LLM_IN = f"""input_ids INT32 -1 r?; encoder_input_features ${{encoder_input_features_data_type}} -1,-1 r?;
    encoder_output_lengths INT32 1 s?; input_lengths INT32 1 s; request_output_len INT32 1 s;
    num_return_sequences INT32 1 s?; draft_input_ids INT32 -1 r?; decoder_input_ids INT32 -1 r?;
    decoder_input_lengths INT32 1 s?; draft_logits ${{logits_datatype}} -1,-1 r?;
    draft_acceptance_threshold FP32 1 s?; end_id INT32 1 s?; pad_id INT32 1 s?; stop_words_list INT32 2,-1 r?;
    bad_words_list INT32 2,-1 r?; embedding_bias FP32 -1 r?; beam_width INT32 1 s?;
    {"; ".join(f"{pair.strip()} 1 s?" for pair in _SCALARS.split(";"))};
    prompt_embedding_table ${{prompt_embedding_table_data_type}} -1,-1 r?; prompt_table_extra_ids UINT64 -1 r?;
    prompt_vocab_size INT32 1 s?; cross_attention_mask BOOL -1,-1 r?; mrope_rotary_cos_sin FP32 -1 ?;
    mrope_position_deltas INT64 1 ?; lora_task_id UINT64 1 s?; lora_weights FP16 -1,-1 r?; lora_config INT32 -1,3 r?;
    context_phase_params UINT8 -1 r?; skip_cross_attn_blocks BOOL 1 r?; retention_token_range_starts INT32 -1 r?;
    guided_decoding_guide_type STRING 1 r?; guided_decoding_guide STRING 1 r?; lookahead_window_size INT32 1 r?"""
_COUNTERS = """batch_index INT32 1; sequence_index INT32 1; kv_cache_alloc_new_blocks INT32 1;
    kv_cache_reused_blocks INT32 1; kv_cache_alloc_total_blocks INT32 1; arrival_time_ns INT64 1;
    first_scheduled_time_ns INT64 1; first_token_time_ns INT64 1; last_token_time_ns INT64 1; acceptance_rate FP32 1;
    total_accepted_draft_tokens INT32 1; total_draft_tokens INT32 1; num_input_tokens INT32 1;
    num_output_tokens INT32 1"""
_LOGITS = """cum_log_probs FP32 -1; output_log_probs FP32 -1,-1; context_logits ${logits_datatype} -1,-1;
    generation_logits ${logits_datatype} -1,-1,-1"""
_LLM_OUT = (
    f"output_ids INT32 -1,-1; sequence_length INT32 -1; {_LOGITS}; {_COUNTERS}; context_phase_params UINT8 -1"
)
_LLM_PARAMETERS = {
    "max_beam_width": "${max_beam_width}",
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "gpt_model_type": "${batching_strategy}",
    "gpt_model_path": "${engine_dir}",
    "encoder_model_path": "${encoder_engine_dir}",
    **{
        name: f"${{{name}}}"
        for name in [
            "max_tokens_in_paged_kv_cache",
            "max_attention_window_size",
            "sink_token_length",
            "batch_scheduler_policy",
            "kv_cache_free_gpu_mem_fraction",
            "cross_kv_cache_fraction",
            "kv_cache_host_memory_bytes",
            "kv_cache_onboard_blocks",
            "enable_trt_overlap",
            "exclude_input_in_output",
            "cancellation_check_period_ms",
            "stats_check_period_ms",
            "iter_stats_max_iterations",
            "request_stats_max_iterations",
            "enable_kv_cache_reuse",
            "normalize_log_probs",
            "enable_chunked_context",
            "gpu_device_ids",
            "participant_ids",
            "num_nodes",
            "lora_cache_optimal_adapter_size",
            "lora_cache_max_adapter_size",
            "lora_cache_gpu_memory_fraction",
            "lora_cache_host_memory_bytes",
            "lora_prefetch_dir",
            "decoding_mode",
            "lookahead_window_size",
            "lookahead_ngram_size",
            "lookahead_verification_set_size",
            "medusa_choices",
            "eagle_choices",
            "gpu_weights_percent",
            "enable_context_fmha_fp32_acc",
            "multi_block_mode",
            "cuda_graph_mode",
            "cuda_graph_cache_size",
            "speculative_decoding_fast_logits",
            "tokenizer_dir",
            "guided_decoding_backend",
            "xgrammar_tokenizer_info_path",
        ]
    },
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
}
_PRE_IN = """QUERY STRING 1; DECODER_QUERY STRING 1 ?; IMAGE_BYTES UINT8 -1,-1,-1,-1 ?; IMAGE_URL STRING 1 ?;
    REQUEST_OUTPUT_LEN INT32 1; BAD_WORDS_DICT STRING -1 ?; STOP_WORDS_DICT STRING -1 ?;
    EMBEDDING_BIAS_WORDS STRING -1 ?; EMBEDDING_BIAS_WEIGHTS FP32 -1 ?; END_ID INT32 1 ?; PAD_ID INT32 1 ?;
    PROMPT_TABLE_EXTRA_ID UINT64 1 ?"""
_PRE_OUT = """INPUT_ID INT32 -1; REQUEST_INPUT_LEN INT32 1; DECODER_INPUT_ID INT32 -1; REQUEST_DECODER_INPUT_LEN INT32 1;
    BAD_WORDS_IDS INT32 2,-1; STOP_WORDS_IDS INT32 2,-1; EMBEDDING_BIAS FP32 -1; REQUEST_OUTPUT_LEN INT32 -1;
    OUT_END_ID INT32 1; OUT_PAD_ID INT32 1; OUT_PROMPT_TABLE_EXTRA_IDS UINT64 -1; PIXEL_VALUES FP16 -1,-1,-1,-1;
    IMAGE_GRID_THW INT64 3"""
_ASKED = """text_input STRING 1; decoder_text_input STRING 1 ?; max_tokens INT32 1; num_return_sequences INT32 1 ?;
    bad_words STRING -1 ?; stop_words STRING -1 ?; exclude_input_in_output BOOL 1 ?; end_id INT32 1 ?;
    pad_id INT32 1 ?; top_k INT32 1 ?; top_p FP32 1 ?; temperature FP32 1 ?; length_penalty FP32 1 ?;
    repetition_penalty FP32 1 ?; min_tokens INT32 1 ?; presence_penalty FP32 1 ?; frequency_penalty FP32 1 ?;
    seed UINT64 1 ?; return_log_probs BOOL 1 ?; return_context_logits BOOL 1 ?; return_generation_logits BOOL 1 ?;
    return_perf_metrics BOOL 1 ?; return_num_input_tokens BOOL 1 ?; return_num_output_tokens BOOL 1 ?;
    beam_width INT32 1 ?; stream BOOL 1 ?; prompt_embedding_table FP16 -1,-1 ?; prompt_table_extra_id UINT64 1 ?;
    prompt_vocab_size INT32 1 ?; embedding_bias_words STRING -1 ?; embedding_bias_weights FP32 -1 ?;
    lora_task_id UINT64 1 ?; lora_weights FP16 -1,-1 r?; lora_config INT32 -1,3 r?;
    guided_decoding_guide_type STRING 1 r?; guided_decoding_guide STRING 1 r?"""
_ANSWERED = f"text_output STRING -1; {_LOGITS}; {_COUNTERS}"
_STEPS = {
    "preprocessing": (
        """QUERY=text_input DECODER_QUERY=decoder_text_input REQUEST_OUTPUT_LEN=max_tokens BAD_WORDS_DICT=bad_words
        STOP_WORDS_DICT=stop_words EMBEDDING_BIAS_WORDS=embedding_bias_words
        EMBEDDING_BIAS_WEIGHTS=embedding_bias_weights END_ID=end_id PAD_ID=pad_id
        PROMPT_TABLE_EXTRA_ID=prompt_table_extra_id""",
        """REQUEST_INPUT_LEN=_REQUEST_INPUT_LEN INPUT_ID=_INPUT_ID REQUEST_DECODER_INPUT_LEN=_REQUEST_DECODER_INPUT_LEN
        DECODER_INPUT_ID=_DECODER_INPUT_ID REQUEST_OUTPUT_LEN=_REQUEST_OUTPUT_LEN STOP_WORDS_IDS=_STOP_WORDS_IDS
        BAD_WORDS_IDS=_BAD_WORDS_IDS EMBEDDING_BIAS=_EMBEDDING_BIAS OUT_END_ID=_PREPROCESSOR_END_ID
        OUT_PAD_ID=_PREPROCESSOR_PAD_ID OUT_PROMPT_TABLE_EXTRA_IDS=_OUT_PROMPT_TABLE_EXTRA_IDS""",
    ),
    "tensorrt_llm": (
        """input_ids=_INPUT_ID decoder_input_ids=_DECODER_INPUT_ID input_lengths=_REQUEST_INPUT_LEN
        decoder_input_lengths=_REQUEST_DECODER_INPUT_LEN exclude_input_in_output=exclude_input_in_output
        request_output_len=_REQUEST_OUTPUT_LEN end_id=_PREPROCESSOR_END_ID pad_id=_PREPROCESSOR_PAD_ID
        embedding_bias=_EMBEDDING_BIAS runtime_top_k=top_k runtime_top_p=top_p temperature=temperature
        len_penalty=length_penalty repetition_penalty=repetition_penalty min_tokens=min_tokens
        presence_penalty=presence_penalty frequency_penalty=frequency_penalty seed=seed
        return_log_probs=return_log_probs return_context_logits=return_context_logits
        return_generation_logits=return_generation_logits return_perf_metrics=return_perf_metrics
        return_num_input_tokens=return_num_input_tokens return_num_output_tokens=return_num_output_tokens
        num_return_sequences=num_return_sequences beam_width=beam_width streaming=stream
        prompt_embedding_table=prompt_embedding_table prompt_vocab_size=prompt_vocab_size
        stop_words_list=_STOP_WORDS_IDS bad_words_list=_BAD_WORDS_IDS
        prompt_table_extra_ids=_OUT_PROMPT_TABLE_EXTRA_IDS lora_task_id=lora_task_id lora_weights=lora_weights
        lora_config=lora_config guided_decoding_guide_type=guided_decoding_guide_type
        guided_decoding_guide=guided_decoding_guide""",
        "output_ids=_TOKENS_BATCH sequence_length=_SEQUENCE_LENGTH "
        + " ".join(f"{n}={n}" for n in (pair.split()[0] for pair in f"{_LOGITS};{_COUNTERS}".split(";"))),
    ),
    "postprocessing": ("TOKENS_BATCH=_TOKENS_BATCH SEQUENCE_LENGTH=_SEQUENCE_LENGTH", "OUTPUT=text_output"),
}
_QUEUE = """dynamic_batching {
    preferred_batch_size: [ ${triton_max_batch_size} ]
    max_queue_delay_microseconds: ${max_queue_delay_microseconds}
    default_queue_policy: { max_queue_size: ${max_queue_size} }
}"""
_DECOUPLED = "model_transaction_policy {\n  decoupled: ${decoupled_mode}\n}"


def five_models(**filled: str) -> Files:
    """all_models/inflight_batcher_llm, its `${…}` filled in as the guides do; a value of `` leaves one as it is."""
    values = {name: value for name, value in {**FILLED, **filled}.items() if value}
    texts = {
        "preprocessing": _model("preprocessing", _QUEUE, _PRE_IN, _PRE_OUT, "preprocessing")
        + _parameters(
            {name: f"${{{name}}}" for name in ("tokenizer_dir", "add_special_tokens", "max_num_images")}
        ),
        "postprocessing": _model(
            "postprocessing",
            "dynamic_batching {}",
            "TOKENS_BATCH INT32 -1,-1; SEQUENCE_LENGTH INT32 -1",
            "OUTPUT STRING -1",
            "postprocessing",
        )
        + _parameters({name: f"${{{name}}}" for name in ("tokenizer_dir", "skip_special_tokens")}),
        "tensorrt_llm": _model("tensorrt_llm", f"{_DECOUPLED}\n{_QUEUE}", _LLM_IN, _LLM_OUT).replace(
            'backend: "python"', 'backend: "${triton_backend}"'
        )
        + _parameters(_LLM_PARAMETERS),
        "tensorrt_llm_bls": _model("tensorrt_llm_bls", _DECOUPLED, _ASKED, _ANSWERED, "bls")
        + _parameters(
            {
                name: f"${{{name}}}"
                for name in ("accumulate_tokens", "tensorrt_llm_model_name", "tensorrt_llm_draft_model_name")
            }
        ),
        "ensemble": _ensemble(),
    }
    files: Files = {}
    for name, text in texts.items():
        for placeholder, value in values.items():
            text = text.replace(f"${{{placeholder}}}", value)
        files[f"repository/{name}/config.pbtxt"] = text
        files[f"repository/{name}/1/{'.keep' if name == 'ensemble' else 'model.py'}"] = "# its program\n"
    return files


def _model(name: str, more: str, inputs: str, outputs: str, instances: str = "") -> str:
    count = f"${{{instances}_instance_count}}" if instances else "1"
    return f"""name: "{name}"
backend: "python"
max_batch_size: ${{triton_max_batch_size}}
{more}
{_tensors("input", inputs)}
{_tensors("output", outputs)}
instance_group [ {{ count: {count} kind : KIND_CPU }} ]
"""


def _ensemble() -> str:
    steps = ",\n".join(
        f'{{ model_name: "{name}" model_version: -1 {_maps("input_map", reads)} {_maps("output_map", writes)} }}'
        for name, (reads, writes) in _STEPS.items()
    )
    # Upstream declares one output of it twice.
    outputs = _ANSWERED.replace("arrival_time_ns", "kv_cache_alloc_total_blocks INT32 1; arrival_time_ns")
    return f"""name: "ensemble"
platform: "ensemble"
max_batch_size: ${{triton_max_batch_size}}
{_tensors("input", _ASKED)}
{_tensors("output", outputs)}
ensemble_scheduling {{ step [ {steps} ] }}
"""


def _maps(kind: str, pairs: str) -> str:
    # With the commas that some of upstream's have.
    return ",\n".join(
        f'{kind} {{ key: "{key}", value: "{value}" }}' for key, value in (p.split("=") for p in pairs.split())
    )


def _tensors(kind: str, rows: str) -> str:
    """`name TYPE dims flags`: ? optional, r ragged, s reshaped to a scalar."""
    return f"{kind} [\n" + ",\n".join(_tensor(row.split()) for row in rows.split(";")) + "\n]"


def _tensor(row: list[str]) -> str:
    name, kind, dims, flags = [*row, ""][:4]
    kind = kind if kind.startswith("$") else f"TYPE_{kind}"
    said: Iterable[str] = (
        f'name: "{name}" data_type: {kind} dims: [ {dims} ]',
        "reshape: { shape: [ ] }" if "s" in flags else "",
        "allow_ragged_batch: true" if "r" in flags else "",
        "optional: true" if "?" in flags else "",
    )
    return "  { " + " ".join(part for part in said if part) + " }"


def _parameters(values: Mapping[str, str]) -> str:
    return "".join(
        f'parameters: {{\n  key: "{key}"\n  value: {{\n    string_value: "{value}"\n  }}\n}}\n'
        for key, value in values.items()
    )
