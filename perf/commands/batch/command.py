"""`tritonsmith batch`: a file of rows and a server → every row's answer, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tritonsmith.perf.commands.batch.options import RowFlags, SendingFlags
from tritonsmith.perf.commands.flattened import flag, flattened
from tritonsmith.perf.commands.load.options import ProtocolFlags


@flattened
def batch(
    *,
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Rows: .jsonl (OpenAI's batch form, or records), .csv or .parquet."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where answers go: .jsonl or .parquet.")
    ],
    errors: Path | None = flag(
        None, "Where rows that failed go (.jsonl); default: beside the output.", metavar="FILE"
    ),
    repository: Path | None = flag(
        None, "A model repository, which is served for the job.", "--repository", "-r", metavar="DIR"
    ),
    url: str = flag("", "A running Triton instead: http, https, grpc or grpcs.", metavar="URL"),
    model: str = flag(
        "",
        "The model: of plain records, or instead of the one that lines of OpenAI's form name.",
        "--model",
        "-m",
    ),
    version: str = flag("", "The version of the model; default: Triton's choice."),
    row: RowFlags,
    sending: SendingFlags,
    wire: ProtocolFlags,
    report: Path | None = flag(None, "Also write a page (.html) about the job.", metavar="FILE"),
    dollars_per_hour: float | None = flag(None, "Price of the machine, for the costs.", min=0.0),
    format: Literal["text", "json"] = flag("text", "How to write the result."),
) -> None:
    """Answer every row of a file, once; a killed job goes on.

    The whole input is checked first. Rows that are alike go into one request, up to the model's max_batch_size, and as many
    requests are in flight as keep the server full. What is answered is kept in a journal beside the output: after a kill, the
    same command goes on from there, and the output appears when it is whole. Exit code 1 when rows failed.

    Examples: tritonsmith batch asks.jsonl -o answers.jsonl -r model_repository/
              tritonsmith batch texts.csv -o vectors.parquet -r model_repository/ -m sentences --map text=TEXT
              tritonsmith batch asks.jsonl -o answers.jsonl --url http://localhost:8000 --skip-bad
              tritonsmith batch asks.jsonl -o answers.jsonl -r model_repository/ --executor ray
    """
    from tritonsmith.perf.commands.batch.run import job_from_flags, run

    job = job_from_flags(
        rows, output, errors, repository, url, model, version, row, sending, wire, dollars_per_hour
    )
    raise typer.Exit(run(job, sending.executor, sending.ray_actors, report, format))
