"""A journal whose rows are all known → the output and the file of errors, in the input's order, each by rename."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tritonsmith.builder.base.errors import TrialError, UsageError, Where
from tritonsmith.builder.base.files.digest import digest_of_file
from tritonsmith.builder.base.files.disk import delete_written, flush, replacing
from tritonsmith.builder.base.processes.failure import one_line
from tritonsmith.perf.batch.kept.journal import DONE, FAILED, Journal, telling_full
from tritonsmith.perf.batch.rows.lines import CSV, PARQUET, form_of, pyarrow_or_refuse
from tritonsmith.perf.data.interface import ModelInterface

_LINE_BYTES = 1 << 20
_ROWS_AT_ONCE = 1024
_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 64 << 20  # of Parquet: each costs its readers a step


def journal_path(output: Path) -> Path:
    """Where the journal of an output lies until that is whole."""
    return output.with_name(f"{output.name}.journal")


def errors_path(output: Path) -> Path:
    """Where failed rows go by default: `answers.jsonl` → `answers.errors.jsonl`."""
    return output.with_name(f"{output.stem}.errors.jsonl")


def check_places(output: Path, errors: Path, source: Path, restart: bool) -> None:
    """UsageError, before anything is done, for an output that is there, or cannot be."""
    if form_of(output) == CSV:
        raise UsageError(
            "answers are not written as CSV, which has no lists",
            code="bad_form",
            where=Where(output),
            valid=[".jsonl", ".parquet"],
        )
    if form_of(output) == PARQUET:
        pyarrow_or_refuse()
    for path in (output, errors):
        if path.resolve() == source.resolve():
            raise UsageError(
                "it is the input", code="output_exists", where=Where(path), fix="name another output"
            )
        if path.is_dir():
            raise UsageError(
                "a directory, and not a file", code="bad_output", where=Where(path), fix="name a file in it"
            )
        there = path.absolute().parent
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
            raise UsageError("nothing can be written there", code="bad_output", where=Where(there))
    if output.resolve() == errors.resolve():
        raise UsageError("answers and errors are to be two files", code="bad_output", where=Where(output))
    for path in (output, errors):
        if path.exists() and not restart and not journal_path(output).exists():
            raise _exists(path)
    # What begins anew deletes it, also where nothing fails.
    if errors.exists() and restart and not _is_of_errors(errors):
        raise UsageError(
            "a file that no job wrote lies where rows that failed would go",
            code="output_exists",
            where=Where(errors),
            fix="move it away, or name another place by --errors",
        )


def _is_of_errors(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            record = json.loads(file.readline(_LINE_BYTES))
        return isinstance(record["error"]["code"], str)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False


def refuse_strange(journal: Journal, output: Path, errors: Path, restart: bool) -> None:
    """UsageError when a file lies in the output's place that this job did not write, and another may have meanwhile."""
    if restart:
        return
    ours = journal.finished or {}
    for path, name in ((output, "output"), (errors, "errors")):
        if path.exists() and ours.get(name) != digest_of_file(path):
            raise _exists(
                path, "move it away, and run the same command again: what was answered is in the journal"
            )


def _exists(
    path: Path, fix: str = "name another output; or --restart begins anew, and replaces it at the end"
) -> UsageError:
    return UsageError("it is there already", code="output_exists", where=Where(path), fix=fix)


@dataclass(frozen=True, slots=True)
class Form:
    """What the answers are of, and how they are told: plain records or OpenAI's form. ids_are_int64: a column of Parquet."""

    model: ModelInterface
    plain: bool
    ids_are_int64: bool = False


def write_output(journal: Journal, output: Path, errors: Path, form: Form) -> None:
    """Both files, whole or not at all; the journal is deleted then. No file of errors when nothing failed."""
    with telling_full(journal.path):
        with replacing(output) as whole:
            if journal.failed:
                with replacing(errors) as failed:
                    _write_jsonl(journal, FAILED, failed)
                    _write(journal, whole, output, form)
                    journal.finish({"output": digest_of_file(whole), "errors": digest_of_file(failed)})
            else:
                _write(journal, whole, output, form)
                journal.finish({"output": digest_of_file(whole)})
                delete_written(errors)  # of a job before, begun anew with --restart
        flush(output.absolute().parent)
    journal.delete()


def _write(journal: Journal, path: Path, output: Path, form: Form) -> None:
    if form_of(output) != PARQUET:
        _write_jsonl(journal, DONE, path)
        return
    with _fitting(journal):
        if form.plain:
            _write_parquet(path, *_plain_table(journal, form))
        else:
            _write_parquet(path, _openai_schema(), (_flat(record) for record in _answers(journal)))


