"""A job → its input checked, its rows sent to a server, their answers kept and put into the output, each once."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import ServerError, TritonsmithError
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.base.text.quantities import text_of_seconds
from tritonsmith.perf.batch.answers import Failure, Writer
from tritonsmith.perf.batch.kept.journal import DONE, FAILED, Journal
from tritonsmith.perf.batch.kept.output import (
    Form,
    check_places,
    errors_path,
    journal_path,
    refuse_strange,
    write_output,
)
from tritonsmith.perf.batch.place import Asked, Question, asked_of
from tritonsmith.perf.batch.result import BatchResult, Samples
from tritonsmith.perf.batch.rows.checked import Checked, check_file, first_address, refuse_bad
from tritonsmith.perf.batch.rows.lines import BadLineError, Line, check_input
from tritonsmith.perf.batch.rows.reader import Row, RowReader
from tritonsmith.perf.batch.sending.pack import WINDOW_ROWS, Packed, Packer, Padding
from tritonsmith.perf.batch.sending.send import Sender, SendOptions
from tritonsmith.perf.batch.sending.surviving import send_surviving
from tritonsmith.perf.load.load_test import ServedAt, environment_of, server_at
from tritonsmith.perf.server.server import Server, server_ended

Progress = Callable[[str, float, "float | None"], None]
"""What goes on, how many rows are done, of how many."""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What is asked for.

    where:   a model repository's directory, which is then served for the job; a server, or its URL.
    errors:  where rows that failed go; None: beside the output. restart: begin anew, whatever a journal has.
    by_length: False sends rows in the order of the input. dollars_per_hour: of the machine, for the costs.
    """

    input: Path
    output: Path
    where: str | Server
    question: Question
    errors: Path | None = None
    skip_bad: bool = False
    restart: bool = False
    by_length: bool = True
    window_rows: int = WINDOW_ROWS
    send: SendOptions = field(default_factory=SendOptions)
    dollars_per_hour: float | None = None

    @property
    def errors_at(self) -> Path:
        """Where they go."""
        return self.errors or errors_path(self.output)

    @property
    def repository(self) -> Path | None:
        """Where the model's files are, when that is known."""
        is_directory = isinstance(self.where, str) and "://" not in self.where and Path(self.where).is_dir()
        return Path(str(self.where)) if is_directory else None


def run_batch(job: BatchJob, on_progress: Progress | None = None) -> BatchResult:
    """Run it, or go on with it. Rows that failed are in the file of errors and in the result, not raised.

    Raises UsageError for input, output or journal that will not do, ServerError for a server that is gone too long, TrialError
    for a full disk; what was answered until then is kept. Ctrl-C: the result, with `interrupted`.
    """
    with prepared(job, on_progress) as ready:
        if ready.has_rows_due:
            ready.send()
        return ready.finish()


def prepared(job: BatchJob, on_progress: Progress | None = None) -> Ready:
    """All that is known before the first row is sent. Leave it as a context manager."""
    tell = on_progress or (lambda doing, done, total: None)
    check_input(job.input)
    check_places(job.output, job.errors_at, job.input, job.restart)
    address = None if job.question.plain else first_address(job.input, job.question.model)
    stack = ExitStack()
    try:
        is_ours = job.repository is not None
        tell("starting the server" if is_ours else "asking the server", 0, None)
        server = stack.enter_context(ExitStack())
        served = server.enter_context(server_at(job.where))
        asked = asked_of(job.question, address, served, job.repository)
        began_s = time.monotonic()
        checked = check_file(job.input, asked.reader, lambda rows: tell("reading the input", rows, None))
        refuse_bad(checked, job.skip_bad)
        check_s = time.monotonic() - began_s
        environment = environment_of(asked.api.server_metadata())
        head = head_of(job, asked, checked)
        journal = Journal(journal_path(job.output), head, checked.keys, restart=job.restart)
        stack.callback(journal.close)
        refuse_strange(journal, job.output, job.errors_at, job.restart)
    except BaseException:
        stack.close()
        raise
    return Ready(job, served, asked, checked, journal, stack, server, check_s, environment, tell)


