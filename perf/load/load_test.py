"""One load test: (a live server, a model, a load) → records, their summary, the server's counters and use."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tritonsmith import __version__
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.address import host_port, is_bracketed, refuse_bare_ipv6
from tritonsmith.builder.base.machine.toolchain import this_processor
from tritonsmith.perf.data import DataOptions, ModelInterface, Pool, pool_from_options
from tritonsmith.perf.data.distribution import Distribution, Span
from tritonsmith.perf.data.repeat import Repeat, check_distinct
from tritonsmith.perf.load.answers import Validation
from tritonsmith.perf.load.counting import Counted, Counting, Seen
from tritonsmith.perf.load.memory_regions import check_cuda
from tritonsmith.perf.load.result import LoadTestResult, result_of
from tritonsmith.perf.load.runs.generator import ClientOptions, Progress, SequenceOptions, generate
from tritonsmith.perf.load.runs.plan import Repeating
from tritonsmith.perf.load.served_model import interface_of, members_of
from tritonsmith.perf.load.shared_memory import shared_target
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import Closed, Load, Replay
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.server.stubs.deaths import Stubs
from tritonsmith.perf.usage.resources import sample_resources, server_pid_at
from tritonsmith.perf.wire.api import ServerApi
from tritonsmith.perf.wire.generate.target import GenerateTarget
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload, Parameter, digest_of_inputs
from tritonsmith.perf.wire.rest import RestApi
from tritonsmith.perf.wire.target import Target

_SEQUENCE_LENGTH = Span(20, 20)


@dataclass(frozen=True, slots=True)
class LoadTest:
    """What is asked.

    model:      empty means the only one that the server has ready.
    duration_s, requests: as in perf.load.runs.generator.generate.
    protocol:   None: http, or grpc when it streams.
    streaming:  for decoupled models: gRPC streams, or generate_stream over http.
    sequences:  the requests are those of sequences, `load.concurrency` at once.
    sequence_length: requests in one; None: as the data's streams have, else 20.
    shared_memory: where tensors travel; cuda_device: in which GPU's memory.
    output_bytes: room there for an output whose size the model does not fix.
    ca_file, verify, cert_file, key_file: of https and grpcs, see perf.wire.target.Tls.
    parameters: request parameters (priority, timeout …) of every request.
    validate_every: one answer in so many is compared with the data's outputs, where they have any; 0 none.
    repeat:     how requests repeat, see perf.data.repeat; None: those of the pool are sent again and again.
    goodput_ms: limits that a request has to keep to count as good, see perf.stats.goodput.
    pid:        the server's process, when the caller has started it; else it is looked for by its port.
    metrics_url: HOST:PORT of its metrics; empty means the port after gRPC's usual one, HTTP's + 2.
    """

    model: str
    load: Load
    version: str = ""
    duration_s: float | None = 5.0
    requests: int | None = None
    warmup_s: float = 0.5
    data: DataOptions = field(default_factory=DataOptions)
    protocol: Literal["http", "grpc"] | None = None
    grpc_url: str = ""
    streaming: bool = False
    sequences: bool = False
    sequence_length: Distribution | None = None
    shared_memory: Literal["none", "system", "cuda"] = "none"
    cuda_device: int = 0
    output_bytes: int = 102_400
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | None = None
    verify: bool = True
    cert_file: str | None = None
    key_file: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    timeout_s: float = 30.0
    max_connections: int = 1024
    processes: int = 1
    validate_every: int = 100
    repeat: Repeat | None = None
    goodput_ms: Mapping[str, float] = field(default_factory=dict)
    pid: int | None = None
    metrics_url: str = ""

    @property
    def asks_over(self) -> Literal["http", "grpc"]:
        """The protocol that is meant."""
        return self.protocol or ("grpc" if self.streaming else "http")


def fitted(test: LoadTest, where: str) -> LoadTest:
    """The test with what its load and the server's address leave no choice in.

    A replay has its own length and no warm-up; a number of requests takes the time it takes; a ramp is warm-up; gRPC's
    URLs are asked over gRPC; a length of sequences means sequences.
    """
    is_replay, ramp_s = isinstance(test.load, Replay), getattr(test.load, "ramp_s", 0.0)
    return replace(
        test,
        duration_s=None if test.requests is not None or is_replay else test.duration_s,
        warmup_s=0.0 if is_replay else max(test.warmup_s, ramp_s),
        protocol="grpc" if where.startswith("grpc") else test.protocol,
        sequences=test.sequences or test.sequence_length is not None,
    )


def run_load_test(
    url: str, test: LoadTest, on_progress: Callable[[Progress], None] | None = None
) -> LoadTestResult:
    """Put the load on the server at its URL (http, or grpc for one without HTTP). Failed requests are in the
    records, not raised.

    Raises ServerError when nothing answers, TrialError when the model is not served, UsageError when the
    data or the options do not fit it.
    """
    check_options(test)
    api, target = server_of(url, test)
    about_server = api.server_metadata()
    model = interface_of(api, test.model, test.version)
    _check_model(model, test)
    pool = pool_from_options(model, test.data, parameters=test.parameters)
    payloads: Sequence[InferPayload] = pool.payloads
    environment = {**environment_of(about_server), "data": digest_of_inputs(payloads)}
    repeating = None
    if test.repeat is not None:
        check_distinct(test.repeat, payloads)
        repeating = Repeating(test.repeat, test.data.seed)
    metrics_url = test.metrics_url or metrics_url_of(url)
    counting = Counting(api, model.name, model.version, metrics_url, members_of(api, model))
    with ExitStack() as stack:
        if test.shared_memory != "none":
            shared = shared_target(
                api,
                target,
                model,
                payloads,
                kind=test.shared_memory,
                device=test.cuda_device,
                slots=_slots(test),
                processes=test.processes,
                output_bytes=test.output_bytes,
            )
            target, payloads = stack.enter_context(shared)
        options = replace(
            client_options(test),
            validation=_validation(test, payloads),
            sequences=_sequences(test, model, pool),
            repeat=repeating,
        )
        return measured(test, target, payloads, options, counting, metrics_url, environment, on_progress)


def client_options(test: LoadTest) -> ClientOptions:
    """How the client behaves, whatever it sends."""
    return ClientOptions(
        timeout_s=test.timeout_s, max_connections=test.max_connections, processes=test.processes
    )


def measured(
    test: LoadTest,
    target: Target,
    payloads: Sequence[InferPayload],
    options: ClientOptions,
    counting: Counting | str,
    metrics_url: str,
    environment: Mapping[str, Any],
    on_progress: Callable[[Progress], None] | None,
    complete: Callable[[RequestRecords], RequestRecords] = lambda records: records,
) -> LoadTestResult:
    """The load on a target whose requests are made, and what was seen of the server meanwhile.

    counting: of a Triton; else why its counters are not read. metrics_url: HOST:PORT, or empty. complete: adds to the
    records what is to be known before they are judged.
    """
    before: list[Counted | None] = []
    pid, why_no_pid = (test.pid, "") if test.pid is not None else server_pid_at(target.url)
    stubs = None if pid is None else Stubs(pid)
    if stubs is not None:
        stubs.look()
    with sample_resources(pid, metrics_url, why_no_pid=why_no_pid) as sampled:

        def at_measure_start() -> None:
            if isinstance(counting, Counting):
                before.append(counting.now())
            sampled.restart()

        if not test.warmup_s:
            at_measure_start()  # before the first request, not beside it
        records = generate(
            target,
            test.load,
            payloads,
            warmup_s=test.warmup_s,
            duration_s=test.duration_s,
            requests=test.requests,
            seed=test.data.seed,
            options=options,
            environment=environment,
            on_progress=on_progress,
            at_measure_start=at_measure_start if test.warmup_s else None,
        )
    seen = (
        Seen(None, counting)
        if isinstance(counting, str)
        else counting.since(before[0] if before else None, records)
    )
    if test.goodput_ms:
        limits_ns = {name: round(limit * 1e6) for name, limit in test.goodput_ms.items()}
        records = replace(records, header=replace(records.header, goodput_limits_ns=limits_ns))
    records = complete(records)
    died = [] if stubs is None else [death.sentence for death in stubs.settled()]
    return result_of(records, seen.server, seen.why, sampled.use, tuple(died), seen.members)


# What is asked → what is put together.


def check_options(test: LoadTest) -> None:
    """UsageError or ToolError for what does not go together, before any server is asked."""
    if test.shared_memory == "cuda":
        check_cuda(test.cuda_device)
    if test.repeat is not None and (test.sequences or test.shared_memory != "none"):
        raise UsageError(
            "requests that do not repeat are made one by one, which those of sequences and those in shared memory are not",
            code="bad_repeat",
            seen=f"--repeat {test.repeat}",
            fix="leave out --repeat, or --sequences and --shared-memory",
        )
    if not test.streaming or test.asks_over == "grpc":
        return
    # Triton's generate extension hands parameters to the model and sets none of its own.
    asked = [name for name in ("sequence_id", "priority", "timeout") if name in test.parameters]
    asked += ["sequences"] if test.sequences else []
    asked += ["shared memory"] if test.shared_memory != "none" else []
    if asked:
        raise UsageError(
            "generate_stream carries no sequences, priority, timeout or shared memory",
            code="bad_streaming",
            seen=", ".join(asked),
            fix="--protocol grpc",
        )


def _takes_text(model: ModelInterface) -> bool:
    return any(spec.name == "text_input" for spec in model.inputs)


def _check_model(model: ModelInterface, test: LoadTest) -> None:
    if model.decoupled and not test.streaming:
        raise UsageError(
            f"`{model.name}` is decoupled: a request may get any number of responses",
            code="streaming_needed",
            fix="--tokens, which loads a language model by tokens" if _takes_text(model) else "--streaming",
        )
    vague = [spec.name for spec in model.inputs if spec.wire_shape.count(-1) > 1]
    if vague and test.streaming and test.asks_over == "http":
        raise UsageError(
            f"input `{vague[0]}` has several sizes that vary, and generate_stream sends none",
            code="bad_streaming",
            fix="--protocol grpc",
        )
    if model.sequence_ids and not test.sequences and "sequence_id" not in test.parameters:
        raise UsageError(
            f"`{model.name}` takes sequences of requests", code="sequences_needed", fix="--sequences 8"
        )


def _sequences(test: LoadTest, model: ModelInterface, pool: Pool) -> SequenceOptions | None:
    if not test.sequences:
        return None
    length = test.sequence_length or (None if pool.streams else _SEQUENCE_LENGTH)
    return SequenceOptions(length, pool.streams, text_ids=model.sequence_ids == "text")


def _slots(test: LoadTest) -> int:
    """Requests in flight at most, in each process."""
    if isinstance(test.load, Closed):
        return -(-test.load.most // test.processes)
    return test.max_connections


def metrics_url_of(url: str) -> str:
    """HOST:PORT where a Triton at this URL usually has its metrics; empty behind TLS, and where no port is named."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return ""  # Triton's own HTTP has no TLS: behind what speaks it, the metrics are not at a port beside
    usual = 1 if parts.scheme.startswith("grpc") else 2
    return host_port(parts.hostname, parts.port + usual) if parts.hostname and parts.port else ""


