"""An ONNX file → its inputs, outputs, opsets, IR version and external data locations, without its weights.

The file is memory-mapped and walked field by field; a tensor's payload is stepped over by its length
prefix, so the pages that hold weights are never touched and a model of any size costs about as much as
the number of its nodes and initializers. Field numbers are onnx.proto3's
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3); the wire format is protobuf's own
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.base.files.untrusted import open_regular
from tritonsmith.builder.base.tensors import Dim

Buffer = bytes | mmap.mmap

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class OnnxProblem(Exception):
    """The file is no readable ONNX model; the text says what and at which byte."""


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """A graph input or output.

    element: onnx.TensorProto.DataType value, 0 when it is no dense tensor or says none.
    shape:   the whole shape; a name or -1 for a dynamic dimension; None when the file gives no rank.
    """

    name: str
    element: int
    shape: tuple[Dim, ...] | None

    @property
    def wire_shape(self) -> tuple[int, ...] | None:
        """The shape with every dynamic dimension as -1, as ONNX Runtime tells it."""
        if self.shape is None:
            return None
        return tuple(d if isinstance(d, int) else -1 for d in self.shape)


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """What serving has to know about an ONNX file.

    inputs:        graph inputs that a request has to give (those without an initializer).
    overridable:   graph inputs that have an initializer as their default.
    opset:         version of the default operator set (`ai.onnx`), 0 when it imports none.
    opsets:        (domain, version) of each imported operator set, `` being the default one.
    external_data: locations of external tensors relative to the file's directory, without repeats.
    of_session:    shapes are those of ONNX Runtime's session, which the server compares with, not the file's own.
    """

    ir_version: int
    opset: int
    opsets: tuple[tuple[str, int], ...]
    inputs: tuple[OnnxTensor, ...]
    overridable: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    external_data: tuple[str, ...]
    node_count: int
    of_session: bool = False

    def input(self, name: str) -> OnnxTensor | None:
        """The required or overridable graph input of that name."""
        return next((t for t in (*self.inputs, *self.overridable) if t.name == name), None)

    def output(self, name: str) -> OnnxTensor | None:
        """The graph output of that name."""
        return next((t for t in self.outputs if t.name == name), None)


def read_onnx(path: Path) -> OnnxModel:
    """Read an ONNX file's surface.

    Raises OnnxProblem when it cannot be opened or is no ONNX model.
    """
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            if size == 0:
                raise OnnxProblem("the file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return model_from_bytes(view)
    except (OSError, ValueError) as error:
        raise OnnxProblem(f"the file cannot be read: {error}") from error


def model_from_bytes(data: Buffer) -> OnnxModel:
    """The same for bytes in memory. Raises OnnxProblem."""
    ir_version = 0
    graph: tuple[int, int] | None = None
    opsets: list[tuple[str, int]] = []
    for number, wire, value, end in _fields(data, 0, len(data)):
        if number == 1 and wire == _VARINT:
            ir_version = value
        elif number == 7 and wire == _BYTES:
            graph = (value, end)
        elif number == 8 and wire == _BYTES:
            opsets.append(_opset(data, value, end))
    if graph is None:
        raise OnnxProblem("it holds no graph, so it is no ONNX model")
    read = _graph(data, *graph)
    if not read.outputs:
        raise OnnxProblem("its graph has no outputs")
    defaults = set(read.initializers)
    return OnnxModel(
        ir_version=ir_version,
        opset=next((version for domain, version in opsets if domain in ("", "ai.onnx")), 0),
        opsets=tuple(opsets),
        inputs=tuple(t for t in read.inputs if t.name not in defaults),
        overridable=tuple(t for t in read.inputs if t.name in defaults),
        outputs=tuple(read.outputs),
        external_data=tuple(dict.fromkeys(read.external_data)),
        node_count=read.node_count,
    )


@dataclass(slots=True)
class _Graph:
    inputs: list[OnnxTensor]
    outputs: list[OnnxTensor]
    initializers: list[str]
    external_data: list[str]
    node_count: int


def _graph(data: Buffer, start: int, end: int) -> _Graph:
    graph = _Graph([], [], [], [], 0)
    for number, wire, value, stop in _fields(data, start, end):
        if number == 1:
            graph.node_count += 1
        if wire != _BYTES:
            continue
        if number == 5:
            name, location = _initializer(data, value, stop)
            graph.initializers.append(name)
            if location is not None:
                graph.external_data.append(location)
        elif number == 11:
            graph.inputs.append(_value_info(data, value, stop))
        elif number == 12:
            graph.outputs.append(_value_info(data, value, stop))
        elif number == 15:
            graph.initializers.append(_sparse_name(data, value, stop))
    return graph


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
        if shift > 63:
            raise OnnxProblem(f"damaged at byte {at}: a number is longer than 64 bits")
    raise OnnxProblem(f"damaged at byte {at}: it ends inside a number")


def _fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of one message: (field number, wire type, value or start of the payload, end of the payload)."""
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, at - 1, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise OnnxProblem(f"damaged at byte {at - 1}: field number 0")
        if wire == _BYTES:
            length, at = _varint(data, at, end)
            stop = at + length
            if stop > end:
                raise OnnxProblem(f"damaged at byte {at}: a field of {length} bytes runs past its end")
            yield number, wire, at, stop
            at = stop
        elif wire == _VARINT:
            value, at = _varint(data, at, end)
            yield number, wire, value, at
        elif wire in (_FIXED64, _FIXED32):
            width = 8 if wire == _FIXED64 else 4
            if at + width > end:
                raise OnnxProblem(f"damaged at byte {at}: it ends inside a number")
            yield number, wire, at, at + width
            at += width
        else:
            raise OnnxProblem(f"damaged at byte {at - 1}: wire type {wire} is not used by ONNX")


