"""Every request of a load test, one row each, in columns → one file, and back: the interchange format."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.disk import replacing
from tritonsmith.builder.base.files.npz import read_npz
from tritonsmith.builder.base.files.untrusted import json_value
from tritonsmith.builder.base.text.tabular import frame_of
from tritonsmith.perf.records.schedule import load_from_dict
from tritonsmith.perf.records.typed import MALFORMED, typed

if TYPE_CHECKING:
    import pandas

FORMAT = "tritonsmith.records/1"
# No clock of a machine comes near these, and sums of them stay in an int64.
_LAST_NS = 1 << 62
_MOST_ROWS = 1 << 31
OK = 0
"""The status of a request that was answered without an error."""

Int64 = npt.NDArray[np.int64]
_Bytes = Annotated[int, Field(ge=0, lt=1 << 62)]

_COLUMNS: dict[str, type[np.generic]] = {
    "scheduled_ns": np.int64,
    "sent_ns": np.int64,
    "first_byte_ns": np.int64,
    "end_ns": np.int64,
    "status": np.uint16,
    "payload_index": np.int32,
}

_STREAMING: dict[str, type[np.generic]] = {
    "responses": np.int64,
    "last_response_ns": np.int64,
    "longest_gap_ns": np.int64,
}
"""Columns of a streamed load test only; a file without them reads as before."""

_TOKENS: dict[str, type[np.generic]] = {
    "chunk_begin": np.int64,
    "chunk_end": np.int64,
    "input_tokens": np.int64,
    "output_tokens": np.int64,
}
"""Columns of a load by tokens only."""
_CHUNKS: dict[str, type[np.generic]] = {
    "chunk_ns": np.int64,
    "chunk_tokens": np.int32,
    "chunk_bytes": np.int32,
    "text": np.uint8,
}
"""Its table of chunks, whose rows the requests' chunk_begin and chunk_end name: a selection of requests keeps it whole."""
_ROW_DTYPES = _COLUMNS | _STREAMING | _TOKENS


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What is true of all rows.

    model, url, protocol: what was asked, where and how (`http`, `grpc`).
    load:             the load as JSON (`{"kind": "closed", "concurrency": 8}`), see perf.records.schedule.
    seed:             seed of arrivals and of the order of payloads.
    reasons:          text of each status; `reasons[0]` is "ok".
    batch_sizes:      inferences in one request, by payload index.
    request_bytes:    of one request as it goes to the socket, by payload index; empty when not known.
    received_bytes:   all that came from measure_start_ns to stop_ns, TLS taken off; None when not known.
    started_unix_ns:  wall clock at `start_ns`, for people; nothing is computed from it.
    start_ns:         monotonic clock when the first request was due.
    measure_start_ns: monotonic clock when the stated warm-up was over; rows before it are kept.
    stop_ns:          monotonic clock when no more requests were sent.
    client_cpu_s:     CPU time of the client's processes from start_ns to the last answer.
    client_wall_s:    wall-clock time of the same stretch.
    processes:        client processes that shared the load.
    most_in_flight:   open loop: requests that all of them would have in flight at once; 0 when not known.
    interrupted:      stopped by the user before its time.
    checked:          answers compared with expected outputs.
    repeat:           how requests repeat, as --repeat takes it; empty: the pool's were sent again and again.
    goodput_limits_ns: what a request has to keep to count as good, see perf.stats.goodput; empty: none asked.
    environment:      versions, host and whatever the caller adds.
    observed:         what was seen of the server meanwhile, see perf.load.result; empty when nobody looked.
    """

    model: str
    url: str
    protocol: str
    load: Mapping[str, Any]
    seed: int = 0
    reasons: tuple[str, ...] = ("ok",)
    batch_sizes: tuple[int, ...] = (1,)
    request_bytes: tuple[_Bytes, ...] = ()
    received_bytes: _Bytes | None = None
    started_unix_ns: int = 0
    start_ns: int = 0
    measure_start_ns: int = 0
    stop_ns: int = 0
    client_cpu_s: float = 0.0
    client_wall_s: float = 0.0
    processes: int = 1
    most_in_flight: int = 0
    interrupted: bool = False
    checked: int = 0
    repeat: str = ""
    goodput_limits_ns: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    observed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RequestRecords:
    """Columns of length n, rows in order of scheduled_ns; all times are CLOCK_MONOTONIC nanoseconds.

    scheduled_ns:  int64, when the request was due. Open loop: the intended send time; closed loop: when
                   the slot was free to send. Latency is end_ns - scheduled_ns.
    sent_ns:       int64, when it was handed to the socket; 0 when it never was.
                   sent_ns - scheduled_ns is the send lag.
    first_byte_ns: int64, first byte of the answer; 0 when none came.
    end_ns:        int64, last byte of the answer, or when the failure was known.
    status:        uint16, 0 = ok, else an index into header.reasons.
    payload_index: int32, which payload of the pool was sent.

    Streamed requests have three more, None otherwise; first_byte_ns is then when the first response was whole:
    responses:        int64, responses that came.
    last_response_ns: int64, when the last of them was whole; 0 when none came.
    longest_gap_ns:   int64, longest time between two; 0 with fewer than two.

    A load by tokens has four more, and counts as responses only chunks that hold text:
    chunk_begin, chunk_end: int64, the request's rows in the table of chunks, the last one excluded.
    input_tokens, output_tokens: int64, -1 where nobody counted them.
    The table of chunks, of length m: chunk_ns (int64, when it was whole), chunk_tokens (int32, tokens that the server
    says it holds, -1 where it does not), chunk_bytes (int32, UTF-8 bytes of text in it, 0 of a role or a count).
    text: uint8, these bytes, one chunk's after the other's; empty when they were not kept.
    """

    header: RecordHeader
    scheduled_ns: Int64
    sent_ns: Int64
    first_byte_ns: Int64
    end_ns: Int64
    status: npt.NDArray[np.uint16]
    payload_index: npt.NDArray[np.int32]
    responses: Int64 | None = None
    last_response_ns: Int64 | None = None
    longest_gap_ns: Int64 | None = None
    chunk_begin: Int64 | None = None
    chunk_end: Int64 | None = None
    input_tokens: Int64 | None = None
    output_tokens: Int64 | None = None
    chunk_ns: Int64 | None = None
    chunk_tokens: npt.NDArray[np.int32] | None = None
    chunk_bytes: npt.NDArray[np.int32] | None = None
    text: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        columns, chunks = self.columns(), self.chunk_table()
        if len(columns) not in (len(_COLUMNS), len(_COLUMNS | _STREAMING), len(_ROW_DTYPES)):
            raise ValueError(f"columns {', '.join(columns)}")
        if len(chunks) != (len(_CHUNKS) if self.chunk_begin is not None else 0):
            raise ValueError(f"a table of chunks of {', '.join(chunks) or 'nothing'}")
        for name, column in (columns | chunks).items():
            length = len(column) if name == "text" else len(self.scheduled_ns)
            length = len(chunks["chunk_ns"]) if name.startswith("chunk_") and name in chunks else length
            if column.dtype != (_ROW_DTYPES | _CHUNKS)[name] or column.shape != (length,):
                raise ValueError(f"column {name}: {column.dtype} {column.shape}")

    def __len__(self) -> int:
        return len(self.scheduled_ns)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RequestRecords):
            return NotImplemented
        ours, theirs = self.columns() | self.chunk_table(), other.columns() | other.chunk_table()
        return (
            self.header == other.header
            and ours.keys() == theirs.keys()
            and all(np.array_equal(column, theirs[name]) for name, column in ours.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that are there, by name."""
        there = {name: getattr(self, name) for name in _ROW_DTYPES}
        return {name: column for name, column in there.items() if column is not None}

    def chunk_table(self) -> dict[str, npt.NDArray[Any]]:
        """The table of chunks, by name; empty but of a load by tokens."""
        there = {name: getattr(self, name) for name in _CHUNKS}
        return {name: column for name, column in there.items() if column is not None}

    def to_frame(self) -> pandas.DataFrame:
        """One row a request: the columns, its latency and why it failed; ToolError without pandas."""
        reasons = np.asarray(self.header.reasons, object)[self.status]
        return frame_of({**self.columns(), "latency_ns": self.latency_ns, "reason": reasons})

    @property
    def latency_ns(self) -> Int64:
        """int64 (n,): end_ns - scheduled_ns."""
        return self.end_ns - self.scheduled_ns

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """bool (n,): answered without an error, and right where it was checked."""
        return np.asarray(self.status == OK)

    @property
    def inferences(self) -> Int64:
        """int64 (n,): inferences asked for by each request."""
        return np.asarray(self.header.batch_sizes, np.int64)[self.payload_index]

    def select(self, rows: npt.NDArray[Any] | slice) -> RequestRecords:
        """The same header over some of the rows."""
        chosen = {name: column[rows] for name, column in self.columns().items()}
        return RequestRecords(self.header, **chosen, **self.chunk_table())

    def measured(self) -> RequestRecords:
        """The rows that were due after the stated warm-up."""
        return self.select(self.scheduled_ns >= self.header.measure_start_ns)

    def failures(self) -> dict[str, int]:
        """Reason → number of rows, most frequent first; empty when nothing failed. Reasons that differ in numbers alone
        are one: `prompt (length …) is longer than 512`."""
        counts = np.bincount(self.status, minlength=len(self.header.reasons))
        found = {self.header.reasons[i]: int(counts[i]) for i in np.argsort(-counts) if i != OK}
        return _by_kind({reason: count for reason, count in found.items() if count})


