"""`tritonsmith load`: a server or a repository, a model and a load → one load test's verdict and numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from builder.errors import TritonsmithError
    from perf.generator import Progress
    from perf.load import LoadTest
    from perf.load_result import LoadTestResult
    from perf.schedule import Load


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
            "--concurrency", "-c", min=1, help="Closed loop: requests in flight. 8 when no load is given."
        ),
    ] = None,
    request_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--request-rate", help="Open loop: requests a second, answered or not."),
    ] = None,
    arrival: Annotated[ArrivalKind, typer.Option(help="With --request-rate.")] = ArrivalKind.constant,
    replay: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Open loop: a file of send times in seconds, one a line.", show_default=False),
    ] = None,
    ramp: Annotated[
        str, typer.Option(help="Time over which the load climbs (2s), before the measurement.")
    ] = "0s",
    step: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="LOAD:DURATION before --request-rate or --concurrency (100:5s), several in order; --duration "
            "counts them in.",
            show_default=False,
        ),
    ] = None,
    sequences: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            help="Closed loop: so many sequences at once, for models that keep state.",
            show_default=False,
        ),
    ] = None,
    sequence_length: Annotated[
        str,
        typer.Option(
            help="Requests in a sequence: N, LOW..HIGH or MEAN~DEVIATION; by default those of the data's "
            "streams, else 20.",
            show_default=False,
        ),
    ] = "",
    slo_p99: Annotated[
        str,
        typer.Option(
            "--slo-p99",
            help="Find the highest request rate with p99 within this (20ms); --duration is then the least a probe.",
        ),
    ] = "",
    goodput: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Also count what is answered within this time (20ms); of streams also first=100ms, between=20ms.",
            show_default=False,
        ),
    ] = None,
    duration: Annotated[str, typer.Option(help="Measured time (500ms, 5s, 2m).")] = "5s",
    requests: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Measure so many requests instead of a time."),
    ] = None,
    warmup: Annotated[str, typer.Option(help="Time before the measurement.")] = "500ms",
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--batch-size", "-b", min=1, help="Rows a request."),
    ] = None,
    protocol: Annotated[WireProtocol, typer.Option(help="Wire protocol.")] = WireProtocol.http,
    grpc_url: Annotated[
        str, typer.Option(help="HOST:PORT of gRPC; by default the HTTP port + 1.", show_default=False)
    ] = "",
    metrics_url: Annotated[
        str,
        typer.Option(help="HOST:PORT of Triton's metrics; by default the HTTP port + 2.", show_default=False),
    ] = "",
    streaming: Annotated[
        bool, typer.Option("--streaming", help="gRPC streams, for decoupled models; times each response.")
    ] = False,
    shared_memory: Annotated[
        SharedMemoryKind, typer.Option(help="Where tensors travel, for a server on this machine.")
    ] = SharedMemoryKind.none,
    cuda_device: Annotated[
        int, typer.Option(min=0, help="The GPU of --shared-memory cuda, as CUDA counts them.")
    ] = 0,
    output_shared_memory_size: Annotated[
        int, typer.Option(min=1, help="Bytes for an output whose size the model does not fix.")
    ] = 102_400,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Input values: .npz, perf_analyzer's .json, or a directory of .npz files, NAME.npy files or "
            "raw bytes in NAME; drawn by default.",
            show_default=False,
        ),
    ] = None,
    shape: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="NAME:D1,D2 without the batch; a dimension may be LOW..HIGH or MEAN~DEVIATION.",
            show_default=False,
        ),
    ] = None,
    range_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--range", help="NAME:LOW..HIGH of the values that are drawn.", show_default=False),
    ] = None,
    pool: Annotated[int, typer.Option(min=1, help="Distinct requests made before the test.")] = 32,
    seed: Annotated[int, typer.Option(help="Of values, order and arrivals.")] = 0,
    header: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--header", "-H", help="NAME:VALUE sent with every request.", show_default=False),
    ] = None,
    ca_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Certificates to trust for https and grpcs.", exists=True, show_default=False),
    ] = None,
    check_every: Annotated[
        int,
        typer.Option(min=0, help="Compare one answer in so many with the data's expected outputs; 0: none."),
    ] = 100,
    priority: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Triton's request priority."),
    ] = None,
    request_timeout: Annotated[
        str,
        typer.Option(
            help="Triton's request timeout in the queue (50ms): its queue policy says what follows."
        ),
    ] = "",
    timeout: Annotated[str, typer.Option(help="A request without an answer after this has failed.")] = "30s",
    processes: Annotated[
        int, typer.Option(min=1, help="Client processes, when one core is not enough (CLIENT_BOUND).")
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
    from builder.errors import UsageError
    from perf.data import DataOptions
    from perf.distribution import distribution_from_text
    from perf.load import LoadTest
    from perf.load_flags import (
        goodput_from_flags,
        headers_from_flags,
        ranges_from_flags,
        seconds_from_text,
        shapes_from_flags,
        steps_from_flags,
    )
    from perf.wire.payload import request_parameters

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
    timeout_us = round(seconds_from_text(request_timeout) * 1e6) if request_timeout else None
    test = LoadTest(
        model=model,
        version=version,
        load=meant,
        duration_s=None if requests is not None or replay is not None else seconds_from_text(duration),
        requests=requests,
        warmup_s=0.0 if replay is not None else max(seconds_from_text(warmup), seconds_from_text(ramp)),
        data=DataOptions(
            file=data,
            shapes=shapes_from_flags(shape or []),
            ranges=ranges_from_flags(range_ or []),
            batch_size=batch_size,
            pool=pool,
            seed=seed,
        ),
        protocol="grpc" if streaming or target.startswith("grpc") else protocol.value,
        streaming=streaming,
        sequences=sequences is not None or bool(sequence_length),
        sequence_length=distribution_from_text(sequence_length) if sequence_length else None,
        shared_memory=shared_memory.value,
        cuda_device=cuda_device,
        output_bytes=output_shared_memory_size,
        grpc_url=grpc_url,
        metrics_url=metrics_url.removeprefix("http://").partition("/")[0],
        headers=headers_from_flags(header or []),
        ca_file=None if ca_file is None else str(ca_file),
        parameters=request_parameters(priority=priority, timeout_us=timeout_us),
        timeout_s=seconds_from_text(timeout),
        processes=processes,
        validate_every=check_every,
        goodput_ms=goodput_from_flags(goodput or [], streaming),
    )
    if slo_p99:
        given = [concurrency, request_rate, replay, requests]
        raise typer.Exit(
            run_search(target, test, seconds_from_text(slo_p99) * 1000, given, output, format.value)
        )
    raise typer.Exit(run(target, test, output, format.value))


def run_search(
    target: str,
    test: LoadTest,
    limit_ms: float,
    given: Sequence[object],
    output: Path | None,
    format_: str,
) -> int:
    """Find the highest rate that keeps the limit, say it and its test; the exit code."""
    from builder.console import note
    from builder.errors import GateError, UsageError
    from perf.load import server_at
    from perf.load_rate import find_load_rate
    from perf.schedule import Open

    if any(value is not None for value in given):
        raise UsageError(
            "--slo-p99 finds the request rate itself",
            code="two_loads",
            fix="leave out --concurrency, --request-rate, --replay and --requests",
        )
    check_output(output)
    with server_at(target) as served:
        found, best = find_load_rate(
            served.http_url,
            served.known_to(test),
            limit_ms,
            lambda probe: note(f"{probe.rate_per_s:10,.1f}/s  {probe.outcome}: {probe.why}"),
            note,
        )
    load = Open(found.rate_per_s or 1.0, "poisson", test.data.seed)
    missed = GateError(found.sentence.rstrip("."), code="slo_missed") if found.rate_per_s is None else None
    return tell(best, load, output, format_, lead=found.sentence, more={"slo": found.as_dict()}, gate=missed)


def load_from_flags(
    concurrency: int | None,
    request_rate: float | None,
    arrival: str,
    replay: Path | None,
    seed: int,
    ramp_s: float,
    steps: tuple[tuple[float, float], ...] = (),
) -> Load:
    """Exactly one of --concurrency (--sequences), --request-rate and --replay; concurrency 8 when there is none."""
    from builder.errors import UsageError
    from perf.load_flags import replay_from_file
    from perf.schedule import Closed, Open

    given = [
        flag
        for flag, value in (
            ("--concurrency", concurrency),
            ("--request-rate", request_rate),
            ("--replay", replay),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError("a test has one load", code="two_loads", seen=" ".join(given))
    if steps and request_rate is None and concurrency is None:
        raise UsageError(
            "--step needs the load that follows",
            code="bad_load",
            valid=["--request-rate 200", "--concurrency 16"],
        )
    if replay is not None:
        return replay_from_file(replay)
    if request_rate is not None:
        return Open(request_rate, "poisson" if arrival == "poisson" else "constant", seed, ramp_s, steps)
    return Closed(concurrency or 8, ramp_s, concurrencies_of(steps))


def concurrencies_of(steps: tuple[tuple[float, float], ...]) -> tuple[tuple[int, float], ...]:
    """Steps of a closed loop: whole numbers of requests in flight."""
    from builder.errors import UsageError

    for value, _ in steps:
        if not value.is_integer():
            raise UsageError("a step of a closed loop is a concurrency", code="bad_load", seen=f"{value:g}")
    return tuple((int(value), duration_s) for value, duration_s in steps)


def run(target: str, test: LoadTest, output: Path | None, format_: str) -> int:
    """Serve what is to be served, test, say what came out; the exit code."""
    from contextlib import ExitStack

    from builder.console import progress
    from perf.load import run_load_test, server_at

    check_output(output)
    with progress() as bar, ExitStack() as stack:
        task = bar.add_task("asking the server" if "://" in target else "starting the server", total=100)
        served = stack.enter_context(server_at(target))

        def show(now: Progress) -> None:
            failed = f", [red]{now.failed:,} failed[/red]" if now.failed else ""
            text = f"{test.model or 'load'}  {now.requests:,} requests{failed}"
            bar.update(task, completed=100 * now.done, description=text)

        result = run_load_test(served.http_url, served.known_to(test), show)
    return tell(result, test.load, output, format_)


def check_output(output: Path | None) -> None:
    """UsageError, before the test, when its record could not be kept where it is to be."""
    from builder.errors import UsageError, Where

    if output is None:
        return
    if output.is_dir():
        raise UsageError(
            "the record is one file, and this is a directory",
            code="bad_output",
            where=Where(output),
            fix=f"-o {output / 'load.npz'}",
        )
    there = next(parent for parent in output.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError("nothing can be written there", code="bad_output", where=Where(there))


def tell(
    result: LoadTestResult,
    load: Load,
    output: Path | None,
    format_: str,
    *,
    lead: str = "",
    more: Mapping[str, Any] | None = None,
    gate: TritonsmithError | None = None,
) -> int:
    """Keep the record and say the result, in one JSON document or as text; the exit code.

    A record that cannot be written costs the exit code, never the numbers.
    """
    from builder.console import emit_json, emit_text, note
    from builder.errors import TrialError, Where
    from perf.load_text import result_as_dict, text_of_result
    from perf.record import save_records

    error = gate
    if output is not None:
        try:
            save_records(result.records, output)
        except OSError as refused:
            error = TrialError(
                f"the record could not be written: {refused.strerror}",
                code="record_not_written",
                where=Where(output),
                fix="free space or permissions, or give another --output",
            )
    if format_ == "json":
        said = {**result_as_dict(result), **(more or {})}
        emit_json(said if error is None else said | {"error": error.as_dict()})
    elif gate is not None:
        emit_text(lead)
    else:
        emit_text(f"{lead}\n{text_of_result(result, load)}" if lead else text_of_result(result, load))
    if error is not None:
        note(f"error[{error.code}]: {error}")
    if output is not None and (error is None or error is gate):
        note(f"every request is in {output}")
    if result.records.header.interrupted:
        return 130
    if error is not None:
        return error.exit_code
    return 1 if result.records.failures() else 0
