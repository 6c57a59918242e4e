"""Generations, joined while others run → what each step gave each of them: continuous batching on one thread.

A generation is one request; its `n` answers are sequences of their own, as in vLLM. No more of them are in the pipeline
than max_num_seqs: the others wait here, in the order they came, so that how long they waited is known.
"""

import random
import threading
import time
from collections import deque

import openvino_genai as genai
import vllm_sequence

_SEED_BOUND = 2**31
# Triton's stub hands one request in after the other, each in less than this.
_NEXT_ARRIVAL_S = 0.002


class Generation:
    """One request in the engine. take(generation) is called on the engine's thread after each step that changed it.

    error: why it could not be finished, in words; None else. cancelled: nobody waits for it any more; aborted: and the
    engine has let go of it.
    """

    def __init__(self, input_ids, prompt_tokens, sampling, max_tokens, with_logprobs, take):
        self.input_ids = input_ids
        self.prompt_tokens = prompt_tokens
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.with_logprobs = with_logprobs
        self.take = take
        self.sequences = []
        self.cancelled = False
        self.aborted = False
        self.error = None
        self.arrived = time.monotonic()
        self.admitted = self.first_token = self.last_token = None

    @property
    def finished(self):
        ended = bool(self.sequences) and all(s.finish_reason is not None for s in self.sequences)
        return ended or self.aborted or self.error is not None


