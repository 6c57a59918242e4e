"""A JSONL, CSV or Parquet file → its lines, one after another: number, digest, record, or what is wrong with it."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import IO, Any, NamedTuple

from tritonsmith.builder.base.errors import ToolError, UsageError, Where, shortened, unknown

JSONL, CSV, PARQUET = ".jsonl", ".csv", ".parquet"
_FORMS = {".jsonl": JSONL, ".ndjson": JSONL, ".json": JSONL, ".csv": CSV, ".parquet": PARQUET, ".pq": PARQUET}
_LINE_LIMIT_BYTES = 64 << 20
_ROWS_AT_ONCE = 512
_MARK = b"\xef\xbb\xbf"
_PACKED = {".gz": "gunzip", ".zst": "zstd -d", ".bz2": "bunzip2", ".xz": "unxz"}
_OTHERS = (
    (rb"\x1f\x8b", "it is compressed, by gzip", _PACKED[".gz"]),
    (rb"\x28\xb5\x2f\xfd", "it is compressed, by zstd", _PACKED[".zst"]),
    (rb"BZh[1-9]1AY&SY", "it is compressed, by bzip2", _PACKED[".bz2"]),
    (rb"\xfd7zXZ\0", "it is compressed, by xz", _PACKED[".xz"]),
    (rb"\xff\xfe|\xfe\xff", "it is UTF-16, and not UTF-8", "iconv -f UTF-16 -t UTF-8"),
    (rb"(\xef\xbb\xbf)?\s*\[\s*\{", "it is an array of JSON objects, and not a line for each", "jq -c '.[]'"),
)


class BadLineError(ValueError):
    """What is wrong with one line. place: the column (of the text, or of the table) or the field; "" for the whole line."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.what, self.place = what, place


@dataclass(frozen=True, slots=True)
class Line:
    """number: of the file, from 1 (of Parquet the row's). key: digest of its content, 64 bits.

    record: its values by name; None where `fault` says why there are none. end: where the next one begins, see Start.
    """

    number: int
    key: int
    record: Mapping[str, Any] | None
    fault: BadLineError | None = None
    end: int = 0


class Start(NamedTuple):
    """Where to begin in a file: the byte, or of Parquet the row, and the number of the last line before it."""

    at: int = 0
    number: int = 0


BEGIN = Start()


def form_of(path: Path) -> str:
    """`.jsonl`, `.csv` or `.parquet`, by the file's name; UsageError for another."""
    found = _FORMS.get(path.suffix.lower())
    if found is None and path.suffix.lower() in _PACKED:
        name = path.with_suffix("")
        raise UsageError(
            "compressed files are neither read nor written",
            code="compressed",
            where=Where(path),
            fix=f"{_PACKED[path.suffix.lower()]} < {quote(str(path))} > {quote(str(name))}"
            if path.is_file()
            else f"name it {name}",
        )
    if found is None:
        raise UsageError(
            "rows are neither read from nor written to such a file",
            code="bad_form",
            where=Where(path),
            **unknown(path.suffix or path.name, [*_FORMS]),
        )
    return found


def check_input(path: Path) -> None:
    """UsageError for a file that cannot be read at all."""
    form_of(path)
    if path.is_dir():
        raise UsageError(
            "a directory, and rows are read from one file",
            code="no_input",
            where=Where(path),
            fix="name one of its files, or make one of them: `duckdb -c \"copy (from 'DIR/*.parquet') to 'one.parquet'\"`",
        )
    if not path.exists():
        raise UsageError("no such file", code="no_input", where=Where(path))
    if not path.is_file():
        raise UsageError(
            "not a file that can be read twice", code="no_input", where=Where(path), fix="copy it into a file"
        )
    try:
        path.open("rb").close()
    except PermissionError:
        raise UsageError("it may not be read", code="no_input", where=Where(path)) from None


def lines_of(path: Path, start: Start = BEGIN) -> Iterator[Line]:
    """Every line that is not empty, from the start on. UsageError for a file that cannot be read at all."""
    check_input(path)
    form = form_of(path)
    if form != PARQUET:
        _refuse_other_content(path)
    read = {JSONL: _jsonl, CSV: _csv, PARQUET: _parquet}[form]
    return read(path, start)


def _refuse_other_content(path: Path) -> None:
    """UsageError for what is no text of lines in UTF-8, by its first bytes, with the command that makes it one."""
    with path.open("rb") as file:
        first = file.read(64)
    for magic, what, command in _OTHERS:
        if re.match(magic, first):
            raise UsageError(
                what,
                code="bad_form",
                where=Where(path),
                fix=f"{command} < {quote(str(path))} > {quote(f'{path.stem}.lines{path.suffix}')}",
            )