def _by_kind(counts: Mapping[str, int]) -> dict[str, int]:
    """What stands before a first colon (a status, a protocol) tells kinds apart, its numbers too."""
    alike: dict[tuple[str, str], list[str]] = {}
    for reason in counts:
        head, colon, rest = reason.partition(": ")
        alike.setdefault((head, re.sub(r"\d+", "0", rest)) if colon else (reason, ""), []).append(reason)
    kinds: dict[str, int] = {}
    for (head, _), reasons in alike.items():
        parts = zip(*(re.split(r"(\d+)", reason[len(head) :]) for reason in reasons), strict=True)
        told = head + "".join(part[0] if len(set(part)) == 1 else "…" for part in parts)
        kinds[told] = kinds.get(told, 0) + sum(counts[reason] for reason in reasons)
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def records_from_columns(header: RecordHeader, columns: Mapping[str, Any]) -> RequestRecords:
    """Any sequences of equal length → RequestRecords, rows sorted by scheduled_ns (stable)."""
    arrays: dict[str, Any] = {name: np.asarray(columns[name], dtype) for name, dtype in _COLUMNS.items()}
    more = {n: dtype for n, dtype in (_STREAMING | _TOKENS).items() if columns.get(n) is not None}
    arrays |= {name: np.asarray(columns[name], dtype) for name, dtype in more.items()}
    order = np.argsort(arrays["scheduled_ns"], kind="stable")
    sorted_rows = {name: array[order] for name, array in arrays.items()}
    chunks = {n: np.asarray(columns[n], dtype) for n, dtype in _CHUNKS.items() if columns.get(n) is not None}
    return RequestRecords(header, **sorted_rows, **chunks)


