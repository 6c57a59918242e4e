"""Lines of JSON on stdin, each a load → lines of JSON on stdout: the engine of the vllm backend driven without Triton.

Run by tests.bench.llm in the server's own Python: python llm_direct.py MODEL '{scheduler field: value}' '{property: value}'
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import openvino_genai as genai  # type: ignore[import-not-found]


def main() -> None:
    model, fields, properties = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    scheduler = genai.SchedulerConfig()
    for name, value in fields.items():
        setattr(scheduler, name, value)
    pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties, {})
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(load(pipeline, **asked)), flush=True)


def load(pipeline: Any, prompts: Sequence[str], users: int, tokens: int, with_text: bool) -> dict[str, float]:
    """`users` requests in flight until all prompts are answered → seconds, tokens. with_text: each token's text, too, as it
    comes."""
    config = genai.GenerationConfig()
    config.apply_chat_template = False
    config.max_new_tokens = tokens
    config.ignore_eos = True
    tokenizer = pipeline.get_tokenizer()
    left, made, number = list(prompts), 0, 0
    running: dict[Any, Any] = {}
    texts: list[str] = []

    def take(text: str) -> bool:
        texts.append(text)
        return False

    began = time.monotonic()
    while left or running:
        while left and len(running) < users:
            number += 1
            ids = tokenizer.encode(left.pop()).input_ids
            handle = pipeline.add_request(number, ids, config)
            running[handle] = genai.TextStreamer(tokenizer, take) if with_text else None
        pipeline.step()
        for handle, streamer in list(running.items()):
            while handle.can_read():
                for output in handle.read().values():
                    made += len(output.generated_ids)
                    if streamer is not None:
                        streamer.write(list(output.generated_ids))
            if handle.get_status() != genai.GenerationStatus.RUNNING:
                del running[handle]
                if streamer is not None:
                    streamer.end()
    return {"seconds": time.monotonic() - began, "tokens": made}


main()
