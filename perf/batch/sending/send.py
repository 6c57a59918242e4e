"""(a server, requests one after another) → as many in flight as keep it full, each row's answer or failure told once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.perf.batch.answers import Failure
from tritonsmith.perf.batch.rows.reader import Row
from tritonsmith.perf.batch.sending.asking import Asking
from tritonsmith.perf.batch.sending.pack import Packed
from tritonsmith.perf.batch.sending.ramp import Ramp
from tritonsmith.perf.batch.sending.retries import (
    MOST_ATTEMPTS,
    MOST_BROKEN,
    Remedy,
    failure_of_reason,
    pause_s,
    remedy_for,
)
from tritonsmith.perf.wire.target import Connection, OneEnd, Responses

_TICK_S, _PAUSE_S = 0.1, 0.01
DIED = "server_died"
"""The code of perf.server.server.server_ended."""
_STUB_DIED = "is not healthy"
"""What Triton 2.51 answers, with HTTP 500, to each request for a Python model whose process has died."""


class Sink(Protocol):
    """What is told of rows. Neither call may take long: nothing is sent meanwhile."""

    def answered(self, rows: Sequence[Row], raw: bytes) -> None:
        """The answer to these rows' request; ValueError for one that is none."""

    def failed(self, row: Row, failure: Failure) -> None:
        """For good."""


@dataclass(frozen=True, slots=True)
class SendOptions:
    """in_flight: requests; None: found by a ramp. timeout_s: of one. wait_s: for a server that is gone, at a stretch."""

    in_flight: int | None = None
    most_in_flight: int = 256
    timeout_s: float = 300.0
    wait_s: float = 300.0

    def ramp(self, first: int = 1) -> Ramp:
        """A new one; first: the level that it begins with."""
        return Ramp(time.monotonic, self.most_in_flight, self.in_flight, first)