def merge(parts: Sequence[RequestRecords]) -> RequestRecords:
    """Records of several client processes of one load test → one; they must share payloads and clock."""
    first = parts[0].header
    reasons: dict[str, int] = {"ok": OK}
    statuses = []
    for part in parts:
        table = np.array([reasons.setdefault(r, len(reasons)) for r in part.header.reasons], np.uint16)
        statuses.append(table[part.status])
    header = replace(
        first,
        reasons=tuple(reasons),
        start_ns=min(p.header.start_ns for p in parts),
        measure_start_ns=max(p.header.measure_start_ns for p in parts),
        stop_ns=max(p.header.stop_ns for p in parts),
        client_cpu_s=sum(p.header.client_cpu_s for p in parts),
        client_wall_s=max(p.header.client_wall_s for p in parts),
        processes=sum(p.header.processes for p in parts),
        most_in_flight=sum(p.header.most_in_flight for p in parts),
        interrupted=any(p.header.interrupted for p in parts),
        checked=sum(p.header.checked for p in parts),
        received_bytes=None
        if any(p.header.received_bytes is None for p in parts)
        else sum(p.header.received_bytes or 0 for p in parts),
    )
    columns = {name: np.concatenate([p.columns()[name] for p in parts]) for name in parts[0].columns()}
    columns["status"] = np.concatenate(statuses)
    chunks = {n: np.concatenate([p.chunk_table()[n] for p in parts]) for n in parts[0].chunk_table()}
    if chunks:
        sizes = [len(part.chunk_table()["chunk_ns"]) for part in parts]
        before = np.repeat(np.cumsum([0, *sizes[:-1]]), [len(part) for part in parts])
        columns |= {name: columns[name] + before for name in ("chunk_begin", "chunk_end")}
    return records_from_columns(header, columns | chunks)


