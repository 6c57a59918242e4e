"""The closed loop of sequences: each slot plays one sequence after the other, a request on each answer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic_ns

import numpy as np

from tritonsmith.perf.data.distribution import Distribution
from tritonsmith.perf.load.runs.closed import ClosedRun
from tritonsmith.perf.load.runs.plan import ClientOptions, Plan, Progress
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.per_request.sequence_bytes import HIGHEST_ID, LOWEST_ID, SequenceRequests
from tritonsmith.perf.wire.target import Responses, Target


@dataclass(slots=True)
class _Sequence:
    """A sequence under way: its id, how many requests it has and had, and the stream it plays."""

    number: int
    length: int
    stream: tuple[int, ...]
    sent: int = 0


class SequenceRun(ClosedRun):
    """`concurrency` sequences at once. The next request of one is sent on the answer to the last.

    A failed request ends its sequence, and another begins. When the run is over, each sequence under way gets
    one last request with the end flag, so that it does not go on holding its place in the server.
    """

    def __init__(
        self,
        target: Target,
        payloads: Sequence[InferPayload],
        plan: Plan,
        options: ClientOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        super().__init__(target, payloads, plan, options, on_progress)
        assert options.sequences is not None
        self.requests = SequenceRequests(target, payloads, options.sequences.text_ids)
        self.length: Distribution | None = options.sequences.length
        self.rng = np.random.default_rng([plan.seed, plan.part])
        streams = options.sequences.streams
        order = np.random.default_rng(plan.seed).permutation(len(streams))
        self.streams = [streams[i] for i in order]
        self.begun = 0
        self.live: dict[int, _Sequence] = {}
        # Processes keep to ranges of their own; where in it is left to chance, since another client may be at it.
        width = (HIGHEST_ID - LOWEST_ID) // plan.parts
        self.ids = range(LOWEST_ID + plan.part * width, LOWEST_ID + (plan.part + 1) * width)
        self.first_id = secrets.randbelow(width)

    def _begin(self) -> _Sequence:
        turn = self.begun * self.plan.parts + self.plan.part
        stream = self.streams[turn % len(self.streams)] if self.streams else ()
        length = len(stream) if self.length is None else self.length.draw(self.rng)
        number = self.ids[(self.first_id + self.begun) % len(self.ids)]
        self.begun += 1
        return _Sequence(number, max(1, length), stream)

    def _over(self) -> bool:
        return monotonic_ns() >= self.stop_ns or self.next >= self.limit

    def send(self, slot: int, scheduled_ns: int) -> None:
        """See Run.send: the next request of this slot's sequence, or the first of a new one."""
        sequence = self.live.get(slot)
        over = self._over()
        if sequence is None:
            sequence = self.live[slot] = self._begin()
        index = self.next
        self.next = index + 1
        place = sequence.sent
        payload = (
            sequence.stream[place % len(sequence.stream)]
            if sequence.stream
            else self.order[index % self.pool]
        )
        sequence.sent = place + 1
        ends = sequence.sent >= sequence.length or over
        if ends:
            sequence.length = sequence.sent
        keep = False
        if index >= self.next_check:
            keep = True
            self.next_check = index + (1 if index < self.pool else self.check_step)
        request = self.requests.request(payload, sequence.number, place == 0, ends, slot)
        self.put(slot, scheduled_ns, payload, request, keep)

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
        sequence = self.live[slot]
        if reason is not None or sequence.sent >= sequence.length:
            del self.live[slot]
        self._go_on(slot)

    def _go_on(self, slot: int) -> None:
        if slot in self.live and self.connection_of[slot].open and self._over():
            self.send(slot, 0)
        else:
            super()._go_on(slot)
