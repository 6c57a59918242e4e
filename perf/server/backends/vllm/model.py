"""Requests for a language model → OpenVINO GenAI's continuous batching → streamed answers: Triton's `vllm` backend.

The inputs, outputs, flags and errors are those of triton-inference-server/vllm_backend, so a repository and a client made
for it run here unchanged. As there, `text_input` is the prompt as it is: no chat template is applied.

Runs inside triton_python_backend_stub. Its as_numpy() and Tensor(ndarray) are right under numpy 1 only.
"""

import json
import os
import threading
from pathlib import Path

import numpy as np
import openvino_genai as genai
import triton_python_backend_utils as pb
import vllm_arguments
import vllm_convert
import vllm_engine
import vllm_metrics
import vllm_sampling
import vllm_senders
import vllm_text
import vllm_weights

_INPUTS = {
    "text_input": ("TYPE_STRING", [1], False),
    "image": ("TYPE_STRING", [-1], True),
    "stream": ("TYPE_BOOL", [1], True),
    "sampling_parameters": ("TYPE_STRING", [1], True),
    "exclude_input_in_output": ("TYPE_BOOL", [1], True),
    "return_finish_reason": ("TYPE_BOOL", [1], True),
    "return_cumulative_logprob": ("TYPE_BOOL", [1], True),
    "return_logprobs": ("TYPE_BOOL", [1], True),
    "return_num_input_tokens": ("TYPE_BOOL", [1], True),
    "return_num_output_tokens": ("TYPE_BOOL", [1], True),
}
_OUTPUTS = {
    "text_output": ("TYPE_STRING", [-1]),
    "finish_reason": ("TYPE_STRING", [-1]),
    "cumulative_logprob": ("TYPE_FP32", [-1]),
    "logprobs": ("TYPE_STRING", [-1]),
    "num_input_tokens": ("TYPE_UINT32", [1]),
    "num_output_tokens": ("TYPE_UINT32", [-1]),
}
_REFUSED = (
    vllm_arguments.ArgumentRefused,
    vllm_weights.WeightsRefused,
    vllm_sampling.SamplingRefused,
    ValueError,
)
_FINAL = 1  # TRITONSERVER_RESPONSE_COMPLETE_FINAL, which pb has only once the stub has started
# How soon the slot of a client that is gone is free again.
_LOOK_FOR_GONE_S = 0.1


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(model_config):
        config = model_config.as_dict()
        named = {io["name"] for io in (*config["input"], *config["output"])}
        for name, (data_type, dims, optional) in _INPUTS.items():
            if name not in named:
                io = {"name": name, "data_type": data_type, "dims": dims}
                model_config.add_input({**io, "optional": True} if optional else io)
        for name, (data_type, dims) in _OUTPUTS.items():
            if name not in named:
                model_config.add_output({"name": name, "data_type": data_type, "dims": dims})
        model_config.set_model_transaction_policy({"decoupled": True})
        model_config.set_max_batch_size(0)
        return model_config

    def initialize(self, args):
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb.TritonModelException(
                f"numpy {np.__version__} is installed; Triton's Python stub corrupts tensors under numpy 2. "
                "Install numpy<2 in the environment whose bin directory is first in PATH"
            )
        config = json.loads(args["model_config"])
        if not pb.using_decoupled_model_transaction_policy(config):
            raise pb.TritonModelException(
                "vLLM Triton backend must be configured to use decoupled model transaction policy"
            )
        try:
            self._load(Path(pb.get_model_dir()), config, args)
        except Exception as error:
            told = str(error) if isinstance(error, _REFUSED) else f"{type(error).__name__}: {error}"
            raise pb.TritonModelException(vllm_weights.shown(told)) from None

    def _load(self, version_dir, config, args):
        arguments = _engine_arguments(version_dir)
        cores = len(os.sched_getaffinity(0))
        cache_gib = os.environ.get("VLLM_CPU_KVCACHE_SPACE")
        settings = vllm_arguments.settings_from(arguments, cores, float(cache_gib) if cache_gib else None)
        if line := vllm_arguments.told(settings, arguments):
            pb.Logger.log_info(line)
        available_bytes = vllm_weights.available_memory()
        vllm_arguments.check_room(settings, available_bytes)
        weights = vllm_weights.find(arguments["model"], version_dir, available_bytes)
        path = weights.path
        if vllm_weights.is_hugging_face(path):
            trusted = vllm_convert.trusts_remote_code(arguments)
            path = vllm_convert.converted(path, trusted, pb.Logger.log_info)
        self._max_model_len = vllm_arguments.context(settings, weights.context_length)
        scheduler = genai.SchedulerConfig()
        for name, value in settings.scheduler.items():
            setattr(scheduler, name, value)
        pipeline = genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU", settings.properties, {})
        self._tokenizer = pipeline.get_tokenizer()
        self._metrics = None
        if vllm_arguments.wants_metrics(config, arguments):
            self._metrics = _metrics(args, self._max_model_len)
        observe = self._metrics.observe if self._metrics else None
        self._senders = vllm_senders.Senders(_is_gone, _send)
        self._engine = vllm_engine.Engine(
            pipeline, vllm_text.Vocabulary(self._tokenizer), settings, self._senders.settle, observe
        )
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="vllm-watch", daemon=True)
        self._watcher.start()

    def execute(self, requests):
        for request in requests:
            sender, generation = request.get_response_sender(), None
            try:
                generation = self._generation(_Asked(request), sender)
                self._senders.open(generation, sender)
                self._engine.add(generation)
            except Exception as error:
                told = str(error) if isinstance(error, _REFUSED) else f"{type(error).__name__}: {error}"
                self._senders.put(generation, sender, _error(f"Error generating stream: {told}"), _FINAL)
                self._senders.settle()

    def _generation(self, asked, sender):
        sampling = vllm_sampling.sampling_from(asked.parameters)
        if not asked.prompt:
            raise ValueError("The decoder prompt cannot be empty")
        ids = self._tokenizer.encode(asked.prompt).input_ids
        length = ids.shape[1]
        if length >= self._max_model_len:
            raise ValueError(
                f"The decoder prompt (length {length}) is longer than the maximum model length of "
                f"{self._max_model_len}, which holds the answer, too. Make sure that `max_model_len` is no smaller "
                "than the number of text tokens."
            )
        most = min(sampling.max_tokens, self._max_model_len - length)
        answer = _Answer(asked)

        def take(generation):
            for response, flags in answer.responses(generation):
                self._senders.put(generation, sender, response, flags)

        with_logprobs = asked.flags["return_logprobs"] or asked.flags["return_cumulative_logprob"]
        return vllm_engine.Generation(ids, length, sampling, most, with_logprobs, take)

    def _watch(self):
        """Looks whether clients are still there."""
        while not self._stopping.wait(_LOOK_FOR_GONE_S):
            for generation in self._senders.live():
                if self._senders.is_gone(generation):
                    pb.Logger.log_info("[vllm] Cancelling the request")
                    self._engine.cancel(generation)

    def finalize(self):
        if not hasattr(self, "_watcher"):
            return
        self._engine.stop()
        self._stopping.set()
        self._watcher.join()
        self._senders.stop()
        if self._metrics:
            self._metrics.stop()


