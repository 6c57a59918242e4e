"""A job → its parts read, asked and answered on a Ray cluster by Ray Data; journal and output stay with the driver."""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tritonsmith import __version__
from tritonsmith.builder.base.errors import (
    ServerError,
    ToolError,
    TrialError,
    TritonsmithError,
    UsageError,
    error_from_form,
)
from tritonsmith.builder.base.processes.ray_cluster import connected
from tritonsmith.perf.batch.answers import Failure, Writer
from tritonsmith.perf.batch.job import BatchJob, Progress, Ready, failure_of_line, id_of, prepared
from tritonsmith.perf.batch.kept.journal import DONE, FAILED
from tritonsmith.perf.batch.place import Asked, Question, asked_of
from tritonsmith.perf.batch.result import BatchResult
from tritonsmith.perf.batch.rows.asks import Address
from tritonsmith.perf.batch.rows.checked import ROWS_A_PART, repeated
from tritonsmith.perf.batch.rows.lines import BadLineError, Line, Start, lines_of
from tritonsmith.perf.batch.rows.reader import Row
from tritonsmith.perf.batch.sending.pack import Packed, Packer
from tritonsmith.perf.batch.sending.ramp import Ramp
from tritonsmith.perf.batch.sending.send import Sender, SendOptions
from tritonsmith.perf.batch.sending.surviving import send_surviving
from tritonsmith.perf.load.load_test import ServedAt, server_at
from tritonsmith.perf.server.server import server_ended

_ROWS_AT_ONCE = 512
_ENDS = "!"
"""In the place of a failure's code: the text is the error that ends the job."""
Columns = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RayPlace:
    """address: of a cluster; None: one is started here. most_actors: None: one a node of the cluster."""

    address: str | None = None
    most_actors: int | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """What an actor is told. Paths are those of every node."""

    version: str
    input: Path
    where: str
    question: Question
    address: Address
    plain: bool
    digest: str
    send: SendOptions
    by_length: bool
    repeats: Mapping[int, int] = field(default_factory=dict)


def ray_address(executor: str) -> str | None:
    """`ray` → None, `ray:ADDRESS` → its address; UsageError for another executor."""
    kind, colon, address = executor.partition(":")
    if kind != "ray" or (colon and not address):
        raise UsageError(
            "unknown executor", code="bad_executor", seen=executor, valid=["local", "ray", "ray:ADDRESS"]
        )
    return address or None


def run_batch_on_ray(job: BatchJob, place: RayPlace, on_progress: Progress | None = None) -> BatchResult:
    """As run_batch, which says what is raised, and also ToolError where there is no Ray or no cluster.

    The input's path, and the repository's, are those of every node. The output is the local run's.
    """
    for name, fix in (("ray", "ray"), ("pyarrow", "ray")):
        if importlib.util.find_spec(name) is None:
            raise ToolError(
                f"--executor ray needs Ray and pyarrow; {name} is not installed",
                code="ray_missing",
                fix=f"pip install 'tritonsmith[{fix}]'",
            )
    with prepared(job, on_progress) as ready:
        ready.executor = "ray"
        if ready.has_rows_due:
            ready.server.close()  # its actors have their own
            _send(ready, place)
        return ready.finish()


def _send(ready: Ready, place: RayPlace) -> None:
    ray = connected(place.address)
    ready.begin()
    try:
        for columns in _answers(ready, place, ray):
            ready.journal.add(_known(columns))
            ready.failures.update(code for code in columns["code"] if code)
            for sizes in filter(None, columns["requests"]):
                ready.sizes.update(pickle.loads(sizes))  # noqa: S301  (of this very job)
            ready.tick()
    except KeyboardInterrupt:
        ready.interrupted = True
    except TritonsmithError:
        raise
    except Exception as error:  # Ray has no one error for what a cluster may do
        raise _lost(error) from None
    finally:
        ready.end()
        ray.shutdown()


