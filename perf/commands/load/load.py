"""`tritonsmith load`: a server or a repository, a model and a load → one load test's verdict and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tritonsmith.perf.commands.flattened import flag, flattened
from tritonsmith.perf.commands.load.options import (
    DataFlags,
    LoadFlags,
    MeasurementFlags,
    TokenFlags,
    WireFlags,
)


@flattened
def load(
    *,
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL|DIR",
            help="A Triton's URL (http, https, or grpc, grpcs for one without HTTP), a model repository, which is "
            "then served for the test, or OpenAI's API (openai://HOST:PORT/v1, openais for TLS).",
        ),
    ],
    model: str = flag("", "The model; default: the only one that is ready.", "--model", "-m"),
    version: str = flag("", "The version of the model; default: Triton's choice."),
    load: LoadFlags,
    measurement: MeasurementFlags,
    data: DataFlags,
    wire: WireFlags,
    tokens: TokenFlags,
    output: Path | None = flag(
        None, "Keep every request here (.npz), for `tritonsmith report`.", "--output", "-o"
    ),
    format: Literal["text", "json"] = flag("text", "How to write the result."),
) -> None:
    """Measure one model under load, closed or open loop, HTTP or gRPC.

    Closed loop: --concurrency requests are always in flight. Open loop: --request-rate, answered or not. Exit code 1
    when a request failed or was answered wrongly; 4 when no request rate keeps --slo-p99.

    Examples: tritonsmith load http://127.0.0.1:8000 -m minilm -c 16 --shape input_ids:16..128
              tritonsmith load model_repository/ --request-rate 200 --arrival poisson --duration 10s
              tritonsmith load grpc://127.0.0.1:8001 -m tokens --streaming -c 4
              tritonsmith load model_repository/ -m minilm --slo-p99 20ms --duration 2s
              tritonsmith load openai://127.0.0.1:8000/v1 -c 16 --isl 512 --osl 128 --goodput ttft=200ms,itl=30ms
    """
    from dataclasses import replace

    from tritonsmith.perf.commands.load.flags import check_no_load, seconds_from_text, test_from_flags
    from tritonsmith.perf.commands.load.run import run, run_by_tokens, run_search
    from tritonsmith.perf.commands.load.token_flags import is_by_tokens, token_test_from_flags

    if is_by_tokens(target, tokens):
        by_tokens, asked = token_test_from_flags(target, load, measurement, data, wire, tokens)
        by_tokens = replace(by_tokens, model=model, version=version)
        raise typer.Exit(run_by_tokens(target, by_tokens, asked, output, format))
    test = replace(test_from_flags(target, load, measurement, data, wire), model=model, version=version)
    if not measurement.slo_p99:
        raise typer.Exit(run(target, test, output, format))
    check_no_load(load, measurement)
    limit_ms = seconds_from_text(measurement.slo_p99) * 1000
    raise typer.Exit(run_search(target, test, limit_ms, output, format))
