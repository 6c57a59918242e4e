"""A pool's tensors in system shared memory that the server has registered; answers read back from there.

Over shared memory a request is a few hundred bytes that name regions, whatever its tensors weigh. Format:
Triton's system shared-memory extension (docs/protocol/extension_shared_memory.md). Each request in flight has
an output area of its own, so its request differs from slot to slot and is encoded when it is first sent.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from builder.console import note
from builder.errors import ServerError, ToolError, TrialError, UsageError
from builder.tensors import TensorSpec, dtype_from_kserve
from perf.data import ModelInterface
from perf.wire.api import ServerApi
from perf.wire.payload import Answer, Array, InferPayload, SharedSlice, array_from_raw
from perf.wire.target import Closed, Connection, Done, Responses, Target

_ALIGN_BYTES = 64
_AREAS_LIMIT_BYTES = 512 << 20
_LET_GO_S = 10.0


@dataclass(frozen=True, slots=True)
class Output:
    """Where an output lies in an area."""

    name: str
    offset_bytes: int
    size_bytes: int


class SharedTarget:
    """A target whose requests name regions; implements perf.wire.target.Target.

    Beyond `areas` slots two requests may share an area; their answers are then not given for checks.
    """

    def __init__(
        self, inner: Target, outputs: Sequence[Output], region: SharedMemory, region_name: str, areas: int
    ) -> None:
        self._inner = inner
        self._outputs = outputs
        self._region = region
        self._region_name = region_name
        self.areas = areas
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
        return False

    def encode(self, payload: InferPayload) -> bytes:
        """The payload's number; the request is made when the slot is known."""
        self._payloads.append(payload)
        return (len(self._payloads) - 1).to_bytes(4, "big")

    def request(self, token: bytes, area: int) -> bytes:
        """The request whose outputs go to this area."""
        key = (int.from_bytes(token, "big"), area)
        made = self._encoded.get(key)
        if made is None:
            base = area * self.area_bytes
            slices = {
                o.name: SharedSlice(self._region_name, base + o.offset_bytes, o.size_bytes)
                for o in self._outputs
            }
            made = self._inner.encode(replace(self._payloads[key[0]], shared_outputs=slices))
            self._encoded[key] = made
        return made

    def answer(self, raw: bytes, area: int) -> bytes:
        """A kept answer with the area as it is now in front of it."""
        base = area * self.area_bytes
        assert self._region.buf is not None
        return bytes(self._region.buf[base : base + self.area_bytes]) + raw

    def decode(self, answer: bytes) -> Answer:
        """See Target.decode."""
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

    def send(self, slot: int, request: bytes, keep: bool) -> None:
        area = slot % self._target.areas
        self.inner.send(slot, self._target.request(request, area), keep and slot < self._target.areas)

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
            answer = self._target.answer(answer, slot % self._target.areas)
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
    slots: int,
    output_bytes: int,
) -> Iterator[tuple[Target, list[InferPayload]]]:
    """(target, payloads) over shared memory while the block runs; then the server lets go and the memory goes.

    slots:        requests in flight at most.
    output_bytes: room for an output whose size the model does not fix.
    The regions also go when this process is killed (multiprocessing's resource tracker sees to it).
    """
    _check_model(model)
    outputs = _layout(model, payloads, output_bytes)
    area_bytes = _area_bytes(outputs)
    areas = max(1, min(slots, _AREAS_LIMIT_BYTES // area_bytes))
    size_bytes = sum(_aligned(len(t.data)) for p in payloads for t in p.inputs)
    name = f"tritonsmith-load-{os.getpid()}-{secrets.token_hex(4)}"
    with (
        _registered(api, f"{name}-in", size_bytes) as inputs,
        _registered(api, f"{name}-out", areas * area_bytes) as region,
    ):
        placed = _place(payloads, inputs, f"{name}-in")
        yield SharedTarget(target, outputs, region, f"{name}-out", areas), placed


@contextmanager
def _registered(api: ServerApi, name: str, size_bytes: int) -> Iterator[SharedMemory]:
    try:
        memory = SharedMemory(name, create=True, size=max(1, size_bytes))
    except OSError as error:
        raise ToolError(
            "no shared memory of this size",
            code="no_shared_memory",
            seen=f"{size_bytes} bytes: {error.strerror}",
        ) from error
    try:
        try:
            api.register_region(name, f"/{name}", memory.size)
        except TrialError as error:
            raise TrialError(
                f"the server cannot map this machine's shared memory: {error.message}",
                code="shared_memory_refused",
                seen=error.seen,
                fix="the server must run on this machine and see its /dev/shm (docker: --ipc=host)",
            ) from error
        try:
            yield memory
        finally:
            _unregister(api, name)
    finally:
        memory.close()
        memory.unlink()


def _unregister(api: ServerApi, name: str) -> None:
    """Triton keeps a region while requests that the client gave up still use it; a server that is gone has let
    go."""
    deadline = time.monotonic() + _LET_GO_S
    while (refusal := _refusal_to_unregister(api, name)) is not None:
        if time.monotonic() > deadline:
            note(f"the server still holds the shared memory `{name}`: {refusal}")
            return
        time.sleep(0.1)


def _refusal_to_unregister(api: ServerApi, name: str) -> str | None:
    try:
        api.unregister_region(name)
    except TrialError as error:
        return error.message
    except ServerError:
        pass
    return None


def _place(payloads: Sequence[InferPayload], memory: SharedMemory, region: str) -> list[InferPayload]:
    """Copy every input into the region; the payloads name their places instead."""
    placed, at = [], 0
    buffer = memory.buf
    assert buffer is not None
    for payload in payloads:
        tensors = []
        for tensor in payload.inputs:
            size = len(tensor.data)
            buffer[at : at + size] = tensor.data
            tensors.append(replace(tensor, data=b"", shared=SharedSlice(region, at, size)))
            at += _aligned(size)
        placed.append(replace(payload, inputs=tuple(tensors)))
    return placed


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


def _check_model(model: ModelInterface) -> None:
    if model.decoupled:
        raise UsageError(
            f"`{model.name}` may give many responses to a request, which would overwrite each other",
            code="bad_shared_memory",
            fix="leave out --shared-memory",
        )


def check_cuda_shared_memory() -> None:
    """Always raises ToolError: what CUDA shared memory lacks here."""
    gpu = Path("/dev/nvidiactl").exists()
    raise ToolError(
        "CUDA shared memory is not supported by this version" if gpu else "CUDA shared memory needs a GPU",
        code="no_cuda_shared_memory",
        seen="an NVIDIA GPU" if gpu else "no NVIDIA GPU on this machine",
        valid=["none", "system"],
        fix="--shared-memory system",
    )