@contextmanager
def _fitting(journal: Journal) -> Iterator[None]:
    """TrialError for answers that make no columns: lines are always possible, from the same journal."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # pyarrow's are these, too
        jsonl = journal.path.with_name(f"{journal.path.name.removesuffix('.journal')}.jsonl")
        raise TrialError(
            f"the answers do not fit columns: {one_line(error)}",
            code="bad_columns",
            where=Where(journal.path),
            fix=f"mv {shlex.quote(str(journal.path))} {shlex.quote(str(journal_path(jsonl)))}, and the same command with "
            f"-o {shlex.quote(str(jsonl))}: nothing is asked again",
        ) from None


@contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_jsonl(journal: Journal, state: bytes, path: Path) -> None:
    with _synced(path) as file:
        for number in journal.numbers(state):
            file.write(journal.text_of(number) + b"\n")


def _write_parquet(path: Path, schema: Any, records: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    held: list[Any] = []
    with _synced(path) as file, pq.ParquetWriter(file, schema) as writer:
        while rows := list(islice(records, _ROWS_AT_ONCE)):
            held.append(pa.Table.from_pylist(rows, schema=schema))
            if len(held) * _ROWS_AT_ONCE >= _GROUP_ROWS or sum(t.nbytes for t in held) >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(held))
                held.clear()
        if held:
            writer.write_table(pa.concat_tables(held))


def _answers(journal: Journal) -> Iterator[dict[str, Any]]:
    return (json.loads(text) for text in _texts(journal))


def _texts(journal: Journal) -> Iterator[bytes]:
    return (journal.text_of(number) for number in journal.numbers(DONE))


def _plain_table(journal: Journal, form: Form) -> tuple[Any, Iterator[dict[str, Any]]]:
    """(schema, records): a column for the id and each output, lists as deep as the output has dimensions."""
    import pyarrow as pa

    outputs = {spec.name: spec for spec in form.model.outputs}
    words = {name: spec.dtype.kserve for name, spec in outputs.items()}
    is_binary = "BYTES" in words.values() and any(_NO_UTF8 in text for text in _texts(journal))
    depths: dict[str, int] = {}
    # What generate answers is a list only where it is more than one value, and an output may be missing.
    for record in _answers(journal) if form.model.decoupled else islice(_answers(journal), 1):
        for name, value in record.items():
            known = outputs[name].wire_shape if name in outputs else ()
            depths[name] = max(depths.get(name, 0), _depth(value, len(known)))

    def column(name: str) -> Any:
        if name not in words:  # the id
            return pa.int64() if form.ids_are_int64 else pa.string()
        kind = getattr(pa, _ARROW.get(words[name]) or words[name].lower())()
        kind = pa.binary() if is_binary and words[name] == "BYTES" else kind
        for _ in range(depths[name]):
            kind = pa.list_(kind)
        return kind

    def cell(name: str, value: Any, has_words: bool) -> Any:
        if name not in words:
            return value if form.ids_are_int64 else str(value)
        if has_words and words[name] in _FLOATS:
            value = _each(float, value)
        elif is_binary and words[name] == "BYTES":
            value = _each(lambda text: text.encode("utf-8", "surrogateescape"), value)
        return [value] if depths[name] and not isinstance(value, list) else value

    def row(text: bytes) -> dict[str, Any]:
        has_words = b'"NaN"' in text or b'Infinity"' in text
        return {name: cell(name, value, has_words) for name, value in json.loads(text).items()}

    schema = pa.schema([(name, column(name)) for name in depths] or [("id", pa.string())])
    return schema, (row(text) for text in _texts(journal))


def _depth(value: Any, known: int) -> int:
    """How deep lists are; `known` where an empty one hides it."""
    if not isinstance(value, list):
        return 0
    return 1 + _depth(value[0], known - 1) if value else max(1, known)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    return [_each(change, part) for part in value] if isinstance(value, list) else change(value)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    response = record["response"]
    return {
        "id": record["id"],
        "custom_id": record["custom_id"],
        "status_code": response["status_code"],
        "request_id": response["request_id"],
        "body": json.dumps(response["body"], separators=(",", ":")),
    }


def _openai_schema() -> Any:
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [("id", text), ("custom_id", text), ("status_code", pa.int32()), ("request_id", text), ("body", text)]
    )


_NO_UTF8 = b"\\udc"  # how JSON has a byte that surrogateescape let through
_FLOATS = ("FP16", "BF16", "FP32", "FP64")
_ARROW = {
    "BOOL": "bool_",
    "BYTES": "string",
    "FP16": "float32",
    "BF16": "float32",
    "FP32": "float32",
    "FP64": "float64",
}
