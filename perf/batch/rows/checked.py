"""A file and a reader → the whole file read once, before anything is sent: how many rows, their digests, every bad line."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.digest import digest_of_file
from tritonsmith.perf.batch.rows.asks import Address, ask_of
from tritonsmith.perf.batch.rows.lines import BadLineError, Line, Start, key_of, lines_of
from tritonsmith.perf.batch.rows.reader import OtherAddressError, Row, RowReader

_TOLD_LINES = 100
_TELL_EVERY = 2000
ROWS_A_PART = 500


@dataclass(slots=True)
class Checked:
    """What is known of a file: 8 bytes a line, whatever the lines hold.

    keys:    digest of each line by its number; 0 where there is none.
    starts:  of every ROWS_A_PART rows, where the file's part with them begins.
    repeats: line → the line before it that has the same id.
    ids_are_int64: every one of them is such a number.
    bad:     the first bad lines, and how many there are in all.
    """

    path: Path
    digest: str
    keys: array[int] = field(default_factory=lambda: array("Q", [0]))
    rows: int = 0
    starts: list[Start] = field(default_factory=lambda: [Start()])
    repeats: dict[int, int] = field(default_factory=dict)
    ids_are_int64: bool = True
    bad: list[tuple[int, BadLineError]] = field(default_factory=list)
    bad_count: int = 0

    def rows_of(
        self, reader: RowReader, is_due: Callable[[int], bool]
    ) -> Iterator[Row | tuple[Line, BadLineError]]:
        """The rows that are due, in order, each with what is wrong with it where that is something.

        UsageError `input_changed` when the file is not any more what was checked.
        """
        for line in lines_of(self.path):
            if line.number >= len(self.keys) or self.keys[line.number] != _kept(line.key):
                raise UsageError(
                    "the input changed while it was read",
                    code="input_changed",
                    where=Where(self.path, line.number),
                    fix="put it back as it was and run the same command again, or begin anew with --restart",
                )
            if not is_due(line.number):
                continue
            try:
                yield self.row_of(reader, line)
            except BadLineError as fault:
                yield line, fault

    def row_of(self, reader: RowReader, line: Line) -> Row:
        """BadLineError for a line that cannot be sent, or whose id came before."""
        row = reader.row(line)
        if line.number in self.repeats:
            raise repeated(row.id, self.repeats[line.number])
        return row


def first_address(path: Path, instead: str = "") -> Address:
    """What the first line that asks anything asks; UsageError when none does. instead: see ask_of."""
    first: tuple[int, BadLineError] | None = None
    for line in lines_of(path):
        found = _address_of(line, instead)
        if isinstance(found, Address):
            return found
        first = first or (line.number, found)
    if first is None:
        raise UsageError("the file has no rows", code="no_rows", where=Where(path))
    raise UsageError(
        f"no line asks anything; the first: {_told(*first)}",
        code="bad_lines",
        where=Where(path, first[0]),
        fix='lines as {"custom_id": "1", "method": "POST", "url": "/v2/models/MODEL/infer", "body": {…}}; '
        "or plain records, with --model MODEL --map COLUMN=INPUT",
    )


def _address_of(line: Line, instead: str) -> Address | BadLineError:
    if line.fault is not None:
        return line.fault
    assert line.record is not None
    try:
        address = ask_of(line.record, line.number, None, instead).address
    except BadLineError as fault:
        return fault
    assert address is not None
    return address


def check_file(path: Path, reader: RowReader, on_progress: Callable[[int], None] | None = None) -> Checked:
    """Reads every line. UsageError mixed_urls when lines ask different things; other faults are in the result."""
    checked = Checked(path, digest_of_file(path))
    ids, numbers = array("Q"), array("Q")
    others: dict[Address, int] = {}
    for line in lines_of(path):
        checked.keys.extend([0] * (line.number - len(checked.keys)))
        checked.keys.append(_kept(line.key))
        checked.rows += 1
        if checked.rows % ROWS_A_PART == 0:
            checked.starts.append(Start(line.end, line.number))
        try:
            row = reader.row(line)
        except OtherAddressError as fault:
            if len(others) < 10:
                others.setdefault(fault.address, line.number)
        except BadLineError as fault:
            _note(checked, line.number, fault)
        else:
            checked.ids_are_int64 &= isinstance(row.id, int) and -(2**63) <= row.id < 2**63
            ids.append(key_of(str(row.id).encode("utf-8", "surrogatepass")))
            numbers.append(line.number)
        if on_progress is not None and checked.rows % _TELL_EVERY == 0:
            on_progress(checked.rows)
    if others:
        raise _mixed(path, reader.address, others)
    if not checked.rows:
        raise UsageError("the file has no rows", code="no_rows", where=Where(path))
    _find_repeats(checked, reader, np.frombuffer(ids, np.uint64), np.frombuffer(numbers, np.uint64))
    return checked


def refuse_bad(checked: Checked, skip: bool) -> None:
    """UsageError bad_lines with every bad line's number and what is wrong, unless they are to be left out, or all are bad."""
    if not checked.bad_count or (skip and checked.bad_count < checked.rows):
        return
    told = sorted(checked.bad, key=lambda one: one[0])
    more = checked.bad_count - len(told)
    many = f"{checked.bad_count:,} of {checked.rows:,} lines cannot be sent"
    one = checked.bad_count == 1
    raise UsageError(
        _told(*told[0]).partition(": ")[2] if one else many,
        code="duplicate_id" if all(_is_repeat(fault) for _, fault in told) else "bad_lines",
        where=Where(checked.path, told[0][0] if one else None),
        details=[] if one else [*_told_together(told), *([f"and {more:,} more"] if more > 0 else [])],
        fix="mend them, or go on without them: --skip-bad" if checked.bad_count < checked.rows else None,
    )


