"""A pool's tensors in shared memory that the server has registered; answers read back from there.

Over shared memory a request is a few hundred bytes that name regions, whatever its tensors weigh. Format:
Triton's shared-memory extensions (docs/protocol/extension_shared_memory.md). Each request in flight has an
output area of its own, so its request differs from slot to slot and is encoded when it is first sent.
A decoupled model's inputs alone travel that way: a request names one place for each output, which its
responses would overwrite.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.builder.base.text.console import note
from tritonsmith.perf.data import ModelInterface
from tritonsmith.perf.load.memory_regions import Kind, Region, registered_region
from tritonsmith.perf.wire.api import ServerApi
from tritonsmith.perf.wire.payload import Answer, Array, InferPayload, SharedSlice, array_from_raw
from tritonsmith.perf.wire.target import Closed, Connection, Done, Responses, Target

_ALIGN_BYTES = 64
_AREAS_LIMIT_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Output:
    """Where an output lies in an area."""

    name: str
    offset_bytes: int
    size_bytes: int


class _Token(bytes):
    """A payload's number: it stands for the request until the slot, and so the area, is known."""


class SharedTarget:
    """A target whose requests name regions; implements perf.wire.target.Target.

    areas:      output areas of this process, from first_area on. Beyond so many slots two requests may share
                one; their answers are then not given for checks.
    """

    def __init__(
        self,
        inner: Target,
        outputs: Sequence[Output],
        region: Region,
        areas: int,
        first_area: int = 0,
    ) -> None:
        self._inner = inner
        self._outputs = outputs
        self._region = region
        self.areas = areas
        self.first_area = first_area
        self.area_bytes = _area_bytes(outputs)
        self._payloads: list[InferPayload] = []
        self._encoded: dict[tuple[int, int], bytes] = {}

    @property
    def url(self) -> str:
        """See Target."""
        return self._inner.url

    @property
    def protocol(self) -> str:
        """See Target."""
        return self._inner.protocol

    @property
    def streams_per_connection(self) -> int:
        """See Target."""
        return self._inner.streams_per_connection

    @property
    def streaming(self) -> bool:
        """See Target."""
        return self._inner.streaming

    @property
    def differs_by_slot(self) -> bool:
        """See Target."""
        return bool(self._outputs)

    def of_process(self, part: int, parts: int) -> SharedTarget:
        """See Target: processes keep to areas of their own."""
        areas = self.areas // parts
        first_area = self.first_area + part * areas
        return SharedTarget(self._inner, self._outputs, self._region, areas, first_area)

    def encode(self, payload: InferPayload, slot: int | None = None) -> bytes:
        """See Target.encode; without a slot, the payload's number."""
        if slot is not None:
            return self._in_area(payload, self.area_of(slot))
        self._payloads.append(payload)
        return _Token((len(self._payloads) - 1).to_bytes(4, "big"))

    def area_of(self, slot: int) -> int:
        """Where the outputs of this slot's request go."""
        return self.first_area + slot % self.areas

    def request(self, token: bytes, slot: int) -> bytes:
        """What stands for a payload → the request whose outputs go to this slot's area."""
        area = self.area_of(slot) if self._outputs else 0
        key = (int.from_bytes(token, "big"), area)
        made = self._encoded.get(key)
        if made is None:
            made = self._encoded[key] = self._in_area(self._payloads[key[0]], area)
        return made

    def _in_area(self, payload: InferPayload, area: int) -> bytes:
        base = area * self.area_bytes
        slices = {
            o.name: SharedSlice(self._region.name, base + o.offset_bytes, o.size_bytes) for o in self._outputs
        }
        return self._inner.encode(replace(payload, shared_outputs=slices))

    def answer(self, raw: bytes, slot: int) -> bytes:
        """A kept answer with the area as it is now in front of it."""
        if not self._outputs:
            return raw
        return self._region.read(self.area_of(slot) * self.area_bytes, self.area_bytes) + raw

    def decode(self, answer: bytes) -> Answer:
        """See Target.decode."""
        if not self._outputs:
            return self._inner.decode(answer)
        decoded = self._inner.decode(answer[self.area_bytes :])
        outputs = dict(decoded.outputs)
        for output in self._outputs:
            if output.name in decoded.shared:
                datatype, shape = decoded.shared[output.name]
                data = answer[output.offset_bytes : output.offset_bytes + output.size_bytes]
                outputs[output.name] = _array_at_front(datatype, shape, data)
        return replace(decoded, outputs=outputs)

    async def connect(self, done: Done, closed: Closed) -> Connection:
        """See Target.connect."""
        connection = _SharedConnection(self, done)
        connection.inner = await self._inner.connect(connection.done, lambda _: closed(connection))
        return connection


