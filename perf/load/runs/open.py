"""The open loop: requests are sent when they are due, whatever the answers do."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic_ns

from tritonsmith.perf.load.runs.run import MOST_CONNECTS_AT_ONCE, Run, no_connection, os_reason
from tritonsmith.perf.load.runs.timer import InstantTimer
from tritonsmith.perf.records.schedule import NS_PER_S
from tritonsmith.perf.wire.target import Connection, Responses


class OpenRun(Run):
    """Requests are sent when due; one that finds no free connection waits, and its latency grows."""

    async def open_first(self) -> None:
        """See Run.open_first."""
        self.offsets = self.plan.send_times_ns()
        self.free: list[int] = []  # a stack: the connection used last is the warmest
        self.unused: list[int] = []  # slots of lost connections
        self.backlog: deque[int] = deque()
        self.live: dict[int, Connection] = {}
        self.opening = 0
        self.in_flight = 0
        self.no_connect_before_ns = 0
        self.place = 0
        self.sending = True
        made = await asyncio.gather(
            *(self.connect() for _ in range(self._first_connections())),
            return_exceptions=True,
        )
        for result in made:
            if isinstance(result, BaseException) and not isinstance(result, OSError):
                raise result
            if not isinstance(result, BaseException):
                self._adopt(result)
        if not self.live:
            error = next(r for r in made if isinstance(r, OSError))
            raise no_connection(self.target, error)

    def _first_connections(self) -> int:
        streams = self.target.streams_per_connection
        wanted = max(1, self.options.connections // streams)
        return min(wanted, self.options.max_connections)

    def _adopt(self, connection: Connection) -> None:
        self.live[id(connection)] = connection
        for _ in range(self.target.streams_per_connection):
            if self.unused:
                slot = self.unused.pop()
                self.connection_of[slot] = connection
            else:
                slot = len(self.sent)
                self.connection_of.append(connection)
                self.scheduled.append(0)
                self.sent.append(0)
                self.payload.append(0)
            self.free.append(slot)

    def begin(self) -> None:
        """See Run.begin."""
        self.due: list[int] = (self.offsets + self.start_ns).tolist()
        self.timer = InstantTimer(self.loop, self._fire)
        self.lasts = self.plan.end_s is not None and self.plan.requests is None
        if self.lasts:
            self.loop.call_later((self.stop_ns - self.start_ns) / NS_PER_S + 0.001, self._finish_if_over)
        self._fire()

    def _fire(self) -> None:
        """Send all that is due, then sleep to the next."""
        if not self.sending:
            return
        due, place, count = self.due, self.place, len(self.due)
        while place < count and due[place] <= monotonic_ns():
            self._send_or_wait(due[place])
            place += 1
        self.place = place
        if self.backlog:
            self._grow()
        if place < count:
            self.timer.at(due[place])
        else:
            self.timer.cancel()
            self._finish_if_over()

    def _send_or_wait(self, due_ns: int) -> None:
        slot = self._free_slot() if not self.backlog else -1
        if slot < 0:
            self.backlog.append(due_ns)
        else:
            self.in_flight += 1
            self.send(slot, due_ns)

    def _free_slot(self) -> int:
        while self.free:
            slot = self.free.pop()
            if self.connection_of[slot].open:
                return slot
            self.unused.append(slot)
        return -1

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
        self.in_flight -= 1
        self.free.append(slot)
        self._work_off()

    def _work_off(self) -> None:
        """Free slots take what waits."""
        while self.backlog:
            slot = self._free_slot()
            if slot < 0:
                self._grow()
                return
            self.in_flight += 1
            self.send(slot, self.backlog.popleft())
        self._finish_if_over()

    def closed(self, connection: Connection) -> None:
        """See Run.closed."""
        self.live.pop(id(connection), None)

    def _grow(self) -> None:
        """Open connections for what waits, up to the limit."""
        streams = self.target.streams_per_connection
        wanted = -(-len(self.backlog) // streams) - self.opening
        room = self.options.max_connections - len(self.live) - self.opening
        if monotonic_ns() < self.no_connect_before_ns:
            return
        for _ in range(min(wanted, room, MOST_CONNECTS_AT_ONCE - self.opening)):
            self.opening += 1
            self.spawn(self._open_one())

    async def _open_one(self) -> None:
        try:
            connection = await self.connect()
        except OSError as error:
            self.opening -= 1
            self.no_connect_before_ns = monotonic_ns() + 20_000_000
            if not self.live:
                self._fail_backlog(f"connect: {os_reason(error)}")
            return
        self.opening -= 1
        self._adopt(connection)
        self._work_off()

    def _fail_backlog(self, reason: str) -> None:
        while self.backlog:
            self.record_unsent(self.backlog.popleft(), reason)
        self._finish_if_over()

    def on_tick(self, now: int) -> None:
        """Give up what has waited too long, connect again for the rest."""
        oldest_ns = now - round(self.options.timeout_s * NS_PER_S)
        while self.backlog and self.backlog[0] < oldest_ns:
            reason = f"unsent: no free connection within {self.options.timeout_s:g} s"
            self.record_unsent(self.backlog.popleft(), reason)
        if self.backlog:
            self._grow()
        self._finish_if_over()

    def stop_sending(self) -> None:
        """See Run.stop_sending; what was due and is unsent is a failure."""
        self.sending = False
        self.place = len(self.due)
        self.timer.cancel()
        self._fail_backlog("unsent: interrupted")

    def _finish_if_over(self) -> None:
        """A run of a duration lasts it, also when the last request was due and answered before."""
        if self.lasts and monotonic_ns() < self.stop_ns:
            return
        if self.place == len(self.due) and not self.backlog and self.in_flight == 0:
            self.stop_ns = min(self.stop_ns, monotonic_ns())
            self.finished.set()

    async def _close(self) -> None:
        if hasattr(self, "timer"):
            self.timer.close()
        await super()._close()