def _note(checked: Checked, number: int, fault: BadLineError) -> None:
    checked.bad_count += 1
    if len(checked.bad) < _TOLD_LINES:
        checked.bad.append((number, fault))


def _find_repeats(checked: Checked, reader: RowReader, ids: np.ndarray, numbers: np.ndarray) -> None:
    """Ids are compared by digest; where two are alike, by themselves."""
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    alike = np.zeros(len(ids), bool)
    same = sorted_ids[1:] == sorted_ids[:-1]
    alike[1:] |= same
    alike[:-1] |= same
    if not same.any():
        return
    suspects = set(numbers[order[alike]].tolist())
    first: dict[str, int] = {}
    for line in lines_of(checked.path):
        if line.number not in suspects or line.record is None:
            continue
        id_ = str(reader.ask(line).id)
        if id_ in first:
            checked.repeats[line.number] = first[id_]
            _note(checked, line.number, repeated(id_, first[id_]))
        else:
            first[id_] = line.number


class _RepeatError(BadLineError):
    """An id that came before."""


def repeated(id_: str | int, before: int) -> BadLineError:
    """The fault of a line whose id that of the line `before` is."""
    return _RepeatError(f"the id {str(id_)[:80]!r} is that of line {before}, too")


def _is_repeat(fault: BadLineError) -> bool:
    return isinstance(fault, _RepeatError)


def _mixed(path: Path, first: Address, others: dict[Address, int]) -> UsageError:
    other, number = next(iter(others.items()))
    return UsageError(
        "the lines of a job are to ask one url of one model",
        code="mixed_urls",
        where=Where(path, number),
        seen=f"{other}, after {first}",
        details=[f"line {number}: {address}" for address, number in others.items()]
        if len(others) > 1
        else [],
        fix="one file for each",
    )


def _told(number: int, fault: BadLineError) -> str:
    return f"line {number}: {f'{fault.place}: ' if fault.place else ''}{fault.what}"


def _told_together(bad: list[tuple[int, BadLineError]]) -> Iterator[str]:
    """Lines one after another with the same fault are told as one."""
    runs: list[tuple[int, int, BadLineError]] = []
    for number, fault in bad:
        first, last, before = runs[-1] if runs else (0, -1, None)
        if before and number == last + 1 and _told(0, fault) == _told(0, before):
            runs[-1] = (first, number, fault)
        else:
            runs.append((number, number, fault))
    for first, last, fault in runs:
        told = _told(first, fault)
        yield told if first == last else f"lines {first} to {last}{told.removeprefix(f'line {first}')}"


def _kept(key: int) -> int:
    return key or 1