def server_of(url: str, test: LoadTest) -> tuple[ServerApi, Target]:
    """(what is asked once, the measured side) of the server at an http, https, grpc or grpcs URL."""
    if url.startswith(("grpc://", "grpcs://")):
        from tritonsmith.perf.wire.grpc_api import GrpcApi

        if test.asks_over == "http":
            raise UsageError("a gRPC URL is asked over gRPC", code="bad_url", fix="--protocol grpc")
        target = _grpc_target(url, test)
        return GrpcApi(target), target
    rest = HttpTarget(url, headers=test.headers, **tls_of(test))
    if test.asks_over == "http":
        kind = GenerateTarget if test.streaming else HttpTarget
        return RestApi(rest), kind(url, headers=test.headers, **tls_of(test))
    at = rest.address()
    scheme = "grpcs" if at.scheme == "https" else "grpc"
    beside = f"{scheme}://{host_port(at.host, (at.port or 8000) + 1)}"
    return RestApi(rest), _grpc_target(test.grpc_url or beside, test)


def _grpc_target(url: str, test: LoadTest) -> Any:
    from tritonsmith.perf.wire.grpc import GrpcTarget

    headers = {name.lower(): value for name, value in test.headers.items()}
    return GrpcTarget(url, headers, streaming=test.streaming, **tls_of(test))


