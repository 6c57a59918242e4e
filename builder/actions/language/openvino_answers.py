"""A GGUF file and prompts → the greedy answers, the token that the model puts first at each of their positions, and how
likely the prompts are to it; by OpenVINO GenAI.

Run as a program by the interpreter of the embedded server's environment for language models: it imports openvino, numpy and
nothing of ours. Its request comes as a line of JSON on standard input, its answer goes to the descriptor of its first
argument; its second is a directory for what it writes:

    gguf        the file.
    prompts     [a text | [{role, content}, …]]: encoded by the file's own tokenizer, chats by its own template.
    max_tokens  of an answer.
    sequences   null, or [{prompt: [token], answer: [token]}] of another file of the model, which are read here then.
    →  sequences, and scores: [{top: [token], nll: float, tokens: int}], one a sequence.

top[i] is the most likely token after the prompt and answer[:i], answer being the one that is given, whatever this model
would have written itself (teacher forcing). nll is the sum of −ln p over the prompt's tokens but the first, of which there
are `tokens`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai  # type: ignore[import-not-found]

# Tokens that go through the model at a time: of a vocabulary of 150,000 their logits take 80 MB.
_CHUNK = 128
# Sums of 32 bits, weights as they are: what is compared are the weights, not the kernels.
_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    "KV_CACHE_PRECISION": "f32",
}


class Refused(Exception):
    """What the caller can say better: (code, the engine's words or what was seen)."""


def answered(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """The answer, as the module says."""
    device = {
        **_EXACT,
        "INFERENCE_NUM_THREADS": int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count(),
    }
    pipeline = _pipeline(request["gguf"], scratch, device)
    prompts = [_tokens(pipeline.get_tokenizer(), prompt, n) for n, prompt in enumerate(request["prompts"])]
    sequences = request["sequences"]
    if sequences is None:
        answers = _greedy(pipeline, prompts, request["max_tokens"])
        sequences = [{"prompt": p, "answer": a} for p, a in zip(prompts, answers, strict=True)]
    elif [s["prompt"] for s in sequences] != prompts:
        raise Refused("other_tokenizer", "")
    del pipeline  # its weights, before they are loaded again
    model = openvino.Core().compile_model(str(scratch / "openvino_model.xml"), "CPU", device)
    run = model.create_infer_request()
    return {"sequences": sequences, "scores": [_score(run, model.output(0), **s) for s in sequences]}


def _pipeline(gguf: str, scratch: Path, device: dict[str, Any]) -> Any:
    # It leaves the model that it makes of a GGUF file beside that.
    link = scratch / "model.gguf"
    link.symlink_to(gguf)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = 16
    try:
        return openvino_genai.ContinuousBatchingPipeline(
            str(link), scheduler, "CPU", {**device, "enable_save_ov_model": True}
        )
    except RuntimeError as error:
        # openvino_genai's exceptions begin with places in its own source.
        places = ("Exception from", "failed at /")
        words = [line for line in str(error).splitlines() if line and not any(p in line for p in places)]
        raise Refused("not_loaded", words[-1] if words else str(error)) from error


def _tokens(tokenizer: Any, prompt: Any, number: int) -> list[int]:
    if isinstance(prompt, list):
        try:
            text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)
        except Exception as error:
            raise Refused("no_chat_template", str(error).splitlines()[-1]) from error
    else:
        text = prompt
    encoded = tokenizer.encode(text, add_special_tokens=not isinstance(prompt, list))
    tokens: list[int] = encoded.input_ids.data[0].tolist()
    if len(tokens) < 2:
        raise Refused("short_prompt", str(number))
    return tokens


def _greedy(pipeline: Any, prompts: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
    config = openvino_genai.GenerationConfig(max_new_tokens=max_tokens, do_sample=False)
    tensors = [openvino.Tensor(np.array([tokens], dtype=np.int64)) for tokens in prompts]
    results = pipeline.generate(tensors, [config] * len(tensors))
    return [list(map(int, result.m_generation_ids[0])) for result in results]


def _score(run: Any, output: Any, prompt: list[int], answer: list[int]) -> dict[str, Any]:
    tokens = np.array(prompt + answer, dtype=np.int64)
    run.reset_state()
    top: list[int] = []
    nll = 0.0
    for begin in range(0, len(tokens) - 1, _CHUNK):
        part = tokens[begin : min(begin + _CHUNK, len(tokens) - 1)]
        end = begin + len(part)
        inputs = {
            "input_ids": part[None],
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(begin, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        logits = run.infer(inputs)[output][0].astype(np.float64)
        follows = tokens[begin + 1 : end + 1]
        largest = logits.max(axis=1)
        losses = (
            np.log(np.exp(logits - largest[:, None]).sum(axis=1))
            + largest
            - logits[np.arange(len(part)), follows]
        )
        in_prompt = np.arange(begin + 1, end + 1) < len(prompt)
        nll += float(losses[in_prompt].sum())
        top += logits.argmax(axis=1)[~in_prompt].tolist()
    return {"top": top, "nll": nll, "tokens": len(prompt) - 1}


def main() -> None:
    """Answer one request."""
    pipe, scratch = int(sys.argv[1]), Path(sys.argv[2])
    os.set_inheritable(pipe, False)
    parent = sys.stdin.buffer
    request = json.loads(parent.readline())
    # Its end says that nobody waits for the answer.
    threading.Thread(target=lambda: (parent.read(), os._exit(1)), daemon=True).start()
    try:
        message: dict[str, Any] = {"result": answered(request, scratch)}
    except Refused as refused:
        message = {"result": {"refused": refused.args[0], "words": refused.args[1]}}
    except BaseException:
        traceback.print_exc()
        message = {"bug": traceback.format_exc()}
    message["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with os.fdopen(pipe, "w") as file:
        json.dump(message, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