def _known(columns: Mapping[str, Sequence[Any]]) -> Iterator[tuple[int, bytes, str]]:
    """What the journal takes; raises what ends the job."""
    for number, code, text in zip(columns["number"], columns["code"], columns["text"], strict=True):
        if code == _ENDS:
            raise error_from_form(json.loads(text))
        yield int(number), FAILED if code else DONE, str(text)


def _answers(ready: Ready, place: RayPlace, ray: Any) -> Iterator[Columns]:
    """The dataset: parts of the file → its lines → their answers, block by block as they are done."""
    import ray.data

    parts = list(_parts(ready))
    given = ready.job.where
    where = given if isinstance(given, str) else f"http://{given.http_url}"
    where = where if "://" in where else str(Path(where).resolve())
    work = _Work(
        __version__,
        ready.job.input.resolve(),
        where,
        ready.job.question,
        ready.asked.address,
        ready.asked.reader.plain is not None,
        ready.asked.digest,
        ready.job.send,
        ready.job.by_length,
        ready.checked.repeats,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it says is in the error, or progress
    context.print_on_execution_start = False
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=place.most_actors or max(1, nodes))
    dataset = ray.data.from_items(parts, override_num_blocks=min(len(parts), 200))
    dataset = dataset.map_batches(_read, batch_size=1, fn_kwargs={"path": str(work.input)}, num_cpus=0.25)
    dataset = dataset.map_batches(
        _Asker, batch_size=_ROWS_AT_ONCE, compute=pool, fn_constructor_args=(work,), num_cpus=0.5
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1)


def _parts(ready: Ready) -> Iterator[dict[str, Any]]:
    """Of the file: where each begins, and which of its lines are due."""
    starts = ready.checked.starts
    for i, start in enumerate(starts):
        last = starts[i + 1].number if i + 1 < len(starts) else len(ready.checked.keys) - 1
        numbers = range(start.number + 1, last + 1)
        due = bytes(ready.journal.is_due(n) and ready.checked.keys[n] != 0 for n in numbers)
        if any(due):
            yield {"at": start.at, "number": start.number, "due": due}


def _read(batch: Columns, path: str) -> Columns:
    """On a node: a part's lines, as they are in the file."""
    lines = []
    for at, number, due in zip(batch["at"], batch["number"], batch["due"], strict=True):
        start = Start(int(at), int(number))
        for line in islice(lines_of(Path(path), start), ROWS_A_PART):
            place = line.number - start.number - 1
            if place >= len(due):
                break
            if due[place]:
                lines.append(pickle.dumps(line))
    return {"line": lines}


