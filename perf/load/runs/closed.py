"""The closed loop: so many requests in flight, each answer sends the next one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from time import monotonic_ns

from tritonsmith.perf.load.runs.run import MOST_CONNECTS_AT_ONCE, NEVER_NS, Run, no_connection, os_reason
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.wire.target import Connection, Responses


@dataclass(slots=True)
class _Lane:
    """A closed loop's connection and its slots; `waiting` ones have nothing to send on until it is back."""

    slots: range
    waiting: list[int] = field(default_factory=list)
    opening: bool = False


class ClosedRun(Run):
    """`concurrency` slots, each sending its next request on the answer to the last."""

    async def open_first(self) -> None:
        """See Run.open_first; a lane that cannot be opened while others can begins by reopening."""
        assert isinstance(self.plan.load, Closed)
        count, per = self.plan.load.most, self.target.streams_per_connection
        self.lanes = [_Lane(range(at, min(at + per, count))) for at in range(0, count, per)]
        self.scheduled, self.sent, self.payload = [0] * count, [0] * count, [0] * count
        self.active = 0
        self.width = count  # slots that may send now
        self.parked: set[int] = set()  # those beyond it that have nothing in flight
        self.limit = NEVER_NS  # place in the order at which sending stops
        gate = asyncio.Semaphore(MOST_CONNECTS_AT_ONCE)

        async def opened() -> Connection:
            async with gate:
                return await self.connect()

        made = await asyncio.gather(*(opened() for _ in self.lanes), return_exceptions=True)
        good = [c for c in made if not isinstance(c, BaseException)]
        for result in made:
            if isinstance(result, OSError) and not good:
                raise no_connection(self.target, result)
            if isinstance(result, BaseException) and not isinstance(result, OSError):
                raise result
        for lane, result in zip(self.lanes, made, strict=True):
            connection = result if not isinstance(result, BaseException) else _Unopened()
            self.connection_of += [connection] * len(lane.slots)

    def begin(self) -> None:
        """See Run.begin."""
        assert isinstance(self.plan.load, Closed)
        if self.plan.requests is not None:
            if self.plan.warmup_s:
                self.loop.call_later(self.plan.warmup_s, self._limit_requests)
            else:
                self._limit_requests()
        self.active = len(self.sent)
        at_s = 0.0
        for (_, duration_s), (after, _) in pairwise(
            (*self.plan.load.steps, (self.plan.load.concurrency, 0.0))
        ):
            at_s += duration_s
            self.loop.call_later(at_s, self._widen, after)
        self.width = self.plan.load.steps[0][0] if self.plan.load.steps else self.active
        for slot in range(self.active):
            delay_s = self.plan.load.ramp_s * slot / self.width
            if delay_s and slot < self.width:
                self.loop.call_later(delay_s, self._go_on, slot)
            else:
                self._go_on(slot)

    def _widen(self, width: int) -> None:
        """The next step: so many slots may send, more or fewer than before."""
        self.width = width
        for slot in [slot for slot in self.parked if slot < width]:
            self.parked.remove(slot)
            self._go_on(slot)

    def _limit_requests(self) -> None:
        assert self.plan.requests is not None
        self.limit = self.next + self.plan.requests

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
        # The hot path: `record` and `send` for the usual case, written out to spare two calls a request.
        if (
            reason is None
            and answer is None
            and responses is None
            and end_ns < self.stop_ns
            and self.next < self.limit
            and slot < self.width
        ):
            connection = self.connection_of[slot]
            if connection.open and self.next < self.next_check:
                sent = self.sent
                self.rows.extend(
                    (self.scheduled[slot], sent[slot], first_byte_ns, end_ns, 0, self.payload[slot])
                )
                if self.varied is None:
                    payload = self.order[self.next % self.pool]
                    request = self.wire[payload]
                else:
                    payload, request = next(self.varied)
                self.payload[slot] = payload
                self.next += 1
                now = monotonic_ns()
                self.scheduled[slot] = sent[slot] = now
                connection.send(slot, request, False)
                return
        self.record(slot, first_byte_ns, end_ns, reason, answer, responses)
        self._go_on(slot)

    def _go_on(self, slot: int) -> None:
        if monotonic_ns() >= self.stop_ns or self.next >= self.limit:
            self._retire(slot)
        elif slot >= self.width:
            self.parked.add(slot)
        elif self.connection_of[slot].open:
            self.send(slot, 0)
        else:
            lane = self.lanes[slot // self.target.streams_per_connection]
            lane.waiting.append(slot)
            if not lane.opening:
                lane.opening = True
                self.spawn(self._reopen(lane))

    async def _reopen(self, lane: _Lane) -> None:
        pause_s = 0.01
        while monotonic_ns() < self.stop_ns and self.next < self.limit:
            due_ns = monotonic_ns()
            try:
                connection = await self.connect()
            except OSError as error:
                for _ in lane.waiting:
                    self.record_unsent(due_ns, f"connect: {os_reason(error)}")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.25)
                continue
            for slot in lane.slots:
                self.connection_of[slot] = connection
            lane.opening = False
            waiting, lane.waiting = lane.waiting, []
            for slot in waiting:
                if connection.open:
                    self.send(slot, due_ns)
                else:
                    self._go_on(slot)
            return
        lane.opening = False
        for slot in lane.waiting:
            self._retire(slot)

    def _retire(self, slot: int) -> None:
        self.active -= 1
        if self.active == 0:
            self.finished.set()

    def closed(self, connection: Connection) -> None:
        """Nothing to do: its slots were told by `done`, and reopen when they go on."""

    def stop_sending(self) -> None:
        """`_go_on` looks at stop_ns."""
        self.on_tick(self.stop_ns)

    def on_tick(self, now: int) -> None:
        """What is parked when the run is over does not come back."""
        if self.parked and (now >= self.stop_ns or self.next >= self.limit):
            while self.parked:
                self._retire(self.parked.pop())


class _Unopened:
    """Stands for a connection that could not be opened."""

    open = False
    received_bytes = 0

    def send(self, slot: int, request: bytes, keep: bool) -> None:
        raise AssertionError("not open")

    def cancel(self, slot: int, reason: str) -> None:
        """Nothing is in flight."""

    def close(self) -> None:
        """Nothing is open."""
