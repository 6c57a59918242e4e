"""Infer payloads → Triton's generate_stream over HTTP/1.1, and its events → one Answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.wire.generate.connection import GenerateConnection
from tritonsmith.perf.wire.generate.events import EventParser
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.paths import model_path
from tritonsmith.perf.wire.payload import (
    Answer,
    Array,
    InferPayload,
    WireTensor,
    array_from_raw,
    http_message,
)
from tritonsmith.perf.wire.target import Closed, Done

OVER_GRPC = "--protocol grpc"
_NOT_IN_JSON = ("FP16", "BF16")


@dataclass(frozen=True, slots=True)
class GenerateTarget(HttpTarget):
    """See HttpTarget; asks by generate_stream, for models that give many responses (or none)."""

    @property
    def streaming(self) -> bool:
        """Any number of responses a request."""
        return True

    def encode(self, payload: InferPayload, slot: int | None = None) -> bytes:
        """See Target.encode. UsageError for a payload that the generate extension cannot carry."""
        at = self.address()
        path = f"{at.path}{model_path(payload.model, payload.version)}/generate_stream"
        fields = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        return http_message(path, at.authority, fields, self.headers, generate_body(payload))

    def decode(self, answer: bytes) -> Answer:
        """See Target.decode; every output flat, those of all responses joined."""
        events: list[bytes] = []
        EventParser(events).feed(answer.partition(b"\r\n\r\n")[2], 0)
        return answer_of(events)

    async def connect(self, done: Done, closed: Closed) -> GenerateConnection:
        """See Target.connect."""
        return await self.opened(lambda: GenerateConnection(done, closed))


def generate_body(payload: InferPayload) -> bytes:
    """Inputs by name, each a value or a flat list of them, and the parameters, as JSON."""
    if payload.batch_size > 1:
        raise _refused("generate_stream takes one row a request", payload.batch_size, "-b 1")
    fields: dict[str, Any] = {tensor.name: _values(tensor) for tensor in payload.inputs}
    if payload.parameters:
        fields["parameters"] = dict(payload.parameters)
    try:
        return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        raise _refused("JSON has no word for infinity and NaN") from None


def _values(tensor: WireTensor) -> Any:
    if tensor.shared is not None or tensor.datatype in _NOT_IN_JSON:
        raise _refused(f"input `{tensor.name}` cannot travel as JSON", tensor.datatype)
    values = array_from_raw(tensor.datatype, tensor.shape, tensor.data).ravel().tolist()
    if tensor.datatype == "BYTES":
        try:
            values = [value.decode() for value in values]
        except UnicodeDecodeError:
            raise _refused(f"input `{tensor.name}` is no text: it cannot travel as JSON") from None
    return values[0] if len(values) == 1 else values


def _refused(why: str, seen: object = None, fix: str = OVER_GRPC) -> UsageError:
    return UsageError(why, code="bad_streaming", seen=seen, fix=fix)


def answer_of(events: list[bytes]) -> Answer:
    """The responses' JSON → their outputs, joined; shapes are not told. ValueError when one is no object."""
    joined: dict[str, list[Any]] = {}
    for event in events:
        said = json.loads(event)
        if not isinstance(said, Mapping):
            raise ValueError("a response is not a JSON object")
        for name, value in said.items():
            joined.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return Answer({name: _array(values) for name, values in joined.items()}, is_flat=True)


def _array(values: list[Any]) -> Array:
    if any(isinstance(value, str) for value in values):
        flat = np.empty(len(values), object)
        flat[:] = [value.encode() if isinstance(value, str) else value for value in values]
        return flat
    return np.asarray(values)
