"""Flags of `tritonsmith batch` → the job run, its report written, what came out said; the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.text.console import emit_json, emit_text, note, progress
from tritonsmith.perf.batch.job import BatchJob, run_batch
from tritonsmith.perf.batch.page import write_page
from tritonsmith.perf.batch.place import Question
from tritonsmith.perf.batch.result import BatchResult
from tritonsmith.perf.batch.rows.asks import Plain, is_openai_form
from tritonsmith.perf.batch.rows.lines import JSONL, form_of, lines_of
from tritonsmith.perf.batch.sending.send import SendOptions
from tritonsmith.perf.batch.text import text_of_batch
from tritonsmith.perf.commands.batch.options import RowFlags, SendingFlags
from tritonsmith.perf.commands.load.flags import parameters_from_flags, seconds_from_text, server_fields
from tritonsmith.perf.commands.load.options import ProtocolFlags


def job_from_flags(
    rows: Path,
    output: Path,
    errors: Path | None,
    repository: Path | None,
    url: str,
    model: str,
    version: str,
    row: RowFlags,
    sending: SendingFlags,
    wire: ProtocolFlags,
    dollars_per_hour: float | None,
) -> BatchJob:
    """UsageError for flags that do not go together."""
    if bool(url) == (repository is not None):
        raise UsageError(
            "where is the model?",
            code="no_target",
            seen=f"--repository {repository} and --url {url}" if url else None,
            valid=["--repository DIR", "--url http://HOST:8000"],
        )
    if repository is not None and not repository.is_dir():
        raise UsageError("no such model repository", code="no_target", where=Where(repository))
    if errors is not None and form_of(errors) != JSONL:
        raise UsageError(
            "errors are written as JSONL", code="bad_form", where=Where(errors), valid=[".jsonl"]
        )
    plain = plain_from_flags(rows, model, row)
    protocol = "grpc" if url.startswith("grpc") else wire.protocol
    return BatchJob(
        input=rows,
        output=output,
        where=url or str(repository),
        question=Question(
            plain=plain,
            version=version,
            batch_size=sending.batch_size,
            parameters=parameters_from_flags(row.request_parameter or []),
            chat_template=row.chat_template,
            wire={"protocol": protocol, "grpc_url": wire.grpc_url, **server_fields(wire)},
            model=model if plain is None else "",
        ),
        errors=errors,
        skip_bad=row.skip_bad,
        restart=sending.restart,
        by_length=sending.order == "length",
        send=SendOptions(
            in_flight=sending.in_flight,
            timeout_s=seconds_from_text(sending.timeout),
            wait_s=seconds_from_text(sending.wait),
        ),
        dollars_per_hour=dollars_per_hour,
    )


def plain_from_flags(rows: Path, model: str, row: RowFlags) -> Plain | None:
    """None for lines of OpenAI's form, which name their model; --model is asked instead of that."""
    columns = columns_from_flags(row.map_ or ())
    if model and (columns or row.id_ or not _is_openai_file(rows)):
        return Plain(model, columns, row.id_)
    if columns or row.id_ or form_of(rows) != JSONL:
        raise UsageError(
            "plain records do not say which model they are for",
            code="no_model",
            fix="--model NAME --map COLUMN=INPUT",
        )
    return None


def _is_openai_file(rows: Path) -> bool:
    """By its first line that is an object."""
    if form_of(rows) != JSONL:
        return False
    first = next((line.record for line in lines_of(rows) if line.record is not None), {})
    return is_openai_form(first)


def columns_from_flags(flags: Sequence[str]) -> dict[str, str]:
    """`text=TEXT` → {text: TEXT}."""
    columns: dict[str, str] = {}
    for flag in flags:
        column, equals, name = flag.rpartition("=")
        if not equals or not column or not name:
            raise UsageError("not COLUMN=INPUT", code="bad_map", seen=flag, valid=["text=TEXT"])
        if column in columns or name in columns.values():
            raise UsageError("a column or an input comes twice", code="bad_map", seen=flag)
        columns[column] = name
    return columns


def run(job: BatchJob, executor: str, actors: int | None, report: Path | None, format_: str) -> int:
    """Run it and say what came out; the exit code."""
    if report is not None and (not report.absolute().parent.is_dir() or report.is_dir()):
        raise UsageError("no page can be written there", code="bad_output", where=Where(report))
    with progress("starting", alike=True) as bar:
        if executor == "local":
            result = run_batch(job, bar)
        else:
            from tritonsmith.perf.batch.ray_job import RayPlace, ray_address, run_batch_on_ray

            result = run_batch_on_ray(job, RayPlace(ray_address(executor), actors), bar)
    if format_ == "json":
        emit_json(result.as_dict())
    else:
        emit_text(text_of_batch(result))
    if report is not None:
        write_page(result, report)
        note(f"the report is {report}")
    return exit_code(result)


def exit_code(result: BatchResult) -> int:
    """130 when it was interrupted, 1 when rows failed."""
    if result.interrupted:
        note(f"what was answered is kept in {result.journal}: the same command goes on from there")
        return 130
    return 1 if result.failed else 0
