"""What closed and open loop share: (a plan, payloads, a target) → rows, reasons, timeouts, the end of a run."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection as PipeEnd
from time import monotonic_ns
from typing import Any

import numpy as np

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.perf.load.answers import AnswerChecks
from tritonsmith.perf.load.runs.plan import ClientOptions, Plan, Progress
from tritonsmith.perf.records.chunks import ChunkTable
from tritonsmith.perf.records.record import OK, RecordHeader, RequestRecords, records_from_columns
from tritonsmith.perf.records.schedule import NS_PER_S, Closed, load_as_dict
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.per_request.varied_bytes import VariedRequests
from tritonsmith.perf.wire.target import Connection, Responses, Target

_REASONS_LIMIT = 200
MOST_CONNECTS_AT_ONCE = 64
NEVER_NS = 1 << 62


class Run:
    """What closed and open loop share: rows, reasons, the pool's order, timeouts, the end.

    A slot is a place for one request in flight; `connection_of[slot]` carries it.
    """

    def __init__(
        self,
        target: Target,
        payloads: Sequence[InferPayload],
        plan: Plan,
        options: ClientOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.target = target
        self.payloads = payloads
        self.plan = plan
        self.options = options
        self.on_progress = on_progress
        order = np.arange(len(payloads))
        if not options.in_order:
            order = np.random.default_rng(plan.seed).permutation(order)
        # An open loop's processes take turns in one order; a closed loop's are not equally fast, and each
        # goes through the whole pool from a place of its own.
        turns = np.arange(len(payloads))
        if isinstance(plan.load, Closed):
            places = (turns + plan.part * len(payloads) // plan.parts) % len(payloads)
        else:
            places = (turns * plan.parts + plan.part) % len(payloads)
        self.order: list[int] = order[places].tolist()
        self.varied: Iterator[tuple[int, bytes]] | None = (
            None  # (payload, its bytes) where requests do not repeat
        )
        self.wire: list[bytes] = []
        if options.repeat is None:
            self.wire = [target.encode(payload) for payload in payloads]
        else:
            how = options.repeat
            varied = VariedRequests(target.encode, payloads, order.tolist(), how.first)
            self.varied = varied.requests(how.repeat.blocks(how.seed, plan.part, plan.parts))
        self.pool = len(self.order)
        self.rows = array("q")  # six values a row: the columns of RequestRecords
        self.responses = array("q")  # three values a row: Responses; empty when the target does not stream
        self.chunks = ChunkTable()
        self.reasons: dict[str, int] = {"ok": OK}
        self.failed = 0
        self.next = 0  # requests sent so far, which is the place in the pool's order
        self.checks: AnswerChecks | None = None
        self.next_check = self.check_step = NEVER_NS
        if options.validation is not None and self.varied is None:
            expected = [payload.expected for payload in payloads]
            self.checks = AnswerChecks(target.decode, expected, options.validation)
            step = max(1, options.validation.every)
            while np.gcd(step, self.pool) != 1:  # or some payloads would never be checked
                step += 1
            self.next_check, self.check_step = 0, step
        self.connection_of: list[Connection] = []
        self.alive: dict[int, Connection] = {}
        self.received_bytes = 0  # on connections that are gone
        self.received_before = 0  # at the start of the measurement
        self.received_at_stop: int | None = None
        self.scheduled: list[int] = []
        self.sent: list[int] = []  # 0 when nothing is in flight
        self.payload: list[int] = []
        self.start_ns = self.measure_start_ns = self.stop_ns = 0
        self.at_measure_start: Callable[[], None] | None = None
        self.before_start: Callable[[], int] | None = None
        self.interrupt_pipe: PipeEnd | None = None
        self.interrupted = False
        self.error: BaseException | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    # The life of a run.

    async def run(self) -> None:
        """From the first connection to the last answer."""
        self.loop = asyncio.get_running_loop()
        self.finished = asyncio.Event()
        self.loop.set_exception_handler(self._on_error)
        main = threading.current_thread() is threading.main_thread()
        main = main and self.interrupt_pipe is None
        if main:
            self.loop.add_signal_handler(signal.SIGINT, self.interrupt)
        try:
            await self.open_first()
            agreed_ns = 0
            if self.before_start is not None:
                agreed_ns = await self.loop.run_in_executor(None, self.before_start)
            self.started_unix_ns = time.time_ns()
            cpu_ns, self.start_ns = time.process_time_ns(), agreed_ns or monotonic_ns()
            self.measure_start_ns = self.start_ns + round(self.plan.warmup_s * NS_PER_S)
            end_s = self.plan.end_s
            self.stop_ns = NEVER_NS if end_s is None else self.start_ns + round(end_s * NS_PER_S)
            if self.plan.warmup_s:
                self.loop.call_later(self.plan.warmup_s, self._count_from_here)
            if end_s is not None:
                self.loop.call_later(end_s, self._count_to_here)
            if self.at_measure_start is not None:
                self.loop.call_later(self.plan.warmup_s, self._measure_start, self.at_measure_start)
            self.begin()
            self._tick()
            await self.finished.wait()
            self.ticker.cancel()
            self._count_to_here()
            self.client_cpu_s = (time.process_time_ns() - cpu_ns) / NS_PER_S
            self.client_wall_s = (monotonic_ns() - self.start_ns) / NS_PER_S
            self.stop_ns = min(self.stop_ns, monotonic_ns())
        finally:
            if main:
                self.loop.remove_signal_handler(signal.SIGINT)
            await self._close()
        if self.error is not None:
            raise self.error

    async def connect(self) -> Connection:
        """A new connection, counted; OSError when there is none."""
        connection = await self.target.connect(self.done, self._gone)
        self.alive[id(connection)] = connection
        return connection

    def _gone(self, connection: Connection) -> None:
        if self.alive.pop(id(connection), None) is not None:
            self.received_bytes += connection.received_bytes
        self.closed(connection)

    def _received(self) -> int:
        return self.received_bytes + sum(connection.received_bytes for connection in self.alive.values())

    def _count_from_here(self) -> None:
        self.received_before = self._received()

    def _count_to_here(self) -> None:
        if self.received_at_stop is None:
            self.received_at_stop = self._received()

    def _measure_start(self, call: Callable[[], None]) -> None:
        async def called() -> None:
            await self.loop.run_in_executor(None, call)

        self.spawn(called())

    async def open_first(self) -> None:
        """Open the connections that the start needs; ServerError when there is none."""
        raise NotImplementedError

    def begin(self) -> None:
        """Send what is due at the start."""
        raise NotImplementedError

    def on_tick(self, now: int) -> None:
        """What else is to be done every so often."""
        raise NotImplementedError

    def done(
        self,
        slot: int,
        first_byte_ns: int,
        end_ns: int,
        reason: str | None,
        answer: bytes | None,
        responses: Responses | None = None,
    ) -> None:
        """See perf.wire.target.Done."""
        raise NotImplementedError

    def closed(self, connection: Connection) -> None:
        """See perf.wire.target.Closed."""
        raise NotImplementedError

    def stop_sending(self) -> None:
        """Nothing more is to be sent, due or not."""
        raise NotImplementedError

    def connections(self) -> Sequence[Connection]:
        """Every connection that slots have, dead ones among them."""
        return list({id(c): c for c in self.connection_of}.values())

    async def _close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for connection in self.connections():
            connection.close()
        await asyncio.sleep(0)  # let the transports close before the loop does

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: that is a bug of ours, and the run must not hang on it."""
        if isinstance(context.get("exception"), OSError):
            return  # a transport's own end; its protocol hears of it in connection_lost
        self.error = context.get("exception") or RuntimeError(context["message"])
        self.finished.set()

    def interrupt(self) -> None:
        """Send no more, give what is in flight one second, keep the rows. A second Ctrl-C does not wait."""
        patience_s = 0.0 if self.interrupted else 1.0
        self.interrupted = True
        self.stop_ns = min(self.stop_ns, monotonic_ns())
        self._count_to_here()
        self.stop_sending()
        self.loop.call_later(patience_s, self._give_up)

    def _give_up(self) -> None:
        for slot, sent in enumerate(self.sent):
            if sent:
                self.connection_of[slot].cancel(slot, "unfinished: interrupted")
        self.finished.set()

    def spawn(self, work: Any) -> None:
        """Run a coroutine; what it raises ends the run."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._on_error(self.loop, {"exception": task.exception(), "message": "task"})

    def _tick(self) -> None:
        """Ten times within the timeout, at least ten times a second: timeouts, Ctrl-C, progress, the end."""
        timeout_s = self.options.timeout_s
        self.ticker = self.loop.call_later(min(0.1, max(timeout_s / 10, 0.005)), self._tick)
        now = monotonic_ns()
        oldest_ns = now - round(timeout_s * NS_PER_S)
        for slot, sent in enumerate(self.sent):
            if 0 < sent < oldest_ns:
                self.connection_of[slot].cancel(slot, f"timeout: no answer within {timeout_s:g} s")
        self.on_tick(now)
        self._hear_parent()
        if self.on_progress is not None:
            self.on_progress(Progress(self.part_done(now), len(self.rows) // 6, self.failed))

    def _hear_parent(self) -> None:
        """A Ctrl-C that it passes on, or its end. Asked for, not watched: a pipe whose other end left something
        unread ends with an error, upon which libuv watches it no more."""
        if self.interrupt_pipe is not None and self.interrupt_pipe.poll():
            with suppress(EOFError, OSError):
                self.interrupt_pipe.recv()
            self.interrupt()

    def part_done(self, now: int) -> float:
        """0 to 1."""
        if self.plan.requests is not None and self.plan.end_s is None:
            return min(1.0, len(self.rows) / 6 / self.plan.requests)
        end_s = self.plan.end_s or 1.0
        return min(1.0, (now - self.start_ns) / NS_PER_S / end_s)

    # One request.

    def send(self, slot: int, scheduled_ns: int) -> None:
        """Send the next payload on this slot; scheduled_ns 0 means it is due now."""
        index, self.next = self.next, self.next + 1
        if self.varied is None:
            payload = self.order[index % self.pool]
            request = self.wire[payload]
        else:
            payload, request = next(self.varied)
        keep = False
        if index >= self.next_check:
            keep = True
            self.next_check = index + (1 if index < self.pool else self.check_step)
        self.put(slot, scheduled_ns, payload, request, keep)

    def put(self, slot: int, scheduled_ns: int, payload: int, request: bytes, keep: bool) -> None:
        """Send this request, whose payload has that number, and note when; scheduled_ns 0: it is due now."""
        self.payload[slot] = payload
        now = monotonic_ns()
        self.scheduled[slot] = scheduled_ns or now
        self.sent[slot] = now
        self.connection_of[slot].send(slot, request, keep)

    def record(
        self,
        slot: int,
        first_ns: int,
        end_ns: int,
        reason: str | None,
        answer: bytes | None,
        responses: Responses | None,
    ) -> None:
        """A row for the request of this slot."""
        payload = self.payload[slot]
        status = OK if reason is None else self.status_of(reason)
        self.rows.extend((self.scheduled[slot], self.sent[slot], first_ns, end_ns, status, payload))
        if self.target.streaming:
            self.responses.extend(responses[:3] if responses is not None else (0, 0, 0))
            self.chunks.add(None if responses is None else responses.chunks)
        self.sent[slot] = 0
        if answer is not None and reason is None and self.checks is not None:
            self.checks.add(len(self.rows) // 6 - 1, payload, answer)

    def record_unsent(self, scheduled_ns: int, reason: str) -> None:
        """A request that was due and never reached a socket; it takes its place in the pool's order."""
        payload = self.order[self.next % self.pool]
        self.next += 1
        self.rows.extend((scheduled_ns, 0, 0, monotonic_ns(), self.status_of(reason), payload))
        if self.target.streaming:
            self.responses.extend((0, 0, 0))
            self.chunks.add(None)

    def status_of(self, reason: str) -> int:
        """The failure's number in the table of reasons."""
        self.failed += 1
        if reason not in self.reasons and len(self.reasons) >= _REASONS_LIMIT:
            reason = "other: too many different reasons"
        return self.reasons.setdefault(reason, len(self.reasons))

    def _request_bytes(self) -> tuple[int, ...]:
        """Of each payload's request. What stands for a slot's own, or is made for each request, is not there yet."""
        kept: list[bytes | None] = [*self.wire] or [None] * len(self.payloads)
        pairs = zip(kept, self.payloads, strict=True)
        return tuple(len(w if type(w) is bytes else self.target.encode(p, 0)) for w, p in pairs)

    def records(self, environment: dict[str, Any]) -> RequestRecords:
        """The rows, sorted and with their header, once the run is over."""
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
            request_bytes=self._request_bytes(),
            received_bytes=max(0, (self.received_at_stop or 0) - self.received_before),
            started_unix_ns=self.started_unix_ns,
            start_ns=self.start_ns,
            measure_start_ns=self.measure_start_ns,
            stop_ns=self.stop_ns,
            client_cpu_s=self.client_cpu_s,
            client_wall_s=self.client_wall_s,
            most_in_flight=0
            if isinstance(self.plan.load, Closed)
            else self.options.max_connections * self.target.streams_per_connection,
            interrupted=self.interrupted,
            checked=checked,
            repeat="" if self.options.repeat is None else str(self.options.repeat.repeat),
            environment=environment,
        )
        names = ("scheduled_ns", "sent_ns", "first_byte_ns", "end_ns", "status", "payload_index")
        columns = {name: table[:, i] for i, name in enumerate(names)}
        if self.target.streaming:
            streamed = np.frombuffer(self.responses, np.int64).reshape(-1, 3)
            more = ("responses", "last_response_ns", "longest_gap_ns")
            columns |= {name: streamed[:, i] for i, name in enumerate(more)} | self.chunks.columns()
        return records_from_columns(header, columns)


def no_connection(target: Target, error: OSError) -> ServerError:
    """Nothing could be opened at the start."""
    return ServerError(
        f"cannot connect to {target.url}",
        code="connect",
        seen=os_reason(error),
        fix="check that the server is up and that the URL names its HTTP port (8000 by default)"
        if not target.protocol.startswith("grpc")
        else "check that the server is up and that the URL names its gRPC port (8001 by default)",
    )


def os_reason(error: OSError) -> str:
    """`Connection refused`."""
    return error.strerror or str(error) or type(error).__name__