def key_of(content: bytes) -> int:
    """64 bits of a digest."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _jsonl(path: Path, start: Start) -> Iterator[Line]:
    with path.open("rb") as file:
        file.seek(start.at)
        number = start.number
        while text := file.readline(_LINE_LIMIT_BYTES):
            number += 1
            if number == 1:
                text = text.removeprefix(_MARK)
            if len(text) >= _LINE_LIMIT_BYTES and not text.endswith(b"\n"):
                while (more := file.readline(_LINE_LIMIT_BYTES)) and not more.endswith(b"\n"):
                    pass
                fault = BadLineError(f"more than {_LINE_LIMIT_BYTES >> 20} MiB")
                yield Line(number, key_of(text), None, fault, file.tell())
                continue
            text = text.strip()
            if text:
                yield line_of(number, text, file.tell())


def json_from_text(text: str | bytes) -> Any:
    """json.loads, but ValueError for what that silently reads as another value: a number beyond all floats, a name twice."""
    text = text if isinstance(text, str) else text.decode()
    return (_FINITE if _HUGE.search(text) else _ONCE).decode(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {double[:60]!r} comes twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"holds a value beyond all datatypes, {text[:60]}")
    return value


_HUGE = re.compile(
    r"[eE]\+?\d{3}|\d{200}"
)  # what a number beyond all floats has: 199 digits and e99 are 1e298
_ONCE = json.JSONDecoder(object_pairs_hook=_once)
_FINITE = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite)


def line_of(number: int, text: bytes, end: int = 0) -> Line:
    """One line of JSON."""
    record, fault = None, None
    try:
        record = json_from_text(text)
    except json.JSONDecodeError as error:
        fault = BadLineError(f"not JSON: {error.msg}", f"column {error.colno}")
    except UnicodeDecodeError as error:
        fault = BadLineError("not UTF-8", f"column {error.start + 1}")
    except RecursionError:
        fault = BadLineError("not JSON: nested too deeply")
    except ValueError as error:
        fault = BadLineError(str(error))
    if fault is None and not isinstance(record, dict):
        record, fault = None, BadLineError("not a JSON object")
    return Line(number, key_of(text), record, fault, end)


def _csv(path: Path, start: Start) -> Iterator[Line]:
    csv.field_size_limit(_LINE_LIMIT_BYTES)
    with path.open("rb") as file:
        first = csv.reader(_decoded(file))
        names = next(first, [])
        _refuse_double(names, "bad_csv", Where(path, 1))
        before = first.line_num
        if start.at:
            file.seek(start.at)
            before = start.number
        number = before
        # strict: a quote without its other one would take all that follows into its cell.
        reader = csv.reader(_decoded(file), strict=True)
        try:
            for cells in reader:
                number = before + reader.line_num
                if cells:
                    yield _csv_line(number, names, cells, file.tell())
        except csv.Error as error:
            raise UsageError(
                f"not CSV: {error}",
                code="bad_csv",
                where=Where(path, before + reader.line_num),
                seen=f"the row that begins after line {number}",
                fix='a quote is closed, and inside quotes written twice: "two"" inches"',
            ) from None


def _refuse_double(names: list[str], code: str, where: Where) -> None:
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UsageError("a column comes twice", code=code, where=where, seen=double)


def _decoded(file: IO[bytes]) -> Iterator[str]:
    """Lines one at a time, so that the file is read up to the end of the record that they make, and no further."""
    while text := file.readline(_LINE_LIMIT_BYTES):
        yield text.removeprefix(_MARK).decode("utf-8", "surrogateescape")


def _csv_line(number: int, names: list[str], cells: list[str], end: int) -> Line:
    key = key_of("\x1f".join(cells).encode("utf-8", "surrogateescape"))
    fault = None
    if len(cells) != len(names):
        fault = BadLineError(f"{len(cells)} cells for {len(names)} columns")
    for name, cell in zip(names, cells, strict=False):
        if not cell.isascii() and any("\udc80" <= c <= "\udcff" for c in cell):
            fault = fault or BadLineError("not UTF-8", f"column `{name}`")
    return Line(number, key, None if fault else dict(zip(names, cells, strict=False)), fault, end)


def _parquet(path: Path, start: Start) -> Iterator[Line]:
    file = opened_parquet(path)
    _refuse_double(file.schema_arrow.names, "bad_parquet", Where(path))
    number, groups = 0, list[int]()
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if not groups and number + rows <= start.at:
            number += rows
        else:
            groups.append(group)
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=groups) if groups else ():
        for record in batch.to_pylist():
            number += 1
            if number > start.at:
                text = json.dumps(record, default=_plain, sort_keys=True, separators=(",", ":"))
                yield Line(number, key_of(text.encode()), record, None, number)


def opened_parquet(path: Path) -> Any:
    """The pyarrow.parquet.ParquetFile; UsageError for a file that is none."""
    pyarrow_or_refuse()
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(
            f"not a Parquet file: {shortened(str(error))}", code="bad_parquet", where=Where(path)
        ) from None


def pyarrow_or_refuse() -> None:
    """ToolError where pyarrow is not installed."""
    import importlib.util

    if importlib.util.find_spec("pyarrow") is None:
        raise ToolError(
            "Parquet files are read and written by pyarrow, which is not installed",
            code="parquet_missing",
            fix="pip install 'tritonsmith[parquet]', or use .jsonl or .csv",
        )


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)
