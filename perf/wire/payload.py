"""Arrays → one infer request of the KServe v2 protocol with binary tensors; the answer's bytes → arrays.

Format: KServe v2 inference protocol, Triton's binary tensor data extension (a JSON header followed by the
tensors' raw little-endian bytes, BYTES elements each behind a 4-byte length), and Triton's sequence,
schedule-policy (priority, timeout) and parameters extensions.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.digest import digest_of_bytes, digest_of_value
from tritonsmith.builder.base.files.http_ask import json_from
from tritonsmith.builder.base.tensors import DTYPES, dtype_from_kserve
from tritonsmith.perf.wire.paths import model_path

Array = npt.NDArray[Any]
Parameter = bool | int | float | str
_KSERVE_NAMES = [d.kserve for d in DTYPES]


@dataclass(frozen=True, slots=True)
class SharedSlice:
    """Where a tensor's bytes lie, or are to be put, in a shared-memory region that the server has registered."""

    region: str
    offset_bytes: int
    size_bytes: int

    def parameters(self) -> dict[str, Parameter]:
        """As the tensor's parameters of Triton's shared-memory extension."""
        where: dict[str, Parameter] = {
            "shared_memory_region": self.region,
            "shared_memory_byte_size": self.size_bytes,
        }
        return where | ({"shared_memory_offset": self.offset_bytes} if self.offset_bytes else {})


@dataclass(frozen=True, slots=True)
class WireTensor:
    """A tensor ready for the wire: KServe datatype, whole shape, raw bytes, or where these lie instead."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes
    shared: SharedSlice | None = None


@dataclass(frozen=True, slots=True)
class InferPayload:
    """One infer request, whatever the protocol.

    outputs:    names wanted; empty means all.
    parameters: request parameters; the sequence, priority and timeout ones are made by `request_parameters`.
    batch_size: inferences this request asks for.
    expected:   the right outputs, for checks under load; None when they are not known.
    shared_outputs: outputs wanted, each written to shared memory; stands in for `outputs`.
    """

    model: str
    inputs: tuple[WireTensor, ...]
    version: str = ""
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    batch_size: int = 1
    expected: Mapping[str, Array] | None = field(default=None, compare=False)
    shared_outputs: Mapping[str, SharedSlice] = field(default_factory=dict)


def digest_of_inputs(payloads: Sequence[InferPayload]) -> str:
    """sha256 over every tensor that is sent, in the order of the payloads."""
    return digest_of_value(
        [[[t.name, t.datatype, list(t.shape), digest_of_bytes(t.data)] for t in p.inputs] for p in payloads]
    )


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A decoded answer: the outputs by name, or the server's error text.

    shared: (datatype, shape) of outputs whose bytes are in shared memory.
    model_version: which version answered; "" where that is not told.
    is_flat: shapes are not told, every output has one dimension.
    """

    outputs: Mapping[str, Array]
    error: str | None = None
    request_id: str = ""
    shared: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    model_version: str = ""
    is_flat: bool = False


def request_parameters(
    *,
    sequence_id: int | str | None = None,
    sequence_start: bool = False,
    sequence_end: bool = False,
    priority: int | None = None,
    timeout_us: int | None = None,
    other: Mapping[str, Parameter] | None = None,
) -> dict[str, Parameter]:
    """Triton's request parameters; `timeout_us` is the queue policy's, in microseconds."""
    parameters: dict[str, Parameter] = dict(other or {})
    if sequence_id is not None:
        parameters.update(sequence_id=sequence_id, sequence_start=sequence_start, sequence_end=sequence_end)
    if priority is not None:
        parameters["priority"] = priority
    if timeout_us is not None:
        parameters["timeout"] = timeout_us
    return parameters


def tensor_from_array(name: str, array: Array, datatype: str | None = None) -> WireTensor:
    """An array → its wire form.

    datatype: the model's KServe datatype; by default the array's own. BF16 takes uint16 (raw bits),
    ml_dtypes.bfloat16, or float32, which is rounded to nearest even. Raises UsageError on another mismatch.
    """
    array = np.asarray(array)
    if datatype is None:
        datatype = _datatype_of(array)
    try:
        data = _raw(array, datatype)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(
            f"the data for input `{name}` cannot be sent as {datatype}",
            code="input_dtype",
            seen=str(array.dtype),
            valid=[datatype] if datatype in _KSERVE_NAMES else _KSERVE_NAMES,
        ) from error
    return WireTensor(name, datatype, array.shape, data)


def _datatype_of(array: Array) -> str:
    if array.dtype.kind in "OSU":
        return "BYTES"
    if array.dtype.name == "bfloat16":
        return "BF16"
    for row in DTYPES:
        if row.numpy == array.dtype.name:
            return row.kserve
    raise UsageError("this dtype does not travel over KServe v2", code="input_dtype", seen=str(array.dtype))


def _raw(array: Array, datatype: str) -> bytes:
    row = dtype_from_kserve(datatype)
    if datatype == "BYTES":
        elements = [e.encode() if isinstance(e, str) else bytes(e) for e in array.ravel(order="C").tolist()]
        return b"".join(struct.pack("<I", len(e)) + e for e in elements)
    if datatype == "BF16":
        return _bf16_bits(array).astype("<u2").tobytes()
    if array.dtype.name != row.numpy:
        raise TypeError(array.dtype)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _bf16_bits(array: Array) -> npt.NDArray[np.uint16]:
    if array.dtype == np.uint16 or array.dtype.name == "bfloat16":
        return np.ascontiguousarray(array).view(np.uint16)
    if array.dtype != np.float32:
        raise TypeError(array.dtype)
    bits = np.ascontiguousarray(array).view(np.uint32)
    # Round half to even on the 16 bits that fall away; a NaN keeps its upper bits and stays quiet.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    kept: npt.NDArray[np.uint32] = np.where(
        np.isnan(array), (bits >> np.uint32(16)) | np.uint32(0x40), rounded
    )
    return kept.astype(np.uint16)