class _SharedConnection:
    """A connection that puts each request's output area into it."""

    inner: Connection

    def __init__(self, target: SharedTarget, done: Done) -> None:
        self._target = target
        self._done = done

    @property
    def open(self) -> bool:
        return self.inner.open

    @property
    def received_bytes(self) -> int:
        return self.inner.received_bytes

    def send(self, slot: int, request: bytes, keep: bool) -> None:
        if type(request) is _Token:
            request = self._target.request(request, slot)
        self.inner.send(slot, request, keep and slot < self._target.areas)

    def done(
        self,
        slot: int,
        first_byte_ns: int,
        end_ns: int,
        reason: str | None,
        answer: bytes | None,
        responses: Responses | None = None,
    ) -> None:
        if answer is not None and reason is None:
            answer = self._target.answer(answer, slot)
        self._done(slot, first_byte_ns, end_ns, reason, answer, responses)

    def cancel(self, slot: int, reason: str) -> None:
        self.inner.cancel(slot, reason)

    def close(self) -> None:
        self.inner.close()


@contextmanager
def shared_target(
    api: ServerApi,
    target: Target,
    model: ModelInterface,
    payloads: Sequence[InferPayload],
    *,
    kind: Kind = "system",
    device: int = 0,
    slots: int,
    processes: int = 1,
    output_bytes: int,
) -> Iterator[tuple[Target, list[InferPayload]]]:
    """(target, payloads) over shared memory while the block runs; then the server lets go and the memory goes.

    kind, device: of this machine's memory, or of this GPU's.
    slots:        requests in flight at most, in each of so many client processes.
    output_bytes: room for an output whose size the model does not fix.
    """
    outputs = [] if model.decoupled else _layout(model, payloads, output_bytes)
    if model.decoupled:
        note(f"`{model.name}` is decoupled: inputs are in shared memory, responses travel over the wire")
    area_bytes = _area_bytes(outputs)
    each = max(1, min(slots, _AREAS_LIMIT_BYTES // area_bytes // processes))
    placed, data = _place(payloads, name := f"tritonsmith-load-{os.getpid()}-{secrets.token_hex(4)}-in")
    with registered_region(api, kind, name, len(data), device) as inputs:
        inputs.write(data)
        out = name.removesuffix("in") + "out"
        with registered_region(api, kind, out, each * processes * area_bytes, device) as region:
            yield SharedTarget(target, outputs, region, each * processes), placed


def _place(payloads: Sequence[InferPayload], region: str) -> tuple[list[InferPayload], bytes]:
    """Payloads that name places in a region instead of holding their inputs, and what lies there."""
    placed, data = [], bytearray()
    for payload in payloads:
        tensors = []
        for tensor in payload.inputs:
            slice_ = SharedSlice(region, len(data), len(tensor.data))
            tensors.append(replace(tensor, data=b"", shared=slice_))
            data += tensor.data.ljust(_aligned(len(tensor.data)), b"\0")
        placed.append(replace(payload, inputs=tuple(tensors)))
    return placed, bytes(data)


def _layout(model: ModelInterface, payloads: Sequence[InferPayload], output_bytes: int) -> list[Output]:
    rows = max(p.batch_size for p in payloads) if model.max_batch_size else 1
    outputs, at = [], 0
    for spec in model.outputs:
        size = _fixed_bytes(spec, rows) or output_bytes
        outputs.append(Output(spec.name, at, size))
        at += _aligned(size)
    return outputs


def _fixed_bytes(spec: TensorSpec, rows: int) -> int:
    """An output's bytes; 0 when its shape or its elements vary."""
    if -1 in spec.wire_shape:
        return 0
    return rows * math.prod(spec.wire_shape) * spec.dtype.itemsize_bytes


def _area_bytes(outputs: Sequence[Output]) -> int:
    return sum(_aligned(output.size_bytes) for output in outputs) or _ALIGN_BYTES


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGN_BYTES) * _ALIGN_BYTES


def _array_at_front(datatype: str, shape: tuple[int, ...], data: bytes) -> Array:
    """The tensor that begins the bytes; what lies behind it belongs to nothing."""
    count = math.prod(shape)
    size = count * dtype_from_kserve(datatype).itemsize_bytes
    if datatype == "BYTES":
        size = 0
        for _ in range(count):
            if size + 4 > len(data):
                raise ValueError("a BYTES tensor ends outside its shared memory")
            size += 4 + int.from_bytes(data[size : size + 4], "little")
    return array_from_raw(datatype, shape, data[:size])
