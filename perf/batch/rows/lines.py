"""A JSONL, CSV or Parquet file → its lines, one after another: number, digest, record, or what is wrong with it."""

from __future__ import annotations

import csv
import hashlib
import json
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


def lines_of(path: Path, start: Start = BEGIN) -> Iterator[Line]:
    """Every line that is not empty, from the start on. UsageError for a file that cannot be read at all."""
    form = form_of(path)
    if not path.is_file():
        what = "a directory, and not a file" if path.is_dir() else "no such file"
        raise UsageError(what, code="no_input", where=Where(path))
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


def line_of(number: int, text: bytes, end: int = 0) -> Line:
    """One line of JSON."""
    record, fault = None, None
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        fault = BadLineError(f"not JSON: {error.msg}", f"column {error.colno}")
    except UnicodeDecodeError as error:
        fault = BadLineError("not UTF-8", f"column {error.start + 1}")
    except RecursionError:
        fault = BadLineError("not JSON: nested too deeply")
    if fault is None and not isinstance(record, dict):
        record, fault = None, BadLineError("not a JSON object")
    return Line(number, key_of(text), record, fault, end)


def _csv(path: Path, start: Start) -> Iterator[Line]:
    with path.open("rb") as file:
        first = csv.reader(_decoded(file))
        names = next(first, [])
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise UsageError("a column comes twice", code="bad_csv", where=Where(path, 1), seen=double)
        before = first.line_num
        if start.at:
            file.seek(start.at)
            before = start.number
        reader = csv.reader(_decoded(file))
        try:
            for cells in reader:
                if cells:
                    yield _csv_line(before + reader.line_num, names, cells, file.tell())
        except csv.Error as error:
            at = Where(path, before + reader.line_num)
            raise UsageError(f"not CSV: {error}", code="bad_csv", where=at) from None


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
