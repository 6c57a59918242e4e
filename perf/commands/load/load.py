"""`tritonsmith load`: a server or a repository, a model and a load → one load test's verdict and numbers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer


class WireProtocol(str, Enum):
    """What the requests travel over."""

    http = "http"
    grpc = "grpc"


class SharedMemoryKind(str, Enum):
    """Where tensors travel."""

    none = "none"
    system = "system"
    cuda = "cuda"


class ArrivalKind(str, Enum):
    """How requests of a rate follow each other."""

    constant = "constant"
    poisson = "poisson"


class OutputFormat(str, Enum):
    """How the result is written."""

    text = "text"
    json = "json"


def load(
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL|DIR",
            help="A Triton's URL (http, https, or grpc, grpcs for one without HTTP), or a model repository, "
            "which is then served for the test.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model name; may be left out when only one is ready.")
    ] = "",
    version: Annotated[str, typer.Option(help="Model version; Triton's choice by default.")] = "",
    concurrency: Annotated[
        Optional[int],  # noqa: UP045 - Typer reads the annotation at run time on Python 3.10
        typer.Option(
            "--concurrency",
            "-c",
            min=1,
            help="Closed loop: requests in flight. 8 when no load is given.",
            rich_help_panel="Load",
        ),
    ] = None,
    request_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--request-rate", help="Open loop: requests a second, answered or not.", rich_help_panel="Load"
        ),
    ] = None,
    arrival: Annotated[
        ArrivalKind, typer.Option(help="With --request-rate.", rich_help_panel="Load")
    ] = ArrivalKind.constant,
    replay: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Open loop: a file of send times in seconds, one a line.",
            show_default=False,
            rich_help_panel="Load",
        ),
    ] = None,
    ramp: Annotated[
        str,
        typer.Option(
            help="Time over which the load climbs (2s), before the measurement.", rich_help_panel="Load"
        ),
    ] = "0s",
    step: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="LOAD:DURATION before --request-rate or --concurrency (100:5s), several in order; --duration "
            "counts them in.",
            show_default=False,
            rich_help_panel="Load",
        ),
    ] = None,
    sequences: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            help="Closed loop: so many sequences at once, for models that keep state.",
            show_default=False,
            rich_help_panel="Load",
        ),
    ] = None,
    sequence_length: Annotated[
        str,
        typer.Option(
            help="Requests in a sequence: N, LOW..HIGH or MEAN~DEVIATION; by default those of the data's "
            "streams, else 20.",
            show_default=False,
            rich_help_panel="Load",
        ),
    ] = "",
    slo_p99: Annotated[
        str,
        typer.Option(
            "--slo-p99",
            help="Find the highest request rate with p99 within this (20ms); --duration is then the least a probe.",
            rich_help_panel="Measurement",
        ),
    ] = "",
    goodput: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Also count what is answered within this time (20ms); of streams also first=100ms, between=20ms.",
            show_default=False,
            rich_help_panel="Measurement",
        ),
    ] = None,
    duration: Annotated[
        str, typer.Option(help="Measured time (500ms, 5s, 2m).", rich_help_panel="Measurement")
    ] = "5s",
    requests: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="Measure so many requests instead of a time.", rich_help_panel="Measurement"
        ),
    ] = None,
    warmup: Annotated[
        str, typer.Option(help="Time before the measurement.", rich_help_panel="Measurement")
    ] = "500ms",
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--batch-size", "-b", min=1, help="Rows a request.", rich_help_panel="Data"),
    ] = None,
    protocol: Annotated[
        WireProtocol, typer.Option(help="Wire protocol.", rich_help_panel="Wire")
    ] = WireProtocol.http,
    grpc_url: Annotated[
        str,
        typer.Option(
            help="HOST:PORT of gRPC; by default the HTTP port + 1.",
            show_default=False,
            rich_help_panel="Wire",
        ),
    ] = "",
    metrics_url: Annotated[
        str,
        typer.Option(
            help="HOST:PORT of Triton's metrics; by default the HTTP port + 2.",
            show_default=False,
            rich_help_panel="Wire",
        ),
    ] = "",
    streaming: Annotated[
        bool,
        typer.Option(
            "--streaming",
            help="gRPC streams, for decoupled models; times each response.",
            rich_help_panel="Wire",
        ),
    ] = False,
    shared_memory: Annotated[
        SharedMemoryKind,
        typer.Option(help="Where tensors travel, for a server on this machine.", rich_help_panel="Wire"),
    ] = SharedMemoryKind.none,
    cuda_device: Annotated[
        int,
        typer.Option(
            min=0, help="The GPU of --shared-memory cuda, as CUDA counts them.", rich_help_panel="Wire"
        ),
    ] = 0,
    output_shared_memory_size: Annotated[
        int,
        typer.Option(
            min=1, help="Bytes for an output whose size the model does not fix.", rich_help_panel="Wire"
        ),
    ] = 102_400,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Input values: .npz, perf_analyzer's .json, or a directory of .npz files, NAME.npy files or "
            "raw bytes in NAME; drawn by default.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    shape: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="NAME:D1,D2 without the batch; a dimension may be LOW..HIGH or MEAN~DEVIATION.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    range_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--range",
            help="NAME:LOW..HIGH of the values that are drawn.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    pool: Annotated[
        int, typer.Option(min=1, help="Distinct requests made before the test.", rich_help_panel="Data")
    ] = 32,
    seed: Annotated[
        int, typer.Option(help="Of values, order and arrivals.", rich_help_panel="Measurement")
    ] = 0,
    header: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--header",
            "-H",
            help="NAME:VALUE sent with every request, or @FILE with such lines.",
            show_default=False,
            rich_help_panel="Wire",
        ),
    ] = None,
    ca_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Certificates to trust for https and grpcs.",
            exists=True,
            show_default=False,
            rich_help_panel="Wire",
        ),
    ] = None,
    check_every: Annotated[
        int,
        typer.Option(
            min=0,
            help="Compare one answer in so many with the data's expected outputs; 0: none.",
            rich_help_panel="Data",
        ),
    ] = 100,
    priority: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Triton's request priority.", rich_help_panel="Load"),
    ] = None,
    request_timeout: Annotated[
        str,
        typer.Option(
            help="Triton's request timeout in the queue (50ms): its queue policy says what follows.",
            rich_help_panel="Load",
        ),
    ] = "",
    timeout: Annotated[
        str,
        typer.Option(
            help="A request without an answer after this has failed.", rich_help_panel="Measurement"
        ),
    ] = "30s",
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Client processes, when one core is not enough (CLIENT_BOUND).",
            rich_help_panel="Load",
        ),
    ] = 1,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Keep every request here (.npz), for `tritonsmith report`."),
    ] = None,
    format: Annotated[OutputFormat, typer.Option(help="How to write the result.")] = OutputFormat.text,
) -> None:
    """Load-test one model: closed loop (--concurrency) or open loop (--request-rate), over the raw wire.

    Exit code 1 when a request failed or was answered wrongly; 4 when no request rate keeps --slo-p99.

    Examples: tritonsmith load http://127.0.0.1:8000 -m minilm -c 16 --shape input_ids:16..128
              tritonsmith load model_repository/ --request-rate 200 --arrival poisson --duration 10s
              tritonsmith load grpc://127.0.0.1:8001 -m tokens --streaming -c 4
              tritonsmith load model_repository/ -m minilm --slo-p99 20ms --duration 2s
    """
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.perf.commands.load.flags import (
        goodput_from_flags,
        headers_from_flags,
        load_from_flags,
        metrics_address_from_text,
        ranges_from_flags,
        seconds_from_text,
        shapes_from_flags,
        steps_from_flags,
    )
    from tritonsmith.perf.commands.load.run import run, run_search
    from tritonsmith.perf.data import DataOptions
    from tritonsmith.perf.data.distribution import distribution_from_text
    from tritonsmith.perf.load.load_test import LoadTest, fitted
    from tritonsmith.perf.wire.payload import request_parameters

    meant = load_from_flags(
        sequences if concurrency is None else concurrency,
        request_rate,
        arrival.value,
        replay,
        seed,
        seconds_from_text(ramp),
        steps_from_flags(step or []),
    )
    if step and (sequences is not None or sequence_length):
        raise UsageError("sequences have no steps: they end when they are over", code="bad_load")
    if sequences is not None and concurrency not in (None, sequences):
        raise UsageError("--sequences is the concurrency", code="two_loads", seen=f"-c {concurrency}")
    if requests is None and replay is None and not seconds_from_text(duration):
        raise UsageError("a measurement takes time", code="bad_time", seen=duration, fix="--duration 5s")
    timeout_us = round(seconds_from_text(request_timeout) * 1e6) if request_timeout else None
    test = LoadTest(
        model=model,
        version=version,
        load=meant,
        duration_s=seconds_from_text(duration),
        requests=requests,
        warmup_s=seconds_from_text(warmup),
        data=DataOptions(
            file=data,
            shapes=shapes_from_flags(shape or []),
            ranges=ranges_from_flags(range_ or []),
            batch_size=batch_size,
            pool=pool,
            seed=seed,
        ),
        protocol=protocol.value,
        streaming=streaming,
        sequences=sequences is not None,
        sequence_length=distribution_from_text(sequence_length) if sequence_length else None,
        shared_memory=shared_memory.value,
        cuda_device=cuda_device,
        output_bytes=output_shared_memory_size,
        grpc_url=grpc_url,
        metrics_url=metrics_address_from_text(metrics_url),
        headers=headers_from_flags(header or []),
        ca_file=None if ca_file is None else str(ca_file),
        parameters=request_parameters(priority=priority, timeout_us=timeout_us),
        timeout_s=seconds_from_text(timeout),
        processes=processes,
        validate_every=check_every,
        goodput_ms=goodput_from_flags(goodput or [], streaming),
    )
    test = fitted(test, target)
    if slo_p99:
        given = [concurrency, request_rate, replay, requests]
        raise typer.Exit(
            run_search(target, test, seconds_from_text(slo_p99) * 1000, given, output, format.value)
        )
    raise typer.Exit(run(target, test, output, format.value))