class _Asker:
    """On a node: an actor with a server of its own, or a URL → answers to lines. A failed row is data."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._stack = ExitStack()
        self._ramp: Ramp | None = None
        self._is_served = False

    def _serve(self) -> None:
        work = self._work
        if work.version != __version__:
            raise ToolError(
                "the cluster runs another tritonsmith",
                code="ray_version",
                seen=__version__,
                valid=(work.version,),
                fix="install the same version on every node",
            )
        self._stack.close()
        self._served: ServedAt = self._stack.enter_context(server_at(work.where))
        repository = None if "://" in work.where else Path(work.where)
        address = None if work.plain else work.address
        self._asked: Asked = asked_of(work.question, address, self._served, repository)
        if self._asked.digest != work.digest:
            raise UsageError(
                "a node serves another model than the driver looked at",
                code="model_differs",
                seen=self._asked.model.name,
            )
        self._writer = Writer(self._asked.model, self._asked.address, work.plain)
        self._is_served = True

    def __call__(self, batch: Columns) -> Columns:
        """An error that ends the job is data, too: Ray would wrap it, and lose one that cannot be pickled."""
        try:
            if not self._is_served:
                self._serve()
            return self._answered(batch)
        except TritonsmithError as error:
            return {"number": [0], "code": [_ENDS], "text": [json.dumps(error.form())], "requests": [b""]}

    def _answered(self, batch: Columns) -> Columns:
        told = _Told(self._asked, self._writer, self._work.repeats)
        lines = [pickle.loads(line) for line in batch["line"]]  # noqa: S301  (of this very job)

        def sender(alone: list[Packed]) -> Sender:
            first = {row.number for packed in alone for row in packed.rows}
            due = [line for line in lines if line.number not in told.known and line.number not in first]
            told.asked, told.writer = self._asked, self._writer
            most = self._asked.reader.most_rows or 1
            self._ramp = self._ramp or self._work.send.ramp(self._asked.asking.first_in_flight)
            packer = Packer(told.rows(due), most, by_length=self._work.by_length, carries=False)
            return Sender(
                self._asked.asking, packer.next, told, told.is_ready, self._ended, self._work.send, self._ramp,
                alone=deque(alone),
            )  # fmt: skip

        send_surviving(sender, self._restart)
        return told.columns()

    def _restart(self) -> bool:
        if "://" in self._work.where:
            return False
        self._serve()
        return True

    def _ended(self) -> ServerError | None:
        server = self._served.server
        is_over = server is not None and server.pid is not None and not server.alive()
        return server_ended(server, "in the middle of the job") if server is not None and is_over else None

    def __ray_shutdown__(self) -> None:
        """When the pool lets the actor go: its server goes, too."""
        self._stack.close()


@dataclass(slots=True)
class _Told:
    """What is known of a batch's lines; implements Sink."""

    asked: Asked
    writer: Writer
    repeats: Mapping[int, int]
    known: dict[int, tuple[str, str]] = field(default_factory=dict)  # line → (failure's code or "", JSON)
    sizes: Counter[int] = field(default_factory=Counter)

    def rows(self, lines: Sequence[Line]) -> Iterator[Row]:
        """Those that can be sent."""
        for line in lines:
            row = self._row_of(line)
            if row is not None:
                yield row

    def _row_of(self, line: Line) -> Row | None:
        try:
            row = self.asked.reader.row(line)
            if line.number in self.repeats:
                raise repeated(row.id, self.repeats[line.number])
        except BadLineError as fault:
            self._fail(line.number, id_of(line, self.asked.reader), line.key, failure_of_line(fault))
            return None
        return row

    def answered(self, rows: Sequence[Row], raw: bytes) -> None:
        """See Sink."""
        lines = self.asked.asking.lines(self.writer, rows, raw)
        self.known |= {row.number: ("", text) for row, text in zip(rows, lines, strict=True)}
        self.sizes[sum(row.count for row in rows)] += 1

    def failed(self, row: Row, failure: Failure) -> None:
        """See Sink."""
        self._fail(row.number, row.id, row.key, failure)

    def _fail(self, number: int, id_: str | int | None, key: int, failure: Failure) -> None:
        self.known[number] = (failure.code, self.writer.failed_line(id_, key, number, failure))

    def is_ready(self) -> bool:
        """See Sender."""
        try:
            self.asked.api.model_config(self.asked.model.name, self.asked.model.version)
        except TritonsmithError:
            return False
        return True

    def columns(self) -> Columns:
        """For Ray: what is known of each line; the sizes of requests stand in the first row."""
        sizes = [pickle.dumps(dict(self.sizes)), *([b""] * (len(self.known) - 1))]
        return {
            "number": [*self.known],
            "code": [code for code, _ in self.known.values()],
            "text": [text for _, text in self.known.values()],
            "requests": sizes[: len(self.known)],
        }


def _lost(error: Exception) -> TritonsmithError:
    return TrialError(
        f"the cluster lost the job: {str(error).splitlines()[0][:300]}; what was answered is kept in the journal",
        code="ray_lost",
        fix="`ray status` and the nodes' logs tell more; then run the same command again: it goes on from there",
    )
