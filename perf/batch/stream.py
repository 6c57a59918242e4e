"""Rows that a program holds → their answers, in the same order, while later ones are being answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tritonsmith.builder.base.errors import ServerError, TrialError, TritonsmithError, UsageError
from tritonsmith.perf.batch.answers import Failure, Writer
from tritonsmith.perf.batch.place import Asked, Question, asked_of
from tritonsmith.perf.batch.rows.lines import BadLineError, Line
from tritonsmith.perf.batch.rows.reader import Row
from tritonsmith.perf.batch.sending.pack import Packer
from tritonsmith.perf.batch.sending.send import Sender, SendOptions
from tritonsmith.perf.load.load_test import server_at
from tritonsmith.perf.server.server import Server, server_ended

WINDOW_ROWS = 1024
_LEAVE_S = 1.0
Answer = Mapping[str, Any]


def stream_batch(
    rows: Iterable[Any],
    where: str | Server,
    question: Question,
    send: SendOptions,
    *,
    by_length: bool = True,
    window_rows: int = WINDOW_ROWS,
) -> Generator[Answer | TritonsmithError, None, None]:
    """Each row's outputs by name, or why it has none, in the order of the rows.

    A row is a mapping, input → value, or of a model with one input the value. At most about three windows of rows are held.
    The server is started when the first answer is asked for, and stopped at the end.
    """
    with ExitStack() as stack:
        served = stack.enter_context(server_at(where))
        asked = asked_of(question, None, served, None)
        answers = _Answers(asked, window_rows)

        def ended() -> ServerError | None:
            server = served.server
            is_over = server is not None and server.pid is not None and not server.alive()
            return (
                server_ended(server, "in the middle of the job") if server is not None and is_over else None
            )

        packer = Packer(
            answers.read(iter(rows)),
            asked.reader.most_rows or 1,
            by_length=by_length,
            carries=False,
            window_rows=window_rows,
        )
        sender = Sender(
            asked.asking,
            packer.next,
            answers,
            answers.is_ready,
            ended,
            send,
            send.ramp(asked.asking.first_in_flight),
            may_send=answers.may_send,
        )
        thread = threading.Thread(target=answers.run, args=(sender,), name="batch", daemon=True)
        thread.start()
        try:
            yield from answers.in_order()
        finally:
            answers.stop(sender)
            thread.join(_LEAVE_S)  # the caller's rows may be waiting for their next; it ends when that comes


@dataclass(slots=True)
class _Answers:
    """What came, by the number of the row, until its turn has come."""

    asked: Asked
    window_rows: int
    writer: Writer = field(init=False)
    waiting: dict[int, Answer | TritonsmithError] = field(default_factory=dict)
    turn: threading.Condition = field(default_factory=threading.Condition)
    read_rows: int = 0
    is_over: bool = False
    error: BaseException | None = None
    loop: asyncio.AbstractEventLoop | None = None
    stopped: bool = False

    def __post_init__(self) -> None:
        self.writer = Writer(self.asked.model, self.asked.address, True)

    # In the thread that sends.

    def run(self, sender: Sender) -> None:
        """Sends until all is told, or `stop`."""
        import uvloop

        self.loop = uvloop.new_event_loop()
        try:
            if not self.stopped:
                self.loop.run_until_complete(sender.run())
        except BaseException as error:  # for the thread that iterates
            self.error = error
        finally:
            with self.turn:  # before the loop is closed: `stop` calls into one that is not over
                self.is_over = True
                self.turn.notify_all()
            self.loop.close()

    def read(self, rows: Iterator[Any]) -> Iterator[Row]:
        """The caller's rows as they are sent."""
        for number, given in enumerate(rows, 1):
            self.read_rows = number
            record = given if isinstance(given, Mapping) else {self._only_input(): given}
            try:
                row = self.asked.reader.row(Line(number, number, record))
            except BadLineError as fault:
                place = f"{fault.place}: " if fault.place else ""
                self._put(number, UsageError(f"row {number}: {place}{fault.what}", code="bad_row_value"))
            else:
                yield row

    def _only_input(self) -> str:
        needed = [s.name for s in self.asked.model.inputs if s.name not in self.asked.model.optional]
        if len(needed) != 1:
            raise UsageError(
                f"`{self.asked.model.name}` takes several inputs: a row is to be a mapping",
                code="bad_row_value",
                valid=needed,
            )
        return needed[0]

    def answered(self, rows: Sequence[Row], raw: bytes) -> None:
        """See Sink."""
        for row, outputs in zip(rows, self.asked.asking.outputs(self.writer, rows, raw), strict=True):
            self._put(row.number, outputs)

    def failed(self, row: Row, failure: Failure) -> None:
        """See Sink."""
        message = f"row {row.number}: {failure.message}"
        self._put(row.number, TrialError(message, code=failure.code, seen=failure.status or None))

    def is_ready(self) -> bool:
        """See Sender."""
        try:
            self.asked.api.model_config(self.asked.model.name, self.asked.model.version)
        except TritonsmithError:
            return False
        return True

    def may_send(self) -> bool:
        """While the caller takes what is answered: a whole window may wait for one row of it, which was sent."""
        return self.stopped or len(self.waiting) < 2 * self.window_rows

    def _put(self, number: int, what: Answer | TritonsmithError) -> None:
        with self.turn:
            self.waiting[number] = what
            self.turn.notify_all()

    # In the thread that iterates.

    def in_order(self) -> Iterator[Answer | TritonsmithError]:
        """Each when its turn has come; raises what ended the sending."""
        number = 1
        while True:
            with self.turn:
                self.turn.wait_for(lambda number=number: number in self.waiting or self.is_over)  # type: ignore[misc]
                if number not in self.waiting:
                    break
                what = self.waiting.pop(number)
            yield what
            number += 1
        if self.error is not None:
            raise self.error

    def stop(self, sender: Sender) -> None:
        """Ends the other thread's work; nothing when it is over."""
        self.stopped = True
        with self.turn:
            if not self.is_over and self.loop is not None:
                self.loop.call_soon_threadsafe(sender.stop)