def tls_of(test: LoadTest) -> dict[str, Any]:
    """A target's fields of perf.wire.target.Tls."""
    return {name: getattr(test, name) for name in ("ca_file", "verify", "cert_file", "key_file")}


def _validation(test: LoadTest, payloads: Sequence[InferPayload]) -> Validation | None:
    if not test.validate_every or all(payload.expected is None for payload in payloads):
        return None
    return Validation(every=test.validate_every)


def environment_of(about_server: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers depend on besides the load: both ends' software and the client's machine."""
    return {
        "tritonsmith": __version__,
        "server": f"{about_server.get('name', '')} {about_server.get('version', '')}".strip(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": this_processor(),
        "cpus": os.cpu_count(),
        "load_average_1min": os.getloadavg()[0],
    }


@dataclass(frozen=True, slots=True)
class ServedAt:
    """Where a server answers, and its process when we started it; what is not known is empty."""

    http_url: str
    grpc_url: str = ""
    metrics_url: str = ""
    pid: int | None = None
    server: Server | None = None

    def known_to(self, test: LoadTest) -> LoadTest:
        """The test, told what is known of the server."""
        grpc_url = test.grpc_url or self.grpc_url
        metrics_url = test.metrics_url or self.metrics_url
        return replace(test, grpc_url=grpc_url, metrics_url=metrics_url, pid=self.pid)


@contextmanager
def server_at(where: str | Server, log_path: Path | None = None) -> Iterator[ServedAt]:
    """A URL or a running server as it is, or an embedded server's on this model repository while the block runs."""
    if isinstance(where, Server):
        yield _served_at(where)
        return
    if is_bracketed(where):  # [::1]:8000 is nothing else
        where = f"http://{where}"
    if "://" in where:
        yield ServedAt(where)
        return
    directory = Path(where)
    if not directory.is_dir():
        refuse_bare_ipv6(where)
        raise UsageError(
            "neither a URL nor a model repository",
            code="no_target",
            seen=where,
            valid=["http://HOST:8000", "grpc://HOST:8001", "a model repository's directory"],
            fix=f"http://{where}" if re.fullmatch(r"[\w.-]+:\d+", where) else None,
        )
    from tritonsmith.perf.server.launch import ServerSpec, launch

    with launch(ServerSpec(kind="embedded", repositories=(directory,), log_path=log_path)) as server:
        yield _served_at(server)


def _served_at(server: Server) -> ServedAt:
    return ServedAt(f"http://{server.http_url}", server.grpc_url, server.metrics_url, server.pid, server)
