"""Sessions of several turns, each of which carries the answers before it → the requests that the closed loop sends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritonsmith.perf.tokens.prompts import Message, Prompt
from tritonsmith.perf.wire.payload import InferPayload

MakeRequest = Callable[[Sequence[Message], Prompt], InferPayload]
"""(what was said so far, the prompt that it began with) → the request; can be pickled."""


@dataclass(frozen=True, slots=True)
class PromptSessions:
    """Implements perf.load.runs.plan.Sessions. Request bytes are counted as those of each session's first turn."""

    prompts: tuple[Prompt, ...]
    make: MakeRequest

    def turns(self, number: int) -> int:
        """Requests of one."""
        return 1 + len(self.prompts[number].later)

    def request(self, number: int, answers: Sequence[str]) -> InferPayload:
        """The turn after so many answers."""
        prompt = self.prompts[number]
        messages: list[Message] = [*prompt.messages]
        for answer, word in zip(answers, prompt.later, strict=False):
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": word}]
        return self.make(messages, prompt)
