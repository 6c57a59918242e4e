"""The tokens of one answer, one after another → its text so far, and whether and why it has ended."""

import vllm_text


class Sequence:
    """One answer as it grows. finish_reason: None while it runs, then "stop", "length" or "abort"."""

    def __init__(self, vocabulary, sampling):
        self.handle = None
        self.token_ids = []
        self.logprobs = []
        self.text = ""
        self.finish_reason = None
        self._sampling = sampling
        self._growing = vllm_text.Text(vocabulary, with_special=not sampling.skip_special_tokens)
        self._held_back = vllm_text.held_back(sampling.stop, sampling.include_stop_str_in_output)

    def spelled(self, token_id):
        """A token's own text."""
        return self._growing.vocabulary.spell(token_id, with_special=True).decode("utf-8", "replace")

    def add(self, token_id, logprob, ending):
        """One more token. ending: the engine's own word on whether it is the last: None, "stop" or "length"."""
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        s = self._sampling
        past_least = len(self.token_ids) > s.min_tokens
        if token_id in s.stop_token_ids and past_least:
            ending = "stop"
        new = 0
        # vLLM leaves out the token that stopped it; a stop string is the text of tokens that belong to the answer.
        if ending != "stop" or s.include_stop_str_in_output:
            new = self._growing.add(token_id)
        if ending is not None:
            before = len(self._growing.settled)
            self._growing.end()
            new += len(self._growing.settled) - before
        text = self._growing.settled
        found = vllm_text.stop_index(text, new, s.stop) if new and past_least else None
        if found is not None:
            index, stop = found
            text = text[: index + len(stop)] if s.include_stop_str_in_output else text[:index]
            ending = "stop"
        self.finish_reason = ending
        # What may be the beginning of a stop string is not shown before that is known.
        self.text = text if ending is not None else text[: max(0, len(text) - self._held_back)]
