"""What a language model on Triton takes → its requests: vllm_backend's inputs, TensorRT-LLM's, or others' of these names.

Contracts: triton-inference-server/vllm_backend, src/model.py (auto_complete_config) and src/utils/request.py;
NVIDIA/TensorRT-LLM, triton_backend/all_models/llmapi/tensorrt_llm/config.pbtxt (streaming, sampling_param_…) and
inflight_batcher_llm/ensemble (stream, max_tokens).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.tensors import TensorSpec
from tritonsmith.perf.data.interface import ModelInterface
from tritonsmith.perf.tokens.prompts import Message, Prompt, text_of
from tritonsmith.perf.wire.payload import InferPayload, Parameter, WireTensor, tensor_from_array

TEXT = "text_input"
SAMPLING = "sampling_parameters"
_STREAM = ("stream", "streaming")
_COUNTS = ("return_num_input_tokens", "return_num_output_tokens")


def check_text_model(model: ModelInterface) -> None:
    """UsageError for a model that is asked for no text, or answers none, or not in pieces; it tells what the model has."""
    outputs = [spec.name for spec in model.outputs]
    lacks = None
    if not any(spec.name == TEXT and spec.dtype.kserve == "BYTES" for spec in model.inputs):
        lacks = f"no text input `{TEXT}`"
    elif "text_output" not in outputs:
        lacks = "no output `text_output`"
    elif not model.decoupled:
        lacks = "not decoupled: it cannot answer token by token"
    if lacks is None:
        return
    inputs = ", ".join(f"{spec.name} ({spec.dtype.kserve})" for spec in model.inputs)
    raise UsageError(
        f"`{model.name}` is no language model that streams: {lacks}",
        code="no_text_model",
        seen=f"inputs {inputs}; outputs {', '.join(outputs)}; {'' if model.decoupled else 'not '}decoupled",
        fix="leave out --tokens, or name a model of the vllm or tensorrtllm backend",
    )


@dataclass(frozen=True, slots=True)
class TritonRequests:
    """(messages, prompt) → the request; see perf.tokens.sessions.MakeRequest.

    sampling: of every request, by the model's own names; parameters: Triton's (priority, timeout).
    """

    model: ModelInterface
    sampling: Mapping[str, Any]
    parameters: Mapping[str, Parameter]

    def __call__(self, messages: Sequence[Message], prompt: Prompt) -> InferPayload:
        """One request's tensors; UsageError when the model wants another input."""
        specs = {spec.name: spec for spec in self.model.inputs}
        values: dict[str, Any] = {TEXT: text_of(messages)}
        values |= {name: True for name in (*_STREAM, *_COUNTS) if name in specs}
        sampling: dict[str, Any] = {}
        if prompt.output_tokens is not None:
            sampling["max_tokens"] = prompt.output_tokens
            if prompt.exactly:
                sampling |= {"min_tokens": prompt.output_tokens, "ignore_eos": True}
        sampling |= {**prompt.parameters, **self.sampling}
        for name in list(sampling):
            given = next((n for n in (name, f"sampling_param_{name}") if n in specs), None)
            if given is not None:
                values[given] = sampling.pop(name)
        parameters = dict(self.parameters)
        if SAMPLING in specs:
            values[SAMPLING] = json.dumps(sampling)
        else:
            parameters |= {n: v for n, v in sampling.items() if isinstance(v, bool | int | float | str)}
        missing = [n for n in specs if n not in values and n not in self.model.optional]
        if missing:
            raise UsageError(
                f"`{self.model.name}` wants an input that a load by tokens has no value for",
                code="missing_input",
                seen=", ".join(missing),
                fix="--request-parameter NAME:VALUE:TYPE",
            )
        tensors = tuple(_tensor(self.model, specs[name], value) for name, value in values.items())
        return InferPayload(self.model.name, tensors, self.model.version, parameters=parameters)


def _tensor(model: ModelInterface, spec: TensorSpec, value: Any) -> WireTensor:
    shape = [1] * (len(spec.wire_shape) + bool(model.max_batch_size))
    is_text = spec.dtype.kserve == "BYTES"
    array = np.full(shape, str(value).encode() if is_text else value, object if is_text else spec.dtype.numpy)
    return tensor_from_array(spec.name, array, spec.dtype.kserve)
