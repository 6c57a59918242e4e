"""The closed loop of sessions: each slot plays one after the other, the next turn carries the answers so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tritonsmith.perf.load.runs.closed import ClosedRun
from tritonsmith.perf.load.runs.plan import ClientOptions, Plan, Progress
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.target import Responses, Target


@dataclass(slots=True)
class _Session:
    number: int
    answers: list[str] = field(default_factory=list)


class SessionRun(ClosedRun):
    """`concurrency` sessions at once; a failed request ends its session, and the next one begins."""

    def __init__(
        self,
        target: Target,
        payloads: Sequence[InferPayload],
        plan: Plan,
        options: ClientOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        super().__init__(target, payloads, plan, options, on_progress)
        assert options.sessions is not None
        self.sessions = options.sessions
        self.begun = 0
        self.live: dict[int, _Session] = {}

    def send(self, slot: int, scheduled_ns: int) -> None:
        """See Run.send: the next turn of this slot's session, or the first of a new one."""
        session = self.live.get(slot)
        if session is None:
            session = self.live[slot] = _Session(self.order[self.begun % self.pool])
            self.begun += 1
        self.next += 1
        request = self.wire[session.number]
        if session.answers:
            request = self.target.encode(self.sessions.request(session.number, session.answers))
        self.put(slot, scheduled_ns, session.number, request, False)

    def done(
        self,
        slot: int,
        first_byte_ns: int,
        end_ns: int,
        reason: str | None,
        answer: bytes | None,
        responses: Responses | None = None,
    ) -> None:
        """See Run.done."""
        self.record(slot, first_byte_ns, end_ns, reason, answer, responses)
        session = self.live[slot]
        text = b"" if responses is None or responses.chunks is None else responses.chunks.text
        session.answers.append(text.decode("utf-8", "replace"))
        if reason is not None or len(session.answers) >= self.sessions.turns(session.number):
            del self.live[slot]
        self._go_on(slot)
