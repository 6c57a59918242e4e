"""(live server, samples with the source's answers) → LiveCheck: its answers over HTTP and gRPC against the source's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tritonsmith.builder.actions.accuracy.accuracy import (
    AccuracyReport,
    Bounds,
    compare,
    report_from_deviations,
)
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet
from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.builder.base.tensors import dtype_from_numpy

if TYPE_CHECKING:
    import numpy as np

Protocol = Literal["http", "grpc"]


@dataclass(frozen=True, slots=True)
class LiveCheck:
    """One model held against its source.

    report:      worst deviation an output, over both protocols.
    batch_sizes: sizes of the requests, where the model batches.
    requests:    how many answers were compared, the concurrent ones among them.
    """

    model: str
    report: AccuracyReport
    batch_sizes: tuple[int, ...]
    requests: int

    @property
    def relative_l2(self) -> float:
        """The worst relative L2 of any answer."""
        return self.report.worst.relative_l2 if self.report.worst else 0.0


def check_live(
    model: str,
    samples: SampleSet,
    *,
    http_url: str,
    grpc_url: str,
    clients: int = 64,
    bounds: Bounds | None = None,
) -> LiveCheck:
    """Sends every sample over HTTP and gRPC, then the samples from `clients` clients at once, and compares all answers.

    Under concurrency each answer must be its own request's: with different inputs a swapped answer is far off.
    TrialError when the server refuses a request.
    """
    runs = [*_alone("http", model, samples, http_url), *_alone("grpc", model, samples, grpc_url)]
    runs += _together(model, samples, http_url, clients)
    deviations = [
        d
        for runtime, sample, answers in runs
        for d in compare(answers, sample.outputs, runtime=runtime, sample=sample.label, bounds=bounds)
    ]
    sizes = sorted({next(iter(s.inputs.values())).shape[0] for s in samples.samples if _has_rows(s)})
    return LiveCheck(model, report_from_deviations(deviations, len(samples.samples)), tuple(sizes), len(runs))


def _has_rows(sample: Sample) -> bool:
    return bool(sample.inputs) and next(iter(sample.inputs.values())).ndim > 0


_Run = tuple[str, Sample, Mapping[str, Any]]


def _alone(protocol: Protocol, model: str, samples: SampleSet, url: str) -> Iterable[_Run]:
    with open_client(protocol, url, 1) as client:
        return [(f"Triton over {protocol}", s, ask(protocol, client, model, s)) for s in samples.samples]


def _together(model: str, samples: SampleSet, url: str, clients: int) -> Iterable[_Run]:
    """`clients` requests in flight at once, one thread and connection each, so that Triton batches across them.

    They are single rows where the samples have rows: small enough to meet in one batch, and different from
    one another, so that an answer given to the wrong request shows.
    """
    different = [row for sample in samples.samples for row in _rows(sample)]
    chosen = [different[i % len(different)] for i in range(clients)]

    def one(sample: Sample) -> _Run:
        with open_client("http", url, 1) as client:
            return f"Triton with {clients} clients", sample, ask("http", client, model, sample)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, chosen))


def _rows(sample: Sample) -> list[Sample]:
    """A batch as its single rows; the sample itself when its tensors do not share a first dimension."""
    tensors = [*sample.inputs.values(), *sample.outputs.values()]
    count = tensors[0].shape[0] if tensors and tensors[0].ndim else 0
    if count < 2 or any(t.ndim == 0 or t.shape[0] != count for t in tensors):
        return [sample]
    return [
        Sample(
            {n: t[i : i + 1] for n, t in sample.inputs.items()},
            {n: t[i : i + 1] for n, t in sample.outputs.items()},
            f"{sample.label}, row {i}",
        )
        for i in range(count)
    ]


def open_client(protocol: Protocol, url: str, concurrency: int) -> Any:
    """tritonclient's client of that protocol, to be used in a `with`."""
    if protocol == "http":
        import tritonclient.http as http
        from gevent.hub import Hub

        if KeyboardInterrupt not in Hub.NOT_ERROR:  # gevent prints a Ctrl-C before it passes it on
            Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)
        return http.InferenceServerClient(
            url, concurrency=concurrency, network_timeout=120.0, connection_timeout=120.0
        )
    import tritonclient.grpc as grpc

    return grpc.InferenceServerClient(url)


def ask(
    protocol: Protocol, client: Any, model: str, sample: Sample, **parameters: Any
) -> dict[str, np.ndarray[Any, Any]]:
    """The server's answer to one sample: its outputs by name.

    parameters: further arguments of tritonclient's infer, such as sequence_id. TrialError when it is refused,
    ServerError when nobody answers.
    """
    if protocol == "http":
        import tritonclient.http as api
    else:
        import tritonclient.grpc as api
    from tritonclient.utils import InferenceServerException

    inputs = []
    for name, array in sample.inputs.items():
        tensor = api.InferInput(name, list(array.shape), dtype_from_numpy(array.dtype.name).kserve)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    wanted = [api.InferRequestedOutput(name) for name in sample.outputs]
    try:
        result = client.infer(model, inputs, outputs=wanted, **parameters)
    except InferenceServerException as error:
        raise TrialError(
            f"Triton refused a request to {model!r} over {protocol}: {error.message()}",
            code="request_refused",
            seen=sample.label,
        ) from None
    except OSError as error:  # a connection refused, reset or silent, which tritonclient passes on as it is
        raise ServerError(
            f"no answer to a request to {model!r} over {protocol}: {error}",
            code="server_unreachable",
            seen=sample.label,
        ) from error
    return {name: result.as_numpy(name) for name in sample.outputs}