class _Asked:
    """A request's inputs."""

    def __init__(self, request):
        def first(name, default=None):
            tensor = pb.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy().reshape(-1)[0]

        image = pb.get_input_tensor_by_name(request, "image")
        if image is not None and image.as_numpy().size:
            raise ValueError("image: the embedded vllm backend runs models of text only")
        self.prompt = _text(first("text_input"), "text_input")
        self.stream = bool(first("stream", False))
        excluded = first("exclude_input_in_output")
        self.prepend_input = not self.stream if excluded is None else not bool(excluded)
        if self.prepend_input and self.stream:
            raise ValueError("When streaming, `exclude_input_in_output` = False is not allowed.")
        given = first("sampling_parameters")
        self.parameters = request.parameters() if given is None else _text(given, "sampling_parameters")
        self.flags = {name: bool(first(name, False)) for name in _INPUTS if name.startswith("return_")}


class _Answer:
    """What was sent of a generation so far → what is to be sent now."""

    def __init__(self, asked):
        self._asked = asked
        self._sent_text = []
        self._sent_tokens = []

    def responses(self, generation):
        """(response, flags), none where the client waits for the whole answer."""
        if generation.error is not None:
            yield _error(f"Error generating stream: {generation.error}"), _FINAL
        elif generation.aborted:
            error = pb.TritonError("Request was cancelled", pb.TritonError.CANCELLED)
            yield pb.InferenceResponse(error=error), _FINAL
        elif self._asked.stream or generation.finished:
            yield self._response(generation), _FINAL if generation.finished else 0

    def _response(self, generation):
        sequences, asked = generation.sequences, self._asked
        missing = len(sequences) - len(self._sent_text)
        self._sent_text += [0] * missing
        self._sent_tokens += [0] * missing
        head = asked.prompt if asked.prepend_input else ""
        texts = [(head + s.text[sent:]).encode() for s, sent in zip(sequences, self._sent_text, strict=True)]
        tensors = [pb.Tensor("text_output", np.asarray(texts, dtype=np.object_))]
        if asked.flags["return_finish_reason"]:
            reasons = [str(s.finish_reason) for s in sequences]
            tensors.append(pb.Tensor("finish_reason", np.asarray(reasons, dtype=np.object_)))
        if asked.flags["return_cumulative_logprob"]:
            sums = [sum(s.logprobs) for s in sequences]
            tensors.append(pb.Tensor("cumulative_logprob", np.asarray(sums, dtype=np.float32)))
        if asked.flags["return_logprobs"]:
            told = [
                self._logprobs(generation, s, sent)
                for s, sent in zip(sequences, self._sent_tokens, strict=True)
            ]
            tensors.append(pb.Tensor("logprobs", np.asarray(told, dtype=np.object_)))
        if asked.flags["return_num_input_tokens"]:
            tensors.append(pb.Tensor("num_input_tokens", np.asarray([generation.prompt_tokens], np.uint32)))
        if asked.flags["return_num_output_tokens"]:
            counts = [len(s.token_ids) - sent for s, sent in zip(sequences, self._sent_tokens, strict=True)]
            tensors.append(pb.Tensor("num_output_tokens", np.asarray(counts, np.uint32)))
        self._sent_text = [len(s.text) for s in sequences]
        self._sent_tokens = [len(s.token_ids) for s in sequences]
        return pb.InferenceResponse(output_tensors=tensors)

    def _logprobs(self, generation, sequence, sent):
        """vLLM's list of {token id: {logprob, rank, decoded_token}}; "null" where the request asked for none."""
        if generation.sampling.logprobs is None:
            return b"null"
        greedy = generation.sampling.temperature == 0
        pairs = zip(sequence.token_ids[sent:], sequence.logprobs[sent:], strict=True)
        rows = [
            {i: {"logprob": p, "rank": 1 if greedy else None, "decoded_token": sequence.spelled(i)}}
            for i, p in pairs
        ]
        return json.dumps(rows).encode()


def _engine_arguments(version_dir):
    path = version_dir / "model.json"
    if not path.is_file():
        raise ValueError(f"'model.json' containing vllm engine args must be provided in '{version_dir}'")
    try:
        arguments = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"{path} is no JSON object but a {type(arguments).__name__}")
    return arguments


def _metrics(args, max_model_len):
    labels = {"model": args["model_name"], "version": args["model_version"]}
    try:
        return vllm_metrics.Metrics(labels, max_model_len)
    except pb.TritonModelException as error:
        if "metrics not supported" not in str(error):
            raise
        pb.Logger.log_info("[vllm] Metrics not supported")
        return None


def _text(value, name):
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8: {error}") from None


def _error(message):
    return pb.InferenceResponse(error=pb.TritonError(message))


def _is_gone(sender):
    try:
        return sender.is_cancelled()
    except Exception:
        return False


def _send(sender, response, flags):
    try:
        sender.send(response, flags)
    except Exception as error:
        pb.Logger.log_error(f"[vllm] a response could not be sent: {error}")
