"""A repository or a live server → a server, load tests, sweeps, what changed: the perf harness's side of the API."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypedDict

from typing_extensions import Unpack

from tritonsmith.api.common import OnError, PathLike, Progress, names, unless_failed, unless_interrupted
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.console import progress_as_asked
from tritonsmith.perf.data.distribution import Distribution
from tritonsmith.perf.data.options import DataOptions
from tritonsmith.perf.data.repeat import Repeat
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.records.schedule import Closed, Load
from tritonsmith.perf.report.compare.compare import Comparison
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.server.spec import ModelControl, ServerSpec, kind_from_text
from tritonsmith.perf.sweep.run_record import RunResult
from tritonsmith.perf.wire.payload import Parameter


def serve(
    repository: PathLike = "model_repository",
    *,
    launch: str = "embedded",
    http_port: int | None = None,
    grpc_port: int | None = None,
    metrics_port: int | None = None,
    model_control: ModelControl = "none",
    load_models: str | Sequence[str] = (),
    cache_size_bytes: int | None = None,
    extra_args: Sequence[str] = (),
    log_path: PathLike | None = None,
    gpus: bool = False,
    startup_timeout_s: float = 300.0,
) -> AbstractContextManager[Server]:
    """A live Triton on a repository for the length of a `with` block. As `tritonsmith serve`.

        with tritonsmith.serve("model_repository") as server:
            client = tritonclient.http.InferenceServerClient(server.http_url)

    A model that Triton refuses does not keep the others from being served: `server.refusals()` has Triton's reasons.
    launch:        embedded, binary:PATH, docker:IMAGE or a running server's URL, which is left running.
    *_port:        None takes a free one. log_path: keep the server's log there.
    model_control: Triton's model control mode; load_models: those that "explicit" loads at the start, "*" for all.
    """
    from tritonsmith.perf.server.launch import launch as launched
    from tritonsmith.perf.server.launches.table import launch_rows

    kind, reference = kind_from_text(launch)
    return launched(
        ServerSpec(
            kind=kind,
            reference=reference,
            repositories=() if launch_rows()[kind].attach is not None else (Path(repository),),
            model_control=model_control,
            load_models=names(load_models),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            cache_size_bytes=cache_size_bytes,
            extra_args=tuple(extra_args),
            log_path=None if log_path is None else Path(log_path),
            gpus=gpus,
            startup_timeout_s=startup_timeout_s,
        )
    )


class LoadSettings(TypedDict, total=False):
    """The other fields of a load test, see tritonsmith.perf.load.load_test.LoadTest."""

    version: str
    duration_s: float | None
    requests: int | None
    warmup_s: float
    data: DataOptions
    protocol: Literal["http", "grpc"] | None
    grpc_url: str
    streaming: bool
    sequences: bool
    sequence_length: Distribution | None
    shared_memory: Literal["none", "system", "cuda"]
    cuda_device: int
    output_bytes: int
    headers: Mapping[str, str]
    ca_file: str | None
    verify: bool
    cert_file: str | None
    key_file: str | None
    parameters: Mapping[str, Parameter]
    timeout_s: float
    max_connections: int
    processes: int
    validate_every: int
    repeat: Repeat | None
    goodput_ms: Mapping[str, float]
    metrics_url: str


def load(
    where: PathLike | Server,
    model: str = "",
    load: Load | int = 8,
    *,
    progress: Progress = False,
    errors: OnError = "raise",
    **settings: Unpack[LoadSettings],
) -> LoadTestResult:
    """One load test. As `tritonsmith load`; requests that fail are in the result: `result.records.failures()`.

    where:    a server of `serve`, a Triton's URL, or a model repository, which is then served for the test.
    model:    may be left out when only one is ready.
    load:     a number of requests in flight, Closed, Open or Replay.
    errors:   "raise" KeyboardInterrupt when a Ctrl-C ended the test, or "return" what was measured until then.
    settings: fields of LoadTest: duration_s=5.0, requests, warmup_s=0.5, data=DataOptions(…), protocol="http",
              streaming, sequences, headers, timeout_s=30.0, goodput_ms={"latency": 20.0}, …
    """
    from tritonsmith.perf.load.load_test import LoadTest, fitted, run_load_test, server_at

    meant = Closed(load) if isinstance(load, int) else load
    place = where if isinstance(where, Server) else str(where)
    test = fitted(LoadTest(model=model, load=meant, **settings), str(place))
    with progress_as_asked(progress, "load", share=True) as tell, server_at(place) as served:
        result = run_load_test(
            served.http_url,
            served.known_to(test),
            tell and (lambda at: tell(f"{model or 'load'}  {at.requests:,} requests", at.done, 1.0)),
        )
    return unless_interrupted(result, result.records.header.interrupted, errors)


def batch(
    rows: Iterable[Any],
    model: str = "",
    *,
    where: Server | PathLike = "model_repository",
    version: str = "",
    columns: Mapping[str, str] | None = None,
    batch_size: int | None = None,
    in_flight: int | None = None,
    by_length: bool = True,
    parameters: Mapping[str, Parameter] | None = None,
    protocol: Literal["http", "grpc"] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 300.0,
    wait_s: float = 300.0,
    errors: OnError = "raise",
) -> Iterator[Mapping[str, Any]]:
    """The answers to rows, in their order, each a mapping of outputs; rows are read on while answers are taken.

        for row, answer in zip(texts, tritonsmith.batch(texts, "sentences"), strict=True): …

    rows:       each a mapping, input → value (a text, a number, lists, an array), or the value where the model has one input;
                without the batch dimension. Rows that are alike are sent together, and the model's outputs told apart again.
    model:      may be left out when only one is ready. where: a server of `serve`, a Triton's URL, or a model repository.
    columns:    a row's key → the input that it is for; None: keys are inputs' names.
    batch_size: rows of a request; None: the model's max_batch_size. in_flight: requests; None: found at the start.
    by_length:  rows of like length together; False takes them as they come.
    timeout_s, wait_s: of a request, which is then asked again, and for a server that is gone.
    errors:     "raise" the first row's error, or "return" each in its row's place. For files of rows, with a journal, use the
                command `tritonsmith batch`.
    """
    from tritonsmith.perf.batch.place import Question
    from tritonsmith.perf.batch.rows.asks import Plain
    from tritonsmith.perf.batch.sending.send import SendOptions
    from tritonsmith.perf.batch.stream import stream_batch

    place = where if isinstance(where, Server) else str(where)
    grpc = isinstance(place, str) and place.startswith("grpc")
    wire = {"protocol": "grpc" if grpc else protocol, "headers": dict(headers or {})}
    question = Question(
        Plain(model, dict(columns or {})), version, batch_size, dict(parameters or {}), wire=wire
    )
    send = SendOptions(in_flight, timeout_s=timeout_s, wait_s=wait_s)
    for answer in stream_batch(rows, place, question, send, by_length=by_length):
        if isinstance(answer, TritonsmithError) and errors == "raise":
            raise answer
        yield answer  # type: ignore[misc]  # an error in its row's place is asked for


class SweepSettings(TypedDict, total=False):
    """The fields of a sweep, see tritonsmith.perf.sweep.plan.spec.SweepSpec."""

    space: Mapping[str, Sequence[Any]]
    variants: Mapping[str, str]
    load_model: str
    beside: Mapping[str, int]
    concurrency: Sequence[int]
    batch_size: int
    rounds: int
    duration_s: float
    warmup_s: float
    budget_s: float
    objective: Literal["throughput", "p50", "p90", "p99", "ttft", "itl", "cost", "energy", "rate"]
    at: int
    margin: float
    slo_p99_ms: float
    dollars_per_hour: float
    max_p99_ms: float
    max_failures: float
    max_wrong: float
    answers: Literal["same", "any"]
    repeat: str
    rtol: float
    atol: float
    max_memory_mib: float
    search: Literal["auto", "grid", "optuna", "random"]
    proposals: int
    isl: int
    osl: int
    shared_prefix: int
    seed: int
    placement: Literal["auto", "side_by_side", "in_place"]


def sweep(
    where: PathLike | Server | None = None,
    model: str = "",
    *,
    spec: PathLike | None = None,
    output: PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    launch: str | None = None,
    data: DataOptions | None = None,
    progress: Progress = False,
    errors: OnError = "raise",
    **settings: Unpack[SweepSettings],
) -> RunResult:
    """Find the serving settings that are measurably better, or learn that none is. As `tritonsmith sweep`.

    where:    a model repository (default: model_repository); a server of `serve` or a Triton's URL, whose models are then
              changed in place.
    model:    may be left out when there is only one.
    spec:     a sweep.yaml; settings given beside it win.
    output:   run directory, with records and report.html; default: sweep-MODEL.
    resume:   go on with the run in output, as it was asked for but for what is given now.
    overwrite: begin anew in the place of the run in output; without either, a run that is there is an error.
    errors:   "raise" why a sweep has no answer (GateError where no arm meets the constraints; KeyboardInterrupt after a
              Ctrl-C), or "return" the result all the same. What was measured is in the run directory either way.
    settings: fields of SweepSpec: space={"instance_group.count": [1, 2]}, concurrency=(1, 8, 32), budget_s, rounds,
              objective="throughput", max_p99_ms, variants={"fp16": "models/minilm_fp16"}, …
    """
    from tritonsmith.perf.commands.sweep.output import error_of
    from tritonsmith.perf.commands.sweep.request import request_from
    from tritonsmith.perf.report import write_report
    from tritonsmith.perf.sweep.run.session import sweep_target

    started_s = time.monotonic()
    place = f"http://{where.http_url}" if isinstance(where, Server) else None if where is None else str(where)
    asked = request_from(
        place,
        launch,
        None if spec is None else Path(spec),
        {**({"model": model} if model else {}), **settings},
        data or DataOptions(),
        None if output is None else Path(output),
        resume=resume,
        overwrite=overwrite,
    )
    with progress_as_asked(progress, "starting the server") as tell:
        result = sweep_target(
            asked.spec,
            asked.target,
            asked.data,
            asked.directory,
            command=f"tritonsmith.sweep({str(asked.target.repository or asked.target.launch)!r}, {asked.spec.model!r}, …)",
            resume=resume,
            overwrite=overwrite,
            started_s=started_s,
            on_progress=tell and (lambda at: tell(at.text, at.done, at.expected or None)),
        )
    write_report(result, asked.directory)
    unless_interrupted(result, result.interrupted, errors)
    error = error_of(result)
    return unless_failed(result, () if error is None else (error,), errors)


def compare(
    a: PathLike | RunResult | LoadTestResult,
    b: PathLike | RunResult | LoadTestResult,
    *,
    arm: str = "current",
    gate: str | Sequence[str] = (),
    strict: bool = False,
) -> Comparison:
    """What changed from A to B at each load point. As `tritonsmith compare`.

    a, b:   two results of `sweep` or of `load`, or the run directories or record files that they were kept in.
    arm:    of sweeps: "current" config, "all" that both have, or one arm's label or id.
    gate:   "p99<=5%", "throughput>=-3%": GateError when the whole interval of a change lies beyond one of them. What the
            intervals cannot decide passes and is told in `notes`; with strict it is refused, too, as it always is of runs
            that did not measure the same (`differences` of the Comparison).
    """
    from tritonsmith.perf.report.compare.gate import gate_from_text
    from tritonsmith.perf.report.compare.sides import compared
    from tritonsmith.perf.report.compare.text import gated

    gates = [gate_from_text(text) for text in names(gate)]
    return gated(compared(_side(a), _side(b), arm), gates, strict)


def _side(given: PathLike | RunResult | LoadTestResult) -> Path | RunResult | LoadTestResult:
    return given if isinstance(given, (RunResult, LoadTestResult)) else Path(given)
