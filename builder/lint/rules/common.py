"""What several families need: a config's tensors, their types and shapes, and whether a path stays inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import PurePosixPath
from typing import Any

from tritonsmith.builder.base.tensors import DTYPES, Dtype, dtype_from_onnx
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.read.onnx_io import OnnxTensor

# Backends that get a batch as its requests, each with its own tensors: nothing is glued together. Sources: python_backend
# README, execute; TensorRT-LLM, triton_backend/inflight_batcher_llm/src/utils.cc, createRequests.
ONE_BY_ONE = frozenset({"python", "tensorrtllm", "vllm"})

_DTYPE = {d.config: d for d in DTYPES}


def is_ensemble(model: Model) -> bool:
    """Whether the config means an ensemble, rightly written or not."""
    return bool(model.config.platform == "ensemble" or model.config.HasField("ensemble_scheduling"))


def tensors(model: Model) -> Iterator[tuple[str, Any]]:
    """(field path, ModelInput or ModelOutput) of every declared tensor."""
    for kind in ("input", "output"):
        for index, tensor in enumerate(getattr(model.config, kind)):
            yield f"{kind}[{index}]", tensor


def type_name(value: int) -> str:
    """DataType value → `TYPE_FP32`; the number itself when the proto does not know it."""
    try:
        return str(model_config_pb2().DataType.Name(value))
    except ValueError:
        return str(value)


def dtype_of(value: int) -> Dtype | None:
    """DataType value → its row in the dtype table; None for TYPE_INVALID and unknown values."""
    return _DTYPE.get(type_name(value))


def model_dims(tensor: Any) -> list[int]:
    """The shape that the backend sees, without the batch dimension: `reshape` where there is one."""
    return list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def full_dims(tensor: Any, max_batch_size: int) -> list[int]:
    """The shape that the model file must have: the batch dimension as -1 in front when the model batches."""
    return [-1, *model_dims(tensor)] if max_batch_size > 0 else model_dims(tensor)


def same_dims(left: Sequence[int], right: Sequence[int]) -> bool:
    """Whether two shapes can be equal, -1 standing for any size (CompareDimsWithWildcard in common)."""
    return len(left) == len(right) and all(-1 in (a, b) or a == b for a, b in zip(left, right, strict=True))


def element_count(dims: Sequence[int]) -> int:
    """Product of the dims; -1 as soon as one of them is."""
    return -1 if -1 in dims else prod(dims)


def bytes_of(data_type: int, dims: Sequence[int]) -> int | None:
    """Bytes of a tensor without dynamic dims; None for strings, unknown types and dynamic dims."""
    dtype = dtype_of(data_type)
    if dtype is None or not dtype.itemsize_bytes or any(d < 0 for d in dims):
        return None
    return dtype.itemsize_bytes * prod(dims)


def escapes(name: str) -> bool:
    """Whether a relative file name leads out of the directory it is meant in."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def onnx_type(tensor: OnnxTensor) -> str | None:
    """A graph tensor's type as `TYPE_FP32`; None when Triton has no such type."""
    try:
        return dtype_from_onnx(tensor.element).config
    except KeyError:
        return None


def groups(model: Model) -> Iterator[tuple[str, Any]]:
    """(field, instance group) of each."""
    for index, group in enumerate(model.config.instance_group):
        yield f"instance_group[{index}]", group