def _text(data: Buffer, start: int, end: int) -> str:
    return bytes(data[start:end]).decode("utf-8", "replace")


def _opset(data: Buffer, start: int, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, wire, value, stop in _fields(data, start, end):
        if number == 1 and wire == _BYTES:
            domain = _text(data, value, stop)
        elif number == 2 and wire == _VARINT:
            version = value
    return domain, version


def _initializer(data: Buffer, start: int, end: int) -> tuple[str, str | None]:
    """(name, external location or None) of a TensorProto."""
    name, location = "", None
    for number, wire, value, stop in _fields(data, start, end):
        if number == 8 and wire == _BYTES:
            name = _text(data, value, stop)
        elif number == 13 and wire == _BYTES:
            key = entry = ""
            for inner, inner_wire, at, until in _fields(data, value, stop):
                if inner == 1 and inner_wire == _BYTES:
                    key = _text(data, at, until)
                elif inner == 2 and inner_wire == _BYTES:
                    entry = _text(data, at, until)
            if key == "location":
                location = entry
    return name, location


def _sparse_name(data: Buffer, start: int, end: int) -> str:
    for number, wire, value, stop in _fields(data, start, end):
        if number == 1 and wire == _BYTES:
            return _initializer(data, value, stop)[0]
    return ""


def _value_info(data: Buffer, start: int, end: int) -> OnnxTensor:
    name, element = "", 0
    shape: tuple[Dim, ...] | None = None
    for number, wire, value, stop in _fields(data, start, end):
        if number == 1 and wire == _BYTES:
            name = _text(data, value, stop)
        elif number == 2 and wire == _BYTES:
            for kind, kind_wire, at, until in _fields(data, value, stop):
                if kind == 1 and kind_wire == _BYTES:
                    element, shape = _tensor_type(data, at, until)
    return OnnxTensor(name, element, shape)


def _tensor_type(data: Buffer, start: int, end: int) -> tuple[int, tuple[Dim, ...] | None]:
    element = 0
    dims: tuple[Dim, ...] | None = None
    for number, wire, value, stop in _fields(data, start, end):
        if number == 1 and wire == _VARINT:
            element = value
        elif number == 2 and wire == _BYTES:
            dims = tuple(
                _dim(data, at, until)
                for inner, inner_wire, at, until in _fields(data, value, stop)
                if inner == 1 and inner_wire == _BYTES
            )
    return element, dims


def _dim(data: Buffer, start: int, end: int) -> Dim:
    dim: Dim = -1
    for number, wire, value, stop in _fields(data, start, end):
        if number == 1 and wire == _VARINT:
            dim = value if value < 1 << 63 else value - (1 << 64)
        elif number == 2 and wire == _BYTES:
            dim = _text(data, value, stop) or -1
    return dim
