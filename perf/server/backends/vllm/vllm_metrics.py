"""The engine's steps → vLLM's metrics, by its names, on Triton's metrics port.

Names, buckets and labels are those of upstream's vllm_backend (src/utils/metrics.py). Preemptions are not among them: the
engine does not tell of them, and a count that is always 0 would be no count.
"""

import queue
import threading
import time
from collections import Counter, deque
from contextlib import suppress

import triton_python_backend_utils as pb

_LATENCY = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
_TO_FIRST = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
_PER_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]
_IN_A_STEP = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
_AT_ONCE = 64
_MOST_BEHIND = 1000
_COUNTERS = {
    "vllm:prompt_tokens_total": "Number of prefill tokens processed.",
    "vllm:generation_tokens_total": "Number of generation tokens processed.",
}
_GAUGES = {
    "vllm:num_requests_running": "Number of requests currently running on GPU.",
    "vllm:num_requests_waiting": "Number of requests waiting to be processed.",
    "vllm:gpu_cache_usage_perc": "GPU KV-cache usage. 1 means 100 percent usage.",
}
_HISTOGRAMS = {
    "vllm:iteration_tokens_total": ("Histogram of number of tokens per engine_step.", _IN_A_STEP),
    "vllm:time_to_first_token_seconds": ("Histogram of time to first token in seconds.", _TO_FIRST),
    "vllm:time_per_output_token_seconds": ("Histogram of time per output token in seconds.", _PER_TOKEN),
    "vllm:e2e_request_latency_seconds": ("Histogram of end to end request latency in seconds.", _LATENCY),
    "vllm:request_queue_time_seconds": ("Histogram of time spent in WAITING phase for request.", _LATENCY),
    "vllm:request_inference_time_seconds": (
        "Histogram of time spent in RUNNING phase for request.",
        _LATENCY,
    ),
    "vllm:request_prefill_time_seconds": ("Histogram of time spent in PREFILL phase for request.", _LATENCY),
    "vllm:request_decode_time_seconds": ("Histogram of time spent in DECODE phase for request.", _LATENCY),
    "vllm:request_prompt_tokens": ("Number of prefill tokens processed.", None),
    "vllm:request_generation_tokens": ("Number of generation tokens processed.", None),
    "vllm:request_params_n": ("Histogram of the n request parameter.", [1, 2, 5, 10, 20]),
}


class Metrics:
    """Told of each step on the engine's thread, and reports on one of its own: a report is a call to another process."""

    def __init__(self, labels, max_model_len):
        family = pb.MetricFamily
        self._families, self._metrics = [], {}
        sizes = buckets_1_2_5(max_model_len)

        def add(name, description, kind, **more):
            made = family(name=name, description=description, kind=kind)
            self._families.append(made)  # a metric is gone with its family
            self._metrics[name] = made.Metric(labels=labels, **more)

        for name, description in _COUNTERS.items():
            add(name, description, family.COUNTER)
        for name, description in _GAUGES.items():
            add(name, description, family.GAUGE)
        for name, (description, buckets) in _HISTOGRAMS.items():
            add(name, description, family.HISTOGRAM, buckets=[float(b) for b in buckets or sizes])
        self._steps = queue.SimpleQueue()
        self._behind = 0
        self._thread = threading.Thread(target=self._run, name="vllm-metrics", daemon=True)
        self._thread.start()

    def observe(self, engine, step):
        """What the engine calls after a step."""
        while self._behind > _MOST_BEHIND:
            time.sleep(0.001)  # in which the interpreter is free, as it is not during a step
        state = (len(engine.running), len(engine.waiting), engine.cache_usage())
        self._steps.put((state, step))

    def stop(self):
        """Returns when the last step is reported."""
        self._steps.put(None)
        self._thread.join()

    def _run(self):
        ended, pending = False, deque()
        while pending or not ended:
            items = self._gathered(wait=not (pending or ended))
            ended = ended or None in items
            told = [item for item in items if item is not None]
            if told:
                self._report(told[-1][0], [step for _, step in told])
                pending.extend(pair for _, step in told for pair in observed(step))
            # Histograms take one value a call; counters and gauges, which need one in all, do not wait for them.
            for _ in range(min(_AT_ONCE, len(pending))):
                name, value = pending.popleft()
                self._metrics[name].observe(value)
            self._behind = len(pending)

    def _gathered(self, wait):
        items = [self._steps.get()] if wait else []
        with suppress(queue.Empty):
            while True:
                items.append(self._steps.get_nowait())
        return items

    def _report(self, state, steps):
        for name, value in zip(_GAUGES, state, strict=True):
            self._metrics[name].set(value)
        totals = Counter()
        for step in steps:
            totals.update(dict(counted(step)))
        for name, value in totals.items():
            self._metrics[name].increment(value)


def counted(step):
    """(counter, increment) of a step."""
    if step.tokens:
        yield "vllm:generation_tokens_total", step.tokens
    if step.first:
        yield "vllm:prompt_tokens_total", sum(g.prompt_tokens for g in step.first)


def observed(step):
    """(histogram, value) of a step: seconds or tokens."""
    if step.tokens:
        yield "vllm:iteration_tokens_total", step.tokens + sum(g.prompt_tokens for g in step.first)
    for generation in step.first:
        yield "vllm:time_to_first_token_seconds", generation.first_token - generation.arrived
    for seconds in step.later:
        yield "vllm:time_per_output_token_seconds", seconds
    for g in step.done:
        if g.error is not None or g.first_token is None:
            continue
        yield "vllm:e2e_request_latency_seconds", g.last_token - g.arrived
        yield "vllm:request_queue_time_seconds", g.admitted - g.arrived
        yield "vllm:request_inference_time_seconds", g.last_token - g.admitted
        yield "vllm:request_prefill_time_seconds", g.first_token - g.admitted
        yield "vllm:request_decode_time_seconds", g.last_token - g.first_token
        yield "vllm:request_prompt_tokens", g.prompt_tokens
        yield "vllm:request_generation_tokens", sum(len(s.token_ids) for s in g.sequences)
        yield "vllm:request_params_n", g.sampling.n


def buckets_1_2_5(largest):
    """[1, 2, 5, 10, …] up to `largest`, as vLLM's build_1_2_5_buckets."""
    buckets, power = [], 1
    while power <= largest:
        buckets += [m * power for m in (1, 2, 5) if m * power <= largest]
        power *= 10
    return buckets
