"""(Target, Load, payloads) → RequestRecords: sends what is due and records every request."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from builder.errors import ServerError, UsageError
from perf.answers import AnswerChecks, Validation
from perf.record import OK, RecordHeader, RequestRecords, records_from_columns
from perf.schedule import NS_PER_S, Closed, Load, Open, Replay, intended_send_times_ns, load_as_dict
from perf.timer import InstantTimer
from perf.wire.payload import InferPayload
from perf.wire.target import Connection, Target

_REASONS_LIMIT = 200
_MOST_CONNECTS_AT_ONCE = 64
_NEVER_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How the client behaves, whatever the load.

    timeout_s:       a request without an answer after this is a failure.
    connections:     open loop: connections opened before the start; more are opened when they are short.
    max_connections: the most connections at once.
    validation:      check answers against the payloads' expected outputs; None checks nothing.
    """

    timeout_s: float = 30.0
    connections: int = 16
    max_connections: int = 1024
    validation: Validation | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the part done (0 to 1), requests ended, failed ones among them."""

    done: float
    requests: int
    failed: int


def generate(
    target: Target,
    load: Load,
    payloads: Sequence[InferPayload],
    *,
    warmup_s: float = 0.0,
    duration_s: float | None = None,
    requests: int | None = None,
    seed: int = 0,
    options: ClientOptions | None = None,
    environment: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    at_measure_start: Callable[[], None] | None = None,
) -> RequestRecords:
    """Put the load on the target and return a row for every request, warm-up and failures included.

    payloads:   the pool, cycled in an order drawn from `seed`.
    warmup_s:   time before the measurement; its rows are kept and lie before header.measure_start_ns.
    duration_s: time of the measurement; requests: or so many requests after the warm-up; the first limit
                reached ends the run (a replay needs neither).
    at_measure_start: called once, in another thread, when the warm-up is over (to read counters).
    Ctrl-C ends the run in about a second and returns what was recorded, header.interrupted set.
    Raises ServerError when not one connection can be opened at the start; later failures are rows.
    """
    if not payloads:
        raise UsageError("the load needs at least one payload", code="no_payload")
    if duration_s is None and requests is None and not isinstance(load, Replay):
        raise UsageError("the load needs a duration or a number of requests", code="bad_load")
    import uvloop

    options = options or ClientOptions()
    plan = _Plan(load, warmup_s, duration_s, requests, seed)
    kind = _ClosedRun if isinstance(load, Closed) else _OpenRun
    run = kind(target, payloads, plan, options, on_progress)
    run.at_measure_start = at_measure_start
    loop = uvloop.new_event_loop()
    collecting = gc.isenabled()
    gc.disable()  # a collection is a pause of milliseconds that would be laid at the server's door
    try:
        loop.run_until_complete(run.run())
    finally:
        if collecting:
            gc.enable()
        loop.close()
    return run.records(dict(environment or {}))


@dataclass(frozen=True, slots=True)
class _Plan:
    load: Load
    warmup_s: float
    duration_s: float | None
    requests: int | None
    seed: int

    @property
    def end_s(self) -> float | None:
        return None if self.duration_s is None else self.warmup_s + self.duration_s

    def send_times_ns(self) -> npt.NDArray[np.int64]:
        assert isinstance(self.load, Open | Replay)
        count = self.requests
        if count is not None and self.warmup_s:
            count += len(intended_send_times_ns(self.load, duration_s=self.warmup_s))
        return intended_send_times_ns(self.load, duration_s=self.end_s, requests=count)


class _Run:
    """What closed and open loop share: rows, reasons, the pool's order, timeouts, the end.

    A slot is a place for one request in flight; `connection_of[slot]` carries it.
    """

    def __init__(
        self,
        target: Target,
        payloads: Sequence[InferPayload],
        plan: _Plan,
        options: ClientOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.target = target
        self.payloads = payloads
        self.plan = plan
        self.options = options
        self.on_progress = on_progress
        self.wire = [target.encode(payload) for payload in payloads]
        order = np.random.default_rng(plan.seed).permutation(len(payloads))
        self.order: list[int] = order.tolist()
        self.pool = len(self.order)
        self.rows = array("q")  # six values a row: the columns of RequestRecords
        self.reasons: dict[str, int] = {"ok": OK}
        self.failed = 0
        self.next = 0  # requests sent so far, which is the place in the pool's order
        self.checks: AnswerChecks | None = None
        self.next_check = self.check_step = _NEVER_NS
        if options.validation is not None:
            expected = [payload.expected for payload in payloads]
            self.checks = AnswerChecks(target.decode, expected, options.validation)
            step = max(1, options.validation.every)
            while np.gcd(step, self.pool) != 1:  # or some payloads would never be checked
                step += 1
            self.next_check, self.check_step = 0, step
        self.connection_of: list[Connection] = []
        self.scheduled: list[int] = []
        self.sent: list[int] = []  # 0 when nothing is in flight
        self.payload: list[int] = []
        self.start_ns = self.measure_start_ns = self.stop_ns = 0
        self.at_measure_start: Callable[[], None] | None = None
        self.interrupted = False
        self.error: BaseException | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    # The life of a run.

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.finished = asyncio.Event()
        self.loop.set_exception_handler(self._on_error)
        main = threading.current_thread() is threading.main_thread()
        if main:
            self.loop.add_signal_handler(signal.SIGINT, self.interrupt)
        try:
            await self.open_first()
            self.started_unix_ns = time.time_ns()
            cpu_ns, self.start_ns = time.process_time_ns(), monotonic_ns()
            self.measure_start_ns = self.start_ns + round(self.plan.warmup_s * NS_PER_S)
            end_s = self.plan.end_s
            self.stop_ns = _NEVER_NS if end_s is None else self.start_ns + round(end_s * NS_PER_S)
            if self.at_measure_start is not None:
                self.loop.call_later(self.plan.warmup_s, self._measure_start, self.at_measure_start)
            self.begin()
            self._tick()
            await self.finished.wait()
            self.ticker.cancel()
            self.client_cpu_s = (time.process_time_ns() - cpu_ns) / NS_PER_S
            self.client_wall_s = (monotonic_ns() - self.start_ns) / NS_PER_S
            self.stop_ns = min(self.stop_ns, monotonic_ns())
        finally:
            if main:
                self.loop.remove_signal_handler(signal.SIGINT)
            await self._close()
        if self.error is not None:
            raise self.error

    def _measure_start(self, call: Callable[[], None]) -> None:
        async def called() -> None:
            await self.loop.run_in_executor(None, call)

        self.spawn(called())

    async def open_first(self) -> None:
        raise NotImplementedError

    def begin(self) -> None:
        raise NotImplementedError

    def on_tick(self, now: int) -> None:
        raise NotImplementedError

    def done(self, slot: int, first_ns: int, end_ns: int, reason: str | None, answer: bytes | None) -> None:
        raise NotImplementedError

    def closed(self, connection: Connection) -> None:
        raise NotImplementedError

    def stop_sending(self) -> None:
        raise NotImplementedError

    def connections(self) -> Sequence[Connection]:
        return list({id(c): c for c in self.connection_of}.values())

    async def _close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for connection in self.connections():
            connection.close()
        await asyncio.sleep(0)  # let the transports close before the loop does

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: that is a bug of ours, and the run must not hang on it."""
        self.error = context.get("exception") or RuntimeError(context["message"])
        self.finished.set()

    def interrupt(self) -> None:
        """Send no more, give what is in flight one second, keep the rows. A second Ctrl-C does not wait."""
        patience_s = 0.0 if self.interrupted else 1.0
        self.interrupted = True
        self.stop_ns = min(self.stop_ns, monotonic_ns())
        self.stop_sending()
        self.loop.call_later(patience_s, self.give_up, "unfinished: interrupted")

    def give_up(self, reason: str) -> None:
        """Every request in flight becomes a failure."""
        for slot, sent in enumerate(self.sent):
            if sent:
                self.connection_of[slot].cancel(slot, reason)

    def spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._on_error(self.loop, {"exception": task.exception(), "message": "task"})

    def _tick(self) -> None:
        """Ten times within the timeout, at least ten times a second: timeouts, progress, the end."""
        timeout_s = self.options.timeout_s
        now = monotonic_ns()
        oldest_ns = now - round(timeout_s * NS_PER_S)
        for slot, sent in enumerate(self.sent):
            if 0 < sent < oldest_ns:
                self.connection_of[slot].cancel(slot, f"timeout: no answer within {timeout_s:g} s")
        self.on_tick(now)
        if self.on_progress is not None:
            self.on_progress(Progress(self.part_done(now), len(self.rows) // 6, self.failed))
        self.ticker = self.loop.call_later(min(0.1, max(timeout_s / 10, 0.005)), self._tick)

    def part_done(self, now: int) -> float:
        if self.plan.requests is not None and self.plan.end_s is None:
            return min(1.0, len(self.rows) / 6 / self.plan.requests)
        end_s = self.plan.end_s or 1.0
        return min(1.0, (now - self.start_ns) / NS_PER_S / end_s)

    # One request.

    def send(self, slot: int, scheduled_ns: int) -> None:
        """Send the next payload on this slot; scheduled_ns 0 means it is due now."""
        index = self.next
        self.next = index + 1
        payload = self.order[index % self.pool]
        keep = False
        if index >= self.next_check:
            keep = True
            self.next_check = index + (1 if index < self.pool else self.check_step)
        self.payload[slot] = payload
        now = monotonic_ns()
        self.scheduled[slot] = scheduled_ns or now
        self.sent[slot] = now
        self.connection_of[slot].send(slot, self.wire[payload], keep)

    def record(self, slot: int, first_ns: int, end_ns: int, reason: str | None, answer: bytes | None) -> None:
        payload = self.payload[slot]
        status = OK if reason is None else self.status_of(reason)
        self.rows.extend((self.scheduled[slot], self.sent[slot], first_ns, end_ns, status, payload))
        self.sent[slot] = 0
        if answer is not None and reason is None and self.checks is not None:
            self.checks.add(len(self.rows) // 6 - 1, payload, answer)

    def record_unsent(self, scheduled_ns: int, reason: str) -> None:
        """A request that was due and never reached a socket; it takes its place in the pool's order."""
        payload = self.order[self.next % self.pool]
        self.next += 1
        self.rows.extend((scheduled_ns, 0, 0, monotonic_ns(), self.status_of(reason), payload))

    def status_of(self, reason: str) -> int:
        self.failed += 1
        if reason not in self.reasons and len(self.reasons) >= _REASONS_LIMIT:
            reason = "other: too many different reasons"
        return self.reasons.setdefault(reason, len(self.reasons))

    def records(self, environment: dict[str, Any]) -> RequestRecords:
        table = np.frombuffer(self.rows, np.int64).reshape(-1, 6).copy()
        checked = 0
        if self.checks is not None:
            checked = self.checks.checked
            for row, reason in self.checks.wrong_rows():
                table[row, 4] = self.status_of(reason)
        header = RecordHeader(
            model=self.payloads[0].model,
            url=self.target.url,
            protocol=self.target.protocol,
            load=load_as_dict(self.plan.load),
            seed=self.plan.seed,
            reasons=tuple(self.reasons),
            batch_sizes=tuple(payload.batch_size for payload in self.payloads),
            started_unix_ns=self.started_unix_ns,
            start_ns=self.start_ns,
            measure_start_ns=self.measure_start_ns,
            stop_ns=self.stop_ns,
            client_cpu_s=self.client_cpu_s,
            client_wall_s=self.client_wall_s,
            interrupted=self.interrupted,
            checked=checked,
            environment=environment,
        )
        names = ("scheduled_ns", "sent_ns", "first_byte_ns", "end_ns", "status", "payload_index")
        return records_from_columns(header, {name: table[:, i] for i, name in enumerate(names)})


def _no_connection(target: Target, error: OSError) -> ServerError:
    return ServerError(
        f"cannot connect to {target.url}",
        code="connect",
        seen=_os_reason(error),
        fix="check that the server is up and that the URL names its HTTP port (8000 by default)"
        if target.protocol == "http"
        else "check that the server is up and that the URL names its gRPC port (8001 by default)",
    )


def _os_reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


@dataclass(slots=True)
class _Lane:
    """A closed loop's connection and its slots; `waiting` ones have nothing to send on until it is back."""

    slots: range
    waiting: list[int] = field(default_factory=list)
    opening: bool = False


class _ClosedRun(_Run):
    """`concurrency` slots, each sending its next request on the answer to the last."""

    async def open_first(self) -> None:
        assert isinstance(self.plan.load, Closed)
        count, per = self.plan.load.concurrency, self.target.streams_per_connection
        self.lanes = [_Lane(range(at, min(at + per, count))) for at in range(0, count, per)]
        self.scheduled, self.sent, self.payload = [0] * count, [0] * count, [0] * count
        self.active = 0
        self.limit = _NEVER_NS  # place in the order at which sending stops
        gate = asyncio.Semaphore(_MOST_CONNECTS_AT_ONCE)

        async def opened() -> Connection:
            async with gate:
                return await self.target.connect(self.done, self.closed)

        made = await asyncio.gather(*(opened() for _ in self.lanes), return_exceptions=True)
        good = [c for c in made if not isinstance(c, BaseException)]
        for result in made:
            if isinstance(result, OSError) and not good:
                raise _no_connection(self.target, result)
            if isinstance(result, BaseException) and not isinstance(result, OSError):
                raise result
        for lane, result in zip(self.lanes, made, strict=True):
            # A lane that could not be opened begins with another's connection closed to it, and reopens.
            connection = result if not isinstance(result, BaseException) else _Unopened()
            self.connection_of += [connection] * len(lane.slots)

    def begin(self) -> None:
        assert isinstance(self.plan.load, Closed)
        if self.plan.requests is not None:
            if self.plan.warmup_s:
                self.loop.call_later(self.plan.warmup_s, self._limit_requests)
            else:
                self._limit_requests()
        count = len(self.sent)
        self.active = count
        for slot in range(count):
            delay_s = self.plan.load.ramp_s * slot / count
            if delay_s:
                self.loop.call_later(delay_s, self._go_on, slot)
            else:
                self._go_on(slot)

    def _limit_requests(self) -> None:
        assert self.plan.requests is not None
        self.limit = self.next + self.plan.requests

    def done(self, slot: int, first_ns: int, end_ns: int, reason: str | None, answer: bytes | None) -> None:
        # The hot path: `record` and `send` for the usual case, written out to spare two calls a request.
        if reason is None and answer is None and end_ns < self.stop_ns and self.next < self.limit:
            connection = self.connection_of[slot]
            if connection.open and self.next < self.next_check:
                sent = self.sent
                self.rows.extend((self.scheduled[slot], sent[slot], first_ns, end_ns, 0, self.payload[slot]))
                self.payload[slot] = payload = self.order[self.next % self.pool]
                self.next += 1
                now = monotonic_ns()
                self.scheduled[slot] = sent[slot] = now
                connection.send(slot, self.wire[payload], False)
                return
        self.record(slot, first_ns, end_ns, reason, answer)
        self._go_on(slot)

    def _go_on(self, slot: int) -> None:
        if monotonic_ns() >= self.stop_ns or self.next >= self.limit:
            self._retire(slot)
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
                connection = await self.target.connect(self.done, self.closed)
            except OSError as error:
                for _ in lane.waiting:
                    self.record_unsent(due_ns, f"connect: {_os_reason(error)}")
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

    def on_tick(self, now: int) -> None:
        """Nothing else is due."""


class _Unopened:
    """Stands for a connection that could not be opened."""

    open = False

    def send(self, slot: int, request: bytes, keep: bool) -> None:
        raise AssertionError("not open")

    def cancel(self, slot: int, reason: str) -> None:
        """Nothing is in flight."""

    def close(self) -> None:
        """Nothing is open."""


class _OpenRun(_Run):
    """Requests are sent when due; one that finds no free connection waits, and its latency grows."""

    async def open_first(self) -> None:
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
            *(self.target.connect(self.done, self.closed) for _ in range(self._first_connections())),
            return_exceptions=True,
        )
        for result in made:
            if isinstance(result, BaseException) and not isinstance(result, OSError):
                raise result
            if not isinstance(result, BaseException):
                self._adopt(result)
        if not self.live:
            error = next(r for r in made if isinstance(r, OSError))
            raise _no_connection(self.target, error)

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
        self.due: list[int] = (self.offsets + self.start_ns).tolist()
        self.timer = InstantTimer(self.loop, self._fire)
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

    def done(self, slot: int, first_ns: int, end_ns: int, reason: str | None, answer: bytes | None) -> None:
        self.record(slot, first_ns, end_ns, reason, answer)
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
        self.live.pop(id(connection), None)

    def _grow(self) -> None:
        """Open connections for what waits, up to the limit."""
        streams = self.target.streams_per_connection
        wanted = -(-len(self.backlog) // streams) - self.opening
        room = self.options.max_connections - len(self.live) - self.opening
        if monotonic_ns() < self.no_connect_before_ns:
            return
        for _ in range(min(wanted, room, _MOST_CONNECTS_AT_ONCE - self.opening)):
            self.opening += 1
            self.spawn(self._open_one())

    async def _open_one(self) -> None:
        try:
            connection = await self.target.connect(self.done, self.closed)
        except OSError as error:
            self.opening -= 1
            self.no_connect_before_ns = monotonic_ns() + 20_000_000
            if not self.live:
                self._fail_backlog(f"connect: {_os_reason(error)}")
            return
        self.opening -= 1
        self._adopt(connection)
        self._work_off()

    def _fail_backlog(self, reason: str) -> None:
        while self.backlog:
            self.record_unsent(self.backlog.popleft(), reason)
        self._finish_if_over()

    def on_tick(self, now: int) -> None:
        oldest_ns = now - round(self.options.timeout_s * NS_PER_S)
        while self.backlog and self.backlog[0] < oldest_ns:
            reason = f"unsent: no free connection within {self.options.timeout_s:g} s"
            self.record_unsent(self.backlog.popleft(), reason)
        if self.backlog:
            self._grow()
        self._finish_if_over()

    def stop_sending(self) -> None:
        self.sending = False
        self.place = len(self.due)
        self.timer.cancel()
        self._fail_backlog("unsent: interrupted")

    def _finish_if_over(self) -> None:
        if self.place == len(self.due) and not self.backlog and self.in_flight == 0:
            self.stop_ns = min(self.stop_ns, monotonic_ns())
            self.finished.set()

    async def _close(self) -> None:
        if hasattr(self, "timer"):
            self.timer.close()
        await super()._close()
