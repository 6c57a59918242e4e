"""Requests that do not repeat: every one its own bytes, valid on the wire, and near enough to what it was made from."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.onnx_models import affine
from tests.perf.conftest import LiveTriton
from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data.repeat import Repeat, check_distinct
from tritonsmith.perf.load.runs.generator import ClientOptions, generate
from tritonsmith.perf.load.runs.plan import Repeating
from tritonsmith.perf.records.schedule import Closed, Open
from tritonsmith.perf.server import control
from tritonsmith.perf.wire.grpc import GrpcTarget
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload, array_from_raw, tensor_from_array
from tritonsmith.perf.wire.per_request.varied_bytes import ENOUGH, VariedRequests

RNG = np.random.default_rng(0)
HTTP, GRPC = HttpTarget("http://h:1"), GrpcTarget("grpc://h:1")
COUNT = 10_000


def texts(*values: str) -> Any:
    return np.array([v.encode() for v in values], object)


def pool(*inputs: Any, types: tuple[str | None, ...] = ()) -> list[InferPayload]:
    """A payload for each of the inputs' first index."""
    kinds = types or (None,) * len(inputs)
    return [
        InferPayload("m", tuple(tensor_from_array(f"x{i}", a, k) for i, (a, k) in enumerate(zip(each, kinds, strict=True))))
        for each in zip(*inputs, strict=True)
    ]  # fmt: skip