def save_records(records: RequestRecords, path: Path) -> None:
    """Write one .npz: a member `header.json` and one .npy a column; complete or not at all."""
    header = {"format": FORMAT, **asdict(records.header)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        archive.writestr("header.json", json.dumps(header, default=str))
        for name, column in (records.columns() | records.chunk_table()).items():
            buffer = io.BytesIO()
            np.save(buffer, column, allow_pickle=False)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def load_records(path: Path) -> RequestRecords:
    """The inverse of save_records; UsageError when the file is missing or is not a record file."""
    try:
        members = read_npz(path)
        header = json_value(members["header.json"], infinite=True)
        seen = header.pop("format", None)
        if seen != FORMAT:
            raise UsageError(
                "not a record file of this version",
                code="record_format",
                where=Where(path),
                seen=seen,
                valid=[FORMAT],
            )
        read = typed(RecordHeader, header)
        load_from_dict(read.load)
        there = [*_COLUMNS, *(name for name in (_STREAMING | _TOKENS | _CHUNKS) if name in members)]
        return _checked(RequestRecords(read, **{name: members[name] for name in there}))
    except FileNotFoundError as error:
        raise UsageError("no such record file", code="no_record_file", where=Where(path)) from error
    except (OSError, *MALFORMED) as error:
        raise UsageError(
            "not a record file",
            code="record_format",
            where=Where(path),
            seen=f"{type(error).__name__}: {error!s:.300}",
            fix="pass a file written by `tritonsmith load --output FILE`",
        ) from error


def _checked(records: RequestRecords) -> RequestRecords:
    """The records, whose every status has a reason and every payload a size; ValueError for others."""
    header = records.header
    if not all(0 < size <= _MOST_ROWS for size in header.batch_sizes):
        raise ValueError("batch_sizes are not those of requests")
    if len(header.request_bytes) not in (0, len(header.batch_sizes)):
        raise ValueError("request_bytes are not those of the payloads")
    chunks = records.chunk_table()
    last = {"status": len(header.reasons) - 1, "payload_index": len(header.batch_sizes) - 1}
    last |= dict.fromkeys(("chunk_begin", "chunk_end"), len(chunks.get("chunk_ns", ())))
    last |= dict.fromkeys(("input_tokens", "output_tokens"), _MOST_ROWS)
    for name, column in (records.columns() | chunks).items():
        least = -1 if name in ("input_tokens", "output_tokens", "chunk_tokens") else 0
        if len(column) and (column.min() < least or column.max() > last.get(name, _LAST_NS)):
            raise ValueError(f"column {name} goes from {column.min()} to {column.max()}")
    if chunks and (np.asarray(records.chunk_end) < np.asarray(records.chunk_begin)).any():
        raise ValueError("chunks that end before they begin")
    return records
