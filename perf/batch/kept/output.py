"""A journal whose rows are all known → the output and the file of errors, in the input's order, each by rename."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

_ROWS_AT_ONCE = 1024


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


def write_output(journal: Journal, output: Path, errors: Path, model: ModelInterface, plain: bool) -> None:
    """Both files, whole or not at all; the journal is deleted then. No file of errors when nothing failed."""
    with telling_full(journal.path):
        with replacing(output) as whole:
            if journal.failed:
                with replacing(errors) as failed:
                    _write_jsonl(journal, FAILED, failed)
                    _write(journal, whole, output, model, plain)
                    journal.finish({"output": digest_of_file(whole), "errors": digest_of_file(failed)})
            else:
                _write(journal, whole, output, model, plain)
                journal.finish({"output": digest_of_file(whole)})
                delete_written(errors)  # of a job before, begun anew with --restart
        flush(output.absolute().parent)
    journal.delete()


def _write(journal: Journal, path: Path, output: Path, model: ModelInterface, plain: bool) -> None:
    if form_of(output) == PARQUET:
        _write_parquet(journal, path, model, plain)
    else:
        _write_jsonl(journal, DONE, path)


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


def _write_parquet(journal: Journal, path: Path, model: ModelInterface, plain: bool) -> None:
    try:
        _write_columns(journal, path, model, plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # pyarrow's are these, too
        jsonl = journal.path.with_name(f"{journal.path.name.removesuffix('.journal')}.jsonl")
        raise TrialError(
            f"the answers do not fit columns: {one_line(error)}",
            code="bad_columns",
            where=Where(journal.path),
            fix=f"mv {shlex.quote(str(journal.path))} {shlex.quote(str(journal_path(jsonl)))}, and the same command with "
            f"-o {shlex.quote(str(jsonl))}: nothing is asked again",
        ) from None


def _write_columns(journal: Journal, path: Path, model: ModelInterface, plain: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    floats = {spec.name for spec in model.outputs if spec.dtype.kserve in ("FP16", "BF16", "FP32", "FP64")}
    records = (
        _record(journal.text_of(number), floats if plain else set()) for number in journal.numbers(DONE)
    )
    first: list[Any] = list(islice(records, _ROWS_AT_ONCE))
    form: Callable[[Any], Any] = (lambda record: record) if plain else _flat
    schema = _plain_schema(model, [form(record) for record in first]) if plain else _openai_schema()
    with _synced(path) as file, pq.ParquetWriter(file, schema) as writer:
        rows = first
        while rows:
            writer.write_table(pa.Table.from_pylist([form(record) for record in rows], schema=schema))
            rows = list(islice(records, _ROWS_AT_ONCE))


def _record(text: bytes, floats: set[str]) -> dict[str, Any]:
    """floats: outputs whose texts are NaN and infinities."""
    record: dict[str, Any] = json.loads(text)
    if b'"NaN"' in text or b'Infinity"' in text:
        record |= {name: _numbers(record[name]) for name in floats & record.keys()}
    return record


def _numbers(value: Any) -> Any:
    return [_numbers(part) for part in value] if isinstance(value, list) else float(value)


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


_ARROW = {
    "BOOL": "bool_",
    "BYTES": "string",
    "FP16": "float32",
    "BF16": "float32",
    "FP32": "float32",
    "FP64": "float64",
}


def _plain_schema(model: ModelInterface, first: list[dict[str, Any]]) -> Any:
    """A column for the id and each output that the first rows have: lists as deep as the output has dimensions."""
    import pyarrow as pa

    names = dict.fromkeys(name for record in first for name in record)
    known = {spec.name: spec for spec in model.outputs}
    fields = []
    for name in names:
        sample = next(record[name] for record in first if name in record)
        if name not in known:
            fields.append((name, pa.string()))
            continue
        word = known[name].dtype.kserve
        kind = getattr(pa, _ARROW.get(word) or word.lower())()
        while isinstance(sample, list):
            kind, sample = pa.list_(kind), sample[0] if sample else None
        fields.append((name, kind))
    return pa.schema(fields or [("id", pa.string())])
