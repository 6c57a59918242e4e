"""One dtype table (Triton, KServe, ONNX, NumPy, TensorRT names) and TensorSpec, a tensor's name, dtype and shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PlainSerializer, PlainValidator

from tritonsmith.builder.base.files.json_forms import JsonForm


@dataclass(frozen=True, slots=True)
class Dtype:
    """One row of the table.

    config:   name in config.pbtxt (`TYPE_FP32`).
    kserve:   name on the wire (`FP32`), as in the KServe v2 protocol.
    onnx:     onnx.TensorProto.DataType value.
    numpy:    NumPy dtype name; None where NumPy has none (BF16).
    tensorrt: tensorrt.DataType member name; None where TensorRT has no such I/O type.
    itemsize_bytes: bytes an element on the wire; 0 for BYTES, whose elements carry their own length.
    """

    config: str
    kserve: str
    onnx: int
    numpy: str | None
    tensorrt: str | None
    itemsize_bytes: int


# Sources: Triton's model_config.proto (DataType), the KServe v2 binary extension, onnx.proto3
# (TensorProto.DataType), tensorrt.DataType of TensorRT 10.
DTYPES: tuple[Dtype, ...] = (
    Dtype("TYPE_BOOL", "BOOL", 9, "bool", "BOOL", 1),
    Dtype("TYPE_UINT8", "UINT8", 2, "uint8", "UINT8", 1),
    Dtype("TYPE_UINT16", "UINT16", 4, "uint16", None, 2),
    Dtype("TYPE_UINT32", "UINT32", 12, "uint32", None, 4),
    Dtype("TYPE_UINT64", "UINT64", 13, "uint64", None, 8),
    Dtype("TYPE_INT8", "INT8", 3, "int8", "INT8", 1),
    Dtype("TYPE_INT16", "INT16", 5, "int16", None, 2),
    Dtype("TYPE_INT32", "INT32", 6, "int32", "INT32", 4),
    Dtype("TYPE_INT64", "INT64", 7, "int64", "INT64", 8),
    Dtype("TYPE_FP16", "FP16", 10, "float16", "HALF", 2),
    Dtype("TYPE_FP32", "FP32", 1, "float32", "FLOAT", 4),
    Dtype("TYPE_FP64", "FP64", 11, "float64", None, 8),
    Dtype("TYPE_STRING", "BYTES", 8, "object", None, 0),
    Dtype("TYPE_BF16", "BF16", 16, None, "BF16", 2),
)

_BY_CONFIG = {d.config: d for d in DTYPES}
_BY_KSERVE = {d.kserve: d for d in DTYPES}
_BY_ONNX = {d.onnx: d for d in DTYPES}
_BY_NUMPY = {d.numpy: d for d in DTYPES if d.numpy is not None}


def dtype_from_config(name: str) -> Dtype:
    """`TYPE_FP32` → its row; KeyError when Triton has no such type."""
    return _BY_CONFIG[name]


def dtype_from_kserve(name: str) -> Dtype:
    """`FP32` → its row; KeyError when the protocol has no such type."""
    return _BY_KSERVE[name]


def dtype_from_onnx(value: int) -> Dtype:
    """onnx.TensorProto.DataType value → its row; KeyError when Triton cannot carry it."""
    return _BY_ONNX[value]


def dtype_from_numpy(name: str) -> Dtype:
    """NumPy dtype name (`float32`; str and bytes arrays are `object`) → its row; KeyError otherwise."""
    if name.startswith(("str", "bytes", "<U", "|S")):
        name = "object"
    return _BY_NUMPY[name]


Dim = int | str
"""A fixed size, -1 for a dynamic dimension without a name, or a dynamic dimension's name."""


@dataclass(frozen=True, slots=True)
class TensorSpec(JsonForm):
    """A tensor as the model itself sees it.

    shape: the whole shape, batch dimension included.
    """

    name: str
    dtype: Annotated[
        Dtype,
        Field(alias="data_type"),
        PlainSerializer(lambda dtype: dtype.config),
        PlainValidator(dtype_from_config),
    ]
    shape: tuple[Dim, ...]

    @property
    def wire_shape(self) -> tuple[int, ...]:
        """The shape with every dynamic dimension as -1."""
        return tuple(d if isinstance(d, int) else -1 for d in self.shape)

    @property
    def dynamic_names(self) -> tuple[str, ...]:
        """Names of the named dynamic dimensions, in order, without repeats."""
        return tuple(dict.fromkeys(d for d in self.shape if isinstance(d, str)))


tensor_from_dict = TensorSpec.from_dict


def fits(shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Whether a shape is the wanted one, -1 standing for any size."""
    return len(shape) == len(want) and all(w in (-1, s) for s, w in zip(shape, want, strict=True))