def head_of(job: BatchJob, asked: Asked, checked: Checked) -> dict[str, object]:
    """What a journal is of: a job that goes on with it has to be the same."""
    plain = job.question.plain
    reading = {
        "columns": None if plain is None else dict(plain.columns),
        "id_column": None if plain is None else plain.id_column,
        "parameters": dict(job.question.parameters),
        "template": asked.reader.template.text if asked.reader.template else None,
        "skip_bad": job.skip_bad,
    }
    return {"input": checked.digest, "asks": str(asked.address), "model": asked.digest, "reading": reading}


@dataclass(slots=True)
class Ready:
    """A job that was checked, its server and its journal; use it as a context manager."""

    job: BatchJob
    served: ServedAt
    asked: Asked
    checked: Checked
    journal: Journal
    stack: ExitStack
    server: ExitStack
    check_s: float
    environment: Mapping[str, Any]
    tell: Progress
    writer: Writer = field(init=False)
    before: int = field(init=False)
    failures: Counter[str] = field(default_factory=Counter)
    samples: Samples = field(default_factory=Samples)
    sizes: Counter[int] = field(default_factory=Counter)
    sent: Padding = field(default_factory=Padding)
    arrival: Padding = field(default_factory=Padding)
    sender: Sender | None = None
    packer: Packer | None = None
    run_s: float = 0.0
    interrupted: bool = False
    executor: str = "local"
    _began_s: float = 0.0

    def __post_init__(self) -> None:
        self.writer = Writer(self.asked.model, self.asked.address, self.asked.reader.plain is not None)
        self.before = self.journal.done + self.journal.failed

    def __enter__(self) -> Ready:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    # Sink.

    def answered(self, rows: Sequence[Row], raw: bytes) -> None:
        """See Sink."""
        lines = self.asked.asking.lines(self.writer, rows, raw)
        self.journal.add((row.number, DONE, line) for row, line in zip(rows, lines, strict=True))

    def failed(self, row: Row, failure: Failure) -> None:
        """See Sink."""
        self.fail(row.number, row.id, row.key, failure)

    def fail(self, number: int, id_: str | int | None, key: int, failure: Failure) -> None:
        """A row that has no answer, for good."""
        self.failures[failure.code] += 1
        line = self.writer.failed_line(id_, key, number, failure)
        self.journal.add([(number, FAILED, line)])

    # Sending.

    def due_rows(self) -> Iterator[Row]:
        """Those that nothing is known of; bad ones are told of on the way."""
        for one in self.checked.rows_of(self.asked.reader, self.journal.is_due):
            if isinstance(one, Row):
                yield one
            else:
                self.fail_bad(*one)

    def fail_bad(self, line: Line, fault: BadLineError) -> None:
        """A line that cannot be sent, of a job that leaves such out."""
        self.fail(line.number, id_of(line, self.asked.reader), line.key, failure_of_line(fault))

    def send(self) -> None:
        """Every row that is due. Raises what ended it; Ctrl-C sets `interrupted`."""
        self.begin()
        try:
            send_surviving(self._sender, self._restart, self._interrupt)
        finally:
            self._count_requests()
            self.end()

    def _sender(self, alone: list[Packed]) -> Sender:
        """Of what is still due, those first."""
        self._count_requests()
        first = {row.number for packed in alone for row in packed.rows}
        rows = (row for row in self.due_rows() if row.number not in first)
        self.packer = Packer(
            rows,
            self.asked.reader.most_rows or 1,
            by_length=self.job.by_length,
            window_rows=self.job.window_rows,
        )
        ramp = (
            self.sender.ramp
            if self.sender is not None
            else self.job.send.ramp(self.asked.asking.first_in_flight)
        )
        self.sender = Sender(
            self.asked.asking, self.packer.next, self, self._is_ready, self._has_ended, self.job.send, ramp, self.tick,
            alone=deque(alone),
        )  # fmt: skip
        return self.sender

    def _restart(self) -> bool:
        if self.job.repository is None or self.interrupted:
            return False
        note("the server died; it is started again, and the rows that it had are sent one at a time")
        self.server.close()
        self.served = self.server.enter_context(server_at(self.job.where))
        address = None if self.job.question.plain else self.asked.address
        self.asked = asked_of(self.job.question, address, self.served, self.job.repository)
        return True

    def _count_requests(self) -> None:
        if self.packer is not None:
            self.sizes.update(self.packer.sizes)
            self.sent.join(self.packer.sent)
            self.arrival.join(self.packer.arrival)
        self.packer = None

    @property
    def has_rows_due(self) -> bool:
        """Whether there is something to be done but for writing the output."""
        return any(self.journal.is_due(number) for number, key in enumerate(self.checked.keys) if key)

    def begin(self) -> None:
        """The first row is about to be sent."""
        self._began_s = time.monotonic()

    def end(self) -> None:
        """The last is known, or nothing more will be."""
        self.run_s = time.monotonic() - self._began_s
        self.samples.add(self.run_s, self._done_now(), self.journal.failed, last=True)
        self.journal.sync()

    def _interrupt(self) -> None:
        self.interrupted = True
        assert self.sender is not None
        self.sender.stop()

    def _done_now(self) -> int:
        return self.journal.done + self.journal.failed - self.before

    def _is_ready(self) -> bool:
        try:
            self.asked.api.model_config(self.asked.model.name, self.asked.model.version)
        except TritonsmithError:
            return False
        return True

    def _has_ended(self) -> ServerError | None:
        server = self.served.server
        is_over = server is not None and server.pid is not None and not server.alive()
        return server_ended(server, "in the middle of the job") if server is not None and is_over else None

    def tick(self) -> None:
        """Called often: sync, samples, progress."""
        self.journal.sync_soon()
        took_s = time.monotonic() - self._began_s
        done = self._done_now()
        self.samples.add(took_s, done, self.journal.failed)
        self.tell(self.told(took_s, done), done + self.before, self.checked.rows)

    def told(self, took_s: float, done: int) -> str:
        """`1,234 rows/s, 40 s left, 3 failed, $0.12`."""
        parts = [f"{done / took_s:,.0f} rows/s" if took_s > 0.5 else "sending"]
        left = self.checked.rows - self.before - done
        if took_s > 2.0 and done and left:
            parts.append(f"{text_of_seconds(round(took_s / done * left))} left")
        if self.journal.failed:
            parts.append(f"{self.journal.failed:,} failed")
        if self.job.dollars_per_hour is not None:
            parts.append(f"${self.job.dollars_per_hour * took_s / 3600:,.4f}")
        if self.sender is not None and self.sender.gone_s is not None:
            parts.append("waiting for the server")
        return ", ".join(parts)

    # The end.

    def finish(self) -> BatchResult:
        """The output in its place, where every row is known; what the job did."""
        result = self._result()
        if result.is_whole:
            self.tell("writing the output", self.checked.rows, self.checked.rows)
            model, plain = self.asked.model, self.asked.reader.plain is not None
            refuse_strange(self.journal, self.job.output, self.job.errors_at, self.job.restart)
            form = Form(model, plain, self.checked.ids_are_int64)
            write_output(self.journal, self.job.output, self.job.errors_at, form)
        return result

    def _result(self) -> BatchResult:
        sender = self.sender
        return BatchResult(
            model=self.asked.model.name,
            asks=str(self.asked.address),
            where=str(self.job.where) if isinstance(self.job.where, str) else self.job.where.http_url,
            input=self.job.input,
            output=self.job.output,
            errors=self.job.errors_at if self.journal.failed else None,
            journal=self.journal.path,
            rows=self.checked.rows,
            answered=self.journal.done,
            failed=self.journal.failed,
            bad=self.checked.bad_count,
            before=self.before,
            check_s=self.check_s,
            run_s=self.run_s,
            interrupted=self.interrupted,
            in_flight=sender.ramp.width if sender else 0,
            most_rows=self.asked.reader.most_rows,
            by_length=self.job.by_length,
            requests=sum(self.sizes.values()),
            levels=tuple(sender.ramp.levels) if sender else (),
            sizes=dict(self.sizes),
            retries=dict(sender.retries) if sender else {},
            failures=dict(self.failures),
            samples=tuple(self.samples.kept),
            sent=self.sent,
            arrival=self.arrival,
            tokens=dict(self.writer.tokens),
            dollars_per_hour=self.job.dollars_per_hour,
            executor=self.executor,
            environment=self.environment,
        )


def failure_of_line(fault: BadLineError) -> Failure:
    """As it stands in the file of errors."""
    return Failure("bad_line", f"{fault.place}: {fault.what}" if fault.place else fault.what)


def id_of(line: Line, reader: RowReader) -> str | int | None:
    """The id of a line that cannot be sent, where it has one."""
    if line.record is None:
        return None
    try:
        return reader.ask(line).id
    except BadLineError:
        found = line.record.get("custom_id")
        return found if isinstance(found, str) else None
