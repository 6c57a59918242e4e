"""The flags of `tritonsmith load`, as they are typed: one frozen dataclass a panel of its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from typer import Option


@dataclass(frozen=True, slots=True)
class LoadFlags:
    """What load there is."""

    PANEL: ClassVar[str] = "Load"

    concurrency: Annotated[
        int | None,
        Option(
            "--concurrency", "-c", min=1, help="Closed loop: requests in flight. 8 when no load is given."
        ),
    ] = None
    request_rate: Annotated[float | None, Option(help="Open loop: requests a second, answered or not.")] = (
        None
    )
    arrival: Annotated[Literal["constant", "poisson"], Option(help="With --request-rate.")] = "constant"
    replay: Annotated[Path | None, Option(help="Open loop: a file of send times in seconds, one a line.")] = (
        None
    )
    ramp: Annotated[str, Option(help="Time over which the load climbs (2s), before the measurement.")] = "0s"
    step: Annotated[
        list[str] | None,
        Option(
            help="LOAD:DURATION before --request-rate or --concurrency (100:5s), several in order; --duration "
            "counts them in."
        ),
    ] = None
    sequences: Annotated[
        int | None,
        Option(min=1, help="Closed loop: so many sequences at once, for models that keep state."),
    ] = None
    sequence_length: Annotated[
        str,
        Option(
            help="Requests in a sequence: N, LOW..HIGH or MEAN~DEVIATION; by default those of the data's "
            "streams, else 20."
        ),
    ] = ""
    priority: Annotated[int | None, Option(help="Triton's request priority.")] = None
    request_timeout: Annotated[
        str, Option(help="Triton's request timeout in the queue (50ms): its queue policy says what follows.")
    ] = ""
    processes: Annotated[
        int, Option(min=1, help="Client processes, when one core is not enough (CLIENT_BOUND).")
    ] = 1


@dataclass(frozen=True, slots=True)
class MeasurementFlags:
    """What is measured, and for how long."""

    PANEL: ClassVar[str] = "Measurement"

    slo_p99: Annotated[
        str,
        Option(
            help="Find the highest request rate with p99 within this (20ms); --duration is then the least a probe."
        ),
    ] = ""
    goodput: Annotated[
        list[str] | None,
        Option(
            help="Also count what is answered within this time (20ms); of streams also first=100ms, between=20ms."
        ),
    ] = None
    duration: Annotated[str, Option(help="Measured time (500ms, 5s, 2m).")] = "5s"
    requests: Annotated[int | None, Option(min=1, help="Measure so many requests instead of a time.")] = None
    warmup: Annotated[str, Option(help="Time before the measurement.")] = "500ms"
    seed: Annotated[int, Option(help="Of values, order and arrivals.")] = 0
    timeout: Annotated[str, Option(help="A request without an answer after this has failed.")] = "30s"


@dataclass(frozen=True, slots=True)
class DataFlags:
    """What is sent, and what is to come back."""

    PANEL: ClassVar[str] = "Data"

    batch_size: Annotated[int | None, Option("--batch-size", "-b", min=1, help="Rows a request.")] = None
    data: Annotated[
        Path | None,
        Option(
            help="Input values: .npz, perf_analyzer's .json, or a directory of .npz files, NAME.npy files or "
            "raw bytes in NAME; drawn by default."
        ),
    ] = None
    shape: Annotated[
        list[str] | None,
        Option(help="NAME:D1,D2 without the batch; a dimension may be LOW..HIGH or MEAN~DEVIATION."),
    ] = None
    range_: Annotated[
        list[str] | None, Option("--range", help="NAME:LOW..HIGH of the values that are drawn.")
    ] = None
    pool: Annotated[int, Option(min=1, help="Distinct requests made before the test.")] = 32
    check_every: Annotated[
        int, Option(min=0, help="Compare one answer in so many with the data's expected outputs; 0: none.")
    ] = 100


@dataclass(frozen=True, slots=True)
class WireFlags:
    """How requests travel."""

    PANEL: ClassVar[str] = "Wire"

    protocol: Annotated[Literal["http", "grpc"], Option(help="Wire protocol.")] = "http"
    grpc_url: Annotated[str, Option(help="HOST:PORT of gRPC; by default the HTTP port + 1.")] = ""
    metrics_url: Annotated[
        str, Option(help="HOST:PORT of Triton's metrics; by default the HTTP port + 2.")
    ] = ""
    streaming: Annotated[
        bool, Option("--streaming", help="gRPC streams, for decoupled models; times each response.")
    ] = False
    shared_memory: Annotated[
        Literal["none", "system", "cuda"],
        Option(help="Where tensors travel, for a server on this machine."),
    ] = "none"
    cuda_device: Annotated[
        int, Option(min=0, help="The GPU of --shared-memory cuda, as CUDA counts them.")
    ] = 0
    output_shared_memory_size: Annotated[
        int, Option(min=1, help="Bytes for an output whose size the model does not fix.")
    ] = 102_400
    header: Annotated[
        list[str] | None,
        Option("--header", "-H", help="NAME:VALUE sent with every request, or @FILE with such lines."),
    ] = None
    ca_file: Annotated[
        Path | None, Option(help="Certificates to trust for https and grpcs.", exists=True)
    ] = None