@dataclass(slots=True)
class Sender:
    """One job's sending.

    next_request: the next rows; None when there are no more. is_ready: whether the server takes requests to the model;
    asked when a request was refused, as a server that starts anew refuses everything. has_ended: that it never will.
    alone: what is sent before all else, one request at a time.
    may_send: False holds new requests back while what was answered is not taken.
    """

    asking: Asking
    next_request: Callable[[], Packed | None]
    sink: Sink
    is_ready: Callable[[], bool]
    has_ended: Callable[[], ServerError | None]
    options: SendOptions
    ramp: Ramp
    on_tick: Callable[[], None] = lambda: None
    may_send: Callable[[], bool] = lambda: True
    retries: Counter[str] = field(default_factory=Counter)
    alone: deque[Packed] = field(default_factory=deque)
    alone_now: Packed | None = None
    flying: dict[int, Packed] = field(default_factory=dict)
    stopped: bool = False
    again: deque[Packed] = field(default_factory=deque)
    workers: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    error: BaseException | None = None
    gone_s: float | None = None

    async def run(self) -> None:
        """Until every row is told of, or `stop` was called. Raises what ended it."""
        try:
            await self._send_alone()
            self._widen()
            while self.workers and self.error is None:
                await asyncio.wait(
                    self.workers.values(), timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED
                )
                self._sweep()
                self.on_tick()
        finally:
            for task in self.workers.values():
                task.cancel()
            await asyncio.gather(*self.workers.values(), return_exceptions=True)
        if self.error is not None:
            raise self.error

    async def _send_alone(self) -> None:
        lane = _Lane(self.asking)
        try:
            while self.alone and not self.stopped:
                self.alone_now = self.alone.popleft()
                await self._settle(lane, self.alone_now)
                self.on_tick()
            self.alone_now = None
        finally:
            lane.close()

    def unfinished(self) -> list[Packed]:
        """After an error: what may have been in flight when it came, but for `alone_now`."""
        return [*self.alone, *self.flying.values()]

    def stop(self) -> None:
        """Send nothing more; what is in flight is given up."""
        self.stopped = True
        for task in self.workers.values():
            task.cancel()

    def _sweep(self) -> None:
        for slot, task in [*self.workers.items()]:
            if task.done():
                del self.workers[slot]
                if not task.cancelled() and task.exception() is not None:
                    self.error = self.error or task.exception()

    def _widen(self) -> None:
        self._sweep()
        for slot in range(self.ramp.width):
            if slot not in self.workers or self.workers[slot].done():
                self.workers[slot] = asyncio.get_running_loop().create_task(self._work(slot))

    async def _work(self, slot: int) -> None:
        lane = _Lane(self.asking)
        try:
            while slot < self.ramp.width and not self.stopped:
                while not (self.again or self.may_send()):
                    await asyncio.sleep(_PAUSE_S)
                packed = self.again.popleft() if self.again else self.next_request()
                if packed is None:
                    return
                self.flying[slot] = packed
                await self._settle(lane, packed)
                del self.flying[slot]
        finally:
            lane.close()

    async def _settle(self, lane: _Lane, packed: Packed) -> None:
        """Ask until the rows are told of, or are again in the queue."""
        request = self.asking.request(packed.rows)
        while not self.stopped:
            await self._connected(lane)
            packed.attempts += 1
            reason, raw = await lane.ask(request, self.options.timeout_s)
            if reason is None:
                assert raw is not None
                self.gone_s = None
                try:
                    self.sink.answered(packed.rows, raw)
                except ValueError as error:
                    reason = f"answer: {error}"
                else:
                    if self.ramp.done(packed.count):
                        self._widen()
                    return
            if await self._is_settled(packed, reason):
                return

    async def _is_settled(self, packed: Packed, reason: str) -> bool:
        """What is to be done about a failure; False: the same request again."""
        remedy = remedy_for(reason)
        if remedy is Remedy.ENDS:
            raise TrialError(
                f"the server wants to know who asks: {reason}",
                code="not_allowed",
                fix="--header 'Authorization: Bearer …', then run the same command again: it goes on from there",
            )
        if _STUB_DIED in reason:
            raise ServerError(
                f"a process of the model died, and its server answers nothing of it any more: {reason}",
                code=DIED,
                seen=reason,
                fix="load the model again, then run the same command again: it goes on from there",
            )
        if remedy is Remedy.REFUSED and not await self._ready():
            # The model is being loaded, or the server is starting: no row is to blame.
            packed.attempts -= 1
            await self._wait(reason)
            return False
        self.gone_s = None
        packed.broken += remedy is Remedy.BROKEN
        is_over = (
            packed.broken >= MOST_BROKEN if remedy is Remedy.BROKEN else packed.attempts >= MOST_ATTEMPTS
        )
        if remedy is not Remedy.REFUSED and not is_over:
            self.retries[reason.partition(": ")[0]] += 1
            await asyncio.sleep(pause_s(packed.attempts))
            return False
        if len(packed.rows) > 1:
            self.again.extend(packed.halves())
        elif remedy is Remedy.REFUSED and packed.attempts < 2 and failure_of_reason(reason).status >= 500:
            self.retries[reason.partition(": ")[0]] += 1
            await asyncio.sleep(pause_s(packed.attempts))
            return False
        else:
            self.sink.failed(packed.rows[0], failure_of_reason(reason))
        return True

    async def _ready(self) -> bool:
        return await asyncio.get_running_loop().run_in_executor(None, self.is_ready)

    async def _connected(self, lane: _Lane) -> None:
        while not lane.is_open and not self.stopped:
            why = await lane.open()
            if why is None and self.gone_s is not None and not await self._ready():
                lane.close()
                why = "it is not ready"
            if why is not None:
                await self._wait(why)

    async def _wait(self, reason: str) -> None:
        """For a server that is gone; ServerError when that takes too long."""
        ended = self.has_ended()
        if ended is not None:
            ended.fix = f"{ended.fix}; run the same command again: it goes on from where it was"
            raise ended
        now = time.monotonic()
        if self.gone_s is None:
            self.gone_s = now
        if now - self.gone_s >= self.options.wait_s:
            raise ServerError(
                f"the server has not come back for {self.options.wait_s:g} s; what was answered is kept in the journal",
                code="server_gone",
                seen=reason,
                fix="start it, then run the same command again: it goes on from where it was; --wait 1h waits longer",
            )
        await asyncio.sleep(min(1.0, 0.1 + (now - self.gone_s) / 4))


class _Lane:
    """One connection that is made again when it is lost."""

    def __init__(self, asking: Asking) -> None:
        self._target = asking.target
        self._connection: Connection | None = None
        self._end = OneEnd(asyncio.get_running_loop().create_future())

    @property
    def is_open(self) -> bool:
        return self._connection is not None and self._connection.open

    async def open(self) -> str | None:
        """Why nothing answers; None when the connection is there."""
        self.close()
        try:
            self._connection = await self._target.connect(self._done, lambda connection: None)
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__
        return None

    def _done(
        self,
        slot: int,
        first_byte_ns: int,
        end_ns: int,
        reason: str | None,
        answer: bytes | None,
        responses: Responses | None = None,
        /,
    ) -> None:
        self._end(slot, first_byte_ns, end_ns, reason, answer)

    async def ask(self, request: bytes, timeout_s: float) -> tuple[str | None, bytes | None]:
        """(why it failed, or None; the answer)"""
        assert self._connection is not None
        self._end = OneEnd(asyncio.get_running_loop().create_future())
        self._connection.send(0, request, True)
        try:
            _, _, reason, answer = await asyncio.wait_for(self._end.ended, timeout_s)
        except asyncio.TimeoutError:
            self._connection.cancel(0, "timeout")
            self.close()
            return f"timeout: no answer within {timeout_s:g} s", None
        return reason, answer

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