def array_from_raw(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Raw little-endian tensor bytes → an array of this shape; BF16 as uint16 bits, BYTES as objects.

    Raises ValueError when the bytes do not fit datatype and shape.
    """
    if datatype == "BYTES":
        elements = _split_bytes(data)
        flat = np.empty(len(elements), object)
        flat[:] = elements
        return flat.reshape(tuple(shape))
    row = dtype_from_kserve(datatype)
    dtype = np.dtype(row.numpy or "uint16").newbyteorder("<")
    return np.frombuffer(data, dtype).reshape(tuple(shape))


def _split_bytes(data: bytes | memoryview) -> list[bytes]:
    elements, at = [], 0
    while at < len(data):
        if at + 4 > len(data):
            raise ValueError("a BYTES tensor ends inside a length")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            raise ValueError("a BYTES tensor ends inside an element")
        elements.append(bytes(data[at : at + length]))
        at += length
    return elements


def http_request(
    payload: InferPayload, host: str, path_prefix: str = "", headers: Mapping[str, str] | None = None
) -> bytes:
    """The whole HTTP/1.1 request, head and body, as it is written to the socket each time."""
    header: dict[str, Any] = {}
    if payload.request_id:
        header["id"] = payload.request_id
    parameters: dict[str, Parameter] = dict(payload.parameters)
    if payload.shared_outputs:
        header["outputs"] = [
            {"name": n, "parameters": shared.parameters()} for n, shared in payload.shared_outputs.items()
        ]
    elif payload.outputs:
        header["outputs"] = [{"name": n, "parameters": {"binary_data": True}} for n in payload.outputs]
    else:
        parameters["binary_data_output"] = True
    if parameters:
        header["parameters"] = parameters
    header["inputs"] = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": tensor.shared.parameters()
            if tensor.shared is not None
            else {"binary_data_size": len(tensor.data)},
        }
        for tensor in payload.inputs
    ]
    text = json.dumps(header, separators=(",", ":")).encode()
    body = b"".join([text, *(tensor.data for tensor in payload.inputs)])
    path = f"{path_prefix}{model_path(payload.model, payload.version)}/infer"
    fields = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text)),
    }
    return http_message(path, host, fields, headers or {}, body)


def http_message(
    path: str, host: str, fields: Mapping[str, str], headers: Mapping[str, str], body: bytes
) -> bytes:
    """A POST, head and body. headers: the user's, among which a Host stands in for the address's own."""
    own_host = {} if any(name.lower() == "host" for name in headers) else {"Host": host}
    lines = [
        f"POST {path.encode().decode('latin-1')} HTTP/1.1",
        *(
            f"{name}: {value}"
            for name, value in {**own_host, **fields, "Content-Length": len(body), **headers}.items()
        ),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise UsageError("a header must not contain a line break", code="bad_header")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def decode_http(json_length: int | None, body: bytes) -> Answer:
    """An infer answer's body → Answer.

    json_length: the Inference-Header-Content-Length header; None when the whole body is JSON.
    Raises ValueError when the body is not an infer answer.
    """
    text = body if json_length is None else body[:json_length]
    try:
        header = json_from(text, most_values=len(text))  # a tensor may have many
    except ValueError as error:
        raise ValueError("the answer is not JSON") from error
    if not isinstance(header, dict):
        raise ValueError("the answer is not a JSON object")
    if "error" in header:
        return Answer({}, str(header["error"]), str(header.get("id", "")))
    binary = memoryview(body)[len(text) :]
    outputs: dict[str, Array] = {}
    shared: dict[str, tuple[str, tuple[int, ...]]] = {}
    at = 0
    try:
        for output in header["outputs"]:
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None and "data" not in output:  # the only mark that its bytes are in shared memory
                shared[name] = (datatype, tuple(shape))
                continue
            if (type(size) is not int and size is not None) or (size is not None and size < 0):
                raise ValueError(f"output `{name}` has no size in bytes: {str(size)[:40]}")
            if size is None:
                outputs[name] = _array_from_json(datatype, shape, output["data"])
                continue
            if at + size > len(binary):
                raise ValueError(f"output `{name}` ends before its {size} bytes")
            outputs[name] = array_from_raw(datatype, shape, binary[at : at + size])
            at += size
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"the answer lacks or mistypes {error}") from error
    if at != len(binary):
        raise ValueError(f"{len(binary) - at} bytes more than the outputs hold")
    version = str(header.get("model_version", ""))
    return Answer(outputs, None, str(header.get("id", "")), shared, version)


def _array_from_json(datatype: str, shape: Sequence[int], data: list[Any]) -> Array:
    if datatype == "BYTES":
        flat = np.empty(len(data), object)
        flat[:] = [e.encode() if isinstance(e, str) else e for e in data]
        return flat.reshape(tuple(shape))
    return np.asarray(data, dtype_from_kserve(datatype).numpy).reshape(tuple(shape))