class Engine:
    """A pipeline, stepped as long as there is something to do.

    settle() returns when what was taken is on its way; observe(engine, step) is told of each step.
    """

    def __init__(self, pipeline, vocabulary, settings, settle, observe=None):
        self._pipeline = pipeline
        self._vocabulary = vocabulary
        self._max_num_seqs = settings.max_num_seqs
        # As in vLLM, requests without a seed of their own draw from one stream, which the engine's seed begins.
        self._random = random.Random(settings.seed)
        self._eos = set(pipeline.get_config().stop_token_ids)
        eos = pipeline.get_config().eos_token_id
        if eos >= 0:
            self._eos.add(eos)
        self._observe = observe
        self._settle = settle
        self._arrivals = deque()
        self._wakes = threading.Condition()
        self._stopping = False
        self._next_id = 0
        self.waiting = deque()
        self.running = []
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self._thread.start()

    def add(self, generation):
        """From any thread."""
        if not self._thread.is_alive():
            raise RuntimeError("Model is unavailable due to unhealthy vLLM engine")
        with self._wakes:
            self._arrivals.append(generation)
            self._wakes.notify()

    def cancel(self, generation):
        """From any thread; it is taken once more, aborted, unless it is finished by then."""
        generation.cancelled = True
        with self._wakes:
            self._wakes.notify()

    def stop(self):
        """Returns when all that was added has been answered."""
        with self._wakes:
            self._stopping = True
            self._wakes.notify()
        self._thread.join()

    def cache_usage(self):
        """The KV cache's share in use, 0 to 1."""
        return self._pipeline.get_metrics().cache_usage / 100

    def _run(self):
        while True:
            with self._wakes:
                while not (self._arrivals or self.waiting or self.running or self._stopping):
                    self._wakes.wait()
                self._take_arrivals()
                if self._stopping and not (self.waiting or self.running):
                    return
            self._drop_cancelled()
            self._admit()
            if self.running:
                self._step()
            elif self._pipeline.has_non_finished_requests():
                self._pipeline.step()  # in which it lets go of what was cancelled
            self._settle()

    def _take_arrivals(self):
        """What came, and what comes at once after it: a step keeps the interpreter, so requests that came during one come
        in one behind the other now, and each left out would wait for another step."""
        while self._arrivals:
            self.waiting.extend(self._arrivals)
            self._arrivals.clear()
            self._wakes.wait(_NEXT_ARRIVAL_S)

    def _drop_cancelled(self):
        for generation in [g for g in (*self.waiting, *self.running) if g.cancelled]:
            generation.aborted = True
            self._abort(generation)
            self._leave(generation)
            generation.take(generation)
            self._look(Step())

    def _admit(self):
        while self.waiting and self._has_room(self.waiting[0].sampling.n):
            generation = self.waiting.popleft()
            generation.admitted = time.monotonic()
            self.running.append(generation)
            try:
                self._enter(generation)
            except Exception as error:
                self._fail(generation, _first_line(error))

    def _has_room(self, n):
        taken = sum(s.finish_reason is None for g in self.running for s in g.sequences)
        # More answers than the engine has room for can only be begun when it is empty; its scheduler has them wait.
        return taken + n <= self._max_num_seqs or not self.running

    def _enter(self, generation):
        sampling = generation.sampling
        seed = self._random.randrange(_SEED_BOUND) if sampling.seed is None else sampling.seed
        for index in range(sampling.n):
            sequence = vllm_sequence.Sequence(self._vocabulary, sampling)
            config = self._config(generation, (seed + index) % _SEED_BOUND)
            self._next_id += 1
            sequence.handle = self._pipeline.add_request(self._next_id, generation.input_ids, config)
            generation.sequences.append(sequence)

    def _config(self, generation, seed):
        """Sampling → openvino_genai's words for it. Stop strings are ours to find: its own streams hold tokens back."""
        s = generation.sampling
        config = genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = generation.max_tokens
        config.ignore_eos = s.ignore_eos
        config.logprobs = int(generation.with_logprobs)
        config.repetition_penalty = s.repetition_penalty
        config.presence_penalty = s.presence_penalty
        config.frequency_penalty = s.frequency_penalty
        if not s.ignore_eos:
            config.min_new_tokens = s.min_tokens
            config.stop_token_ids = self._eos | s.stop_token_ids
        if s.temperature > 0:
            config.do_sample = True
            config.temperature = s.temperature
            config.top_p = s.top_p
            config.min_p = s.min_p
            config.rng_seed = seed
            if s.top_k:
                config.top_k = s.top_k
        return config

    def _step(self):
        try:
            self._pipeline.step()
        except Exception as error:
            # The pipeline does not say which request it was; none of them can go on.
            for generation in list(self.running):
                self._fail(generation, f"the engine failed in a step: {_first_line(error)}")
            return
        step = Step()
        now = time.monotonic()
        for generation in list(self.running):
            try:
                self._advance(generation, now, step)
            except Exception as error:  # noqa: PERF203 one of them must not end the others
                self._fail(generation, f"{type(error).__name__}: {error}")
        self._look(step)

    def _advance(self, generation, now, step):
        """What the step gave one of them."""
        count = self._read(generation)
        if not count and not generation.finished:
            return
        if count:
            step.tokens += count
            if generation.first_token is None:
                generation.first_token = now
                step.first.append(generation)
            else:
                step.later.append(now - generation.last_token)
            generation.last_token = now
        if generation.finished:
            self._leave(generation)
            step.done.append(generation)
        generation.take(generation)

    def _look(self, step):
        if self._observe is not None:
            self._observe(self, step)

    def _read(self, generation):
        """The new tokens of its sequences; how many."""
        count = 0
        for sequence in generation.sequences:
            while sequence.finish_reason is None and sequence.handle.can_read():
                for output in sequence.handle.read().values():
                    count += self._extend(sequence, output)
            if (
                sequence.finish_reason is None
                and sequence.handle.get_status() == genai.GenerationStatus.IGNORED
            ):
                self._fail(
                    generation,
                    f"the KV cache has no room for a prompt of {generation.prompt_tokens} tokens and "
                    f"{len(sequence.token_ids)} more; give it more (kv_cache_memory_bytes in model.json) or ask for less",
                    taken=False,
                )
                break
        return count

    def _extend(self, sequence, output):
        ids, logprobs = list(output.generated_ids), list(output.generated_log_probs)
        last = _ENDINGS.get(output.finish_reason)
        for index, token_id in enumerate(ids):
            ending = last if index + 1 == len(ids) else None
            sequence.add(token_id, logprobs[index] if index < len(logprobs) else 0.0, ending)
            if sequence.finish_reason is not None:
                if ending is None:
                    sequence.handle.cancel()  # ours to end: the engine knows nothing of the stop string
                return index + 1
        if not ids and last is not None:
            sequence.finish_reason = last
        return len(ids)

    def _fail(self, generation, why, taken=True):
        generation.error = why
        self._abort(generation)
        if taken:
            self._leave(generation)
            generation.take(generation)

    @staticmethod
    def _abort(generation):
        for sequence in generation.sequences:
            if sequence.finish_reason is None:
                sequence.finish_reason = "abort"
                sequence.handle.cancel()

    def _leave(self, generation):
        for those in (self.running, self.waiting):
            if generation in those:
                those.remove(generation)


class Step:
    """What one step did: generations that got their first token, seconds between tokens of the others, those that ended."""

    def __init__(self):
        self.first, self.later, self.done, self.tokens = [], [], [], 0


_ENDINGS = {genai.GenerationFinishReason.STOP: "stop", genai.GenerationFinishReason.LENGTH: "length"}


def _first_line(error):
    """openvino_genai's exceptions begin with the place in its own source, which is no news to a user."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if " failed at /" not in line and "Exception from " not in line), str(error)
    )