def inputs_of(target: Any, request: bytes) -> list[Any]:
    """What a server reads from it."""
    if target is HTTP:
        import json

        head, _, body = request.partition(b"\r\n\r\n")
        fields = dict(line.split(": ") for line in head.decode().split("\r\n")[1:])
        assert int(fields["Content-Length"]) == len(body)
        length = int(fields["Inference-Header-Content-Length"])
        header, at, arrays = json.loads(body[:length]), length, []
        for tensor in header["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            arrays.append(array_from_raw(tensor["datatype"], tensor["shape"], body[at : at + size]))
            at += size
        assert at == len(body)
        return arrays
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest.FromString(request[5:])
    assert int.from_bytes(request[1:5], "big") == len(request) - 5
    return [
        array_from_raw(t.datatype, t.shape, raw)
        for t, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    ]


def near(got: Any, want: Any, rtol: float, atol: float = 2**-9) -> bool:
    return bool(np.allclose(got.astype(float), want.astype(float), rtol=rtol, atol=atol))


FLOATS = RNG.uniform(0, 1, (32, 1, 64))
IDS, MASK = RNG.integers(5, 30_000, (32, 1, 16)), RNG.integers(0, 2, (32, 1, 16))
CASES: dict[str, tuple[list[InferPayload], Any]] = {
    "FP32": (pool(FLOATS.astype(np.float32)), lambda got, p: near(got[0], FLOATS[p], 1e-4)),
    "FP64": (pool(FLOATS), lambda got, p: near(got[0], FLOATS[p], 1e-9)),
    "FP16": (pool(FLOATS.astype(np.float16)), lambda got, p: near(got[0], FLOATS[p], 5e-3)),
    "BF16": (
        pool(FLOATS.astype(np.float32), types=("BF16",)),
        lambda got, p: near((got[0].astype(np.uint32) << 16).view(np.float32), FLOATS[p], 2e-2),
    ),
    "four FP32": (pool(FLOATS[:, :, :4].astype(np.float32)), lambda got, p: near(got[0], FLOATS[p, :, :4], 2e-3)),
    "zeros": (pool(np.zeros((3, 1, 64), np.float32)), lambda got, p: 0 < got[0].max() < 2e-3 > np.abs(got[0]).max()),
    "infinite": (
        pool(np.where(np.arange(64) % 2, FLOATS, np.inf).astype(np.float32)),
        lambda got, p: np.isinf(got[0]).sum() == 32 and not np.isnan(got[0]).any(),
    ),
    "strings": (
        pool(np.array([[texts(f"one {i}", "two")] for i in range(32)])),
        lambda got, p: [s.strip().decode() for s in got[0][0].ravel()] == [f"one {p}", "two"],
    ),
    "ids and mask": (
        pool(MASK, IDS),
        lambda got, p: (got[0] == MASK[p]).all() and got[1].min() >= 5 and got[1].max() < 30_000,
    ),
    "ids of several lengths": (
        [pool(IDS[i : i + 1, :, : 4 + i])[0] for i in range(8)],
        lambda got, p: got[0].shape == (1, 4 + p),
    ),
    "small whole numbers": (
        pool(RNG.integers(-3, 4, (32, 1, 3)), RNG.integers(0, 9, (32, 1, 3)).astype(np.uint8)),
        lambda got, p: got[0].min() >= -3 and got[0].max() <= 3 and got[1].max() <= 8,
    ),
    "bits": (pool(RNG.integers(0, 2, (8, 1, 64)).astype(bool)), lambda got, p: set(np.unique(got[0])) <= {False, True}),
    "one value": (pool(FLOATS[:, :, :1].astype(np.float32)), lambda got, p: 0 < got[0].max() < 1),
}  # fmt: skip


@pytest.mark.parametrize("target", [HTTP, GRPC], ids=["http", "grpc"])
@pytest.mark.parametrize("case", list(CASES))
def test_no_two_requests_are_the_same_and_each_is_read_as_what_it_was_made_from(
    case: str, target: Any
) -> None:
    payloads, holds = CASES[case]
    varied = VariedRequests(target.encode, payloads, range(len(payloads)), first=ENOUGH - 17)
    made = list(itertools.islice(varied.requests(Repeat().blocks(0)), COUNT))
    assert len({request for _, request in made}) == COUNT
    for payload, request in made[:: COUNT // 97]:
        assert holds(inputs_of(target, request), payload), inputs_of(target, request)
    # A number is a request: the same one again, wherever it stands.
    again = VariedRequests(target.encode, payloads, range(len(payloads)), first=ENOUGH - 17)
    assert list(itertools.islice(again.requests(Repeat().blocks(0)), 300)) == made[:300]


def test_what_repeats_is_the_same_to_the_byte_and_the_rest_is_not() -> None:
    blocks = list(itertools.islice(Repeat(0.3).blocks(7), 20))
    varied = VariedRequests(HTTP.encode, CASES["FP32"][0], range(32))
    requests = [r for _, r in itertools.islice(varied.requests(iter(blocks)), 20 * 256)]
    numbers = np.concatenate(blocks).tolist()
    assert len(set(zip(numbers, requests, strict=True))) == len(set(numbers)) == len(set(requests))


@pytest.mark.parametrize(
    ("payloads", "repeat"),
    [
        (pool(np.zeros((4, 1, 64), np.int64)), Repeat()),
        (pool(RNG.integers(0, 2, (32, 1, 4))), Repeat(0.3)),
        (pool(IDS[:, :, :1]), Repeat(0.0, 1.1, 50_000)),
    ],
)
def test_too_few_different_requests_are_refused_with_their_number(
    payloads: list[InferPayload], repeat: Repeat
) -> None:
    with pytest.raises(UsageError, match=r"only [\d,]+ different requests") as error:
        check_distinct(repeat, payloads)
    assert "--range" in str(error.value.fix) and "--repeat pool" in str(error.value.fix)


@pytest.mark.parametrize(("load", "processes"), [(Closed(4), 1), (Closed(4), 2), (Open(400.0), 1)])
def test_a_load_of_requests_that_do_not_repeat_is_answered_and_recorded(load: Any, processes: int) -> None:
    payloads = pool(FLOATS[:, :, :4].astype(np.float32))
    payloads = [
        InferPayload("m", (p.inputs[0].__class__("x", "FP32", (1, 4), p.inputs[0].data),)) for p in payloads
    ]
    with fake_server() as server:
        records = generate(
            HttpTarget(server.url), load, payloads, requests=200,
            options=ClientOptions(processes=processes, repeat=Repeating(Repeat(), 0)),
        )  # fmt: skip
    assert records.ok.sum() == len(records) == 200
    assert records.header.repeat == "0"
    assert len(set(records.payload_index.tolist())) == 32


@pytest.mark.server
@pytest.mark.nightly
def test_a_request_of_its_own_costs_the_client_less_than_a_fifth_more(triton: LiveTriton) -> None:
    triton.load("cheap", affine(["batch", 64]))
    payloads = [replace(p, model="cheap", inputs=(replace(p.inputs[0], name="x"),)) for p in CASES["FP32"][0]]
    cpu_us: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(4):
        for varies in (False, True):
            records = generate(
                HttpTarget(triton.http_url), Closed(8), payloads, warmup_s=0.2, duration_s=1.0,
                options=ClientOptions(repeat=Repeating(Repeat(), 0) if varies else None),
            )  # fmt: skip
            assert not records.failures()
            cpu_us[varies].append(records.header.client_cpu_s / len(records) * 1e6)
    control.unload_model(triton.http_url, "cheap")
    assert min(cpu_us[True]) < 1.2 * min(cpu_us[False]), cpu_us
