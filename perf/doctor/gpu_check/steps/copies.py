"""The embedded tensorrt backend's copies to and from a GPU → held against values that are known, and against CuPy or torch."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tritonsmith.perf.doctor.gpu_check.step import MissingError, UnexpectedError
from tritonsmith.perf.server.embedded import OUR_BACKENDS

# Empty, one element, odd sizes, more than a page, more than any staging buffer of the driver.
SIZES = (0, 1, 255, 4097, 3_000_001)
DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32")


class Memory(Protocol):
    """The part of trt_cuda.Device that copies use."""

    def enter(self) -> None:
        """Make it current."""

    def buffer(self, name: str, size: int) -> int:
        """An address."""

    def copy_in(self, address: int, array: Any) -> None:
        """Host → device."""

    def copy_out(self, array: Any, address: int) -> None:
        """Device → host."""

    def wait(self) -> None:
        """Until copies are done."""


class HostMemory:
    """This machine's memory behind the same calls: what a run without a GPU copies to."""

    def __init__(self) -> None:
        self._buffers: dict[str, Any] = {}

    def enter(self) -> None:
        """Nothing to make current."""

    def buffer(self, name: str, size: int) -> int:
        """Grows as needed, as the device's does."""
        if len(self._buffers.get(name, b"")) < max(size, 256):
            self._buffers[name] = (ctypes.c_char * max(size, 256))()
        return ctypes.addressof(self._buffers[name])

    def copy_in(self, address: int, array: Any) -> None:
        """See Memory."""
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy_out(self, array: Any, address: int) -> None:
        """See Memory."""
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def wait(self) -> None:
        """Copies are done when they return."""


def copies(device: str, work: Path, argument: str) -> dict[str, Any]:
    """Every size and type there and back; on a GPU another library writes what ours reads, and the other way round."""
    if device == "cpu":
        return {"memory": "host", **round_trips(HostMemory())}
    sys.path.append(str(OUR_BACKENDS / "tensorrt"))
    import trt_cuda  # type: ignore[import-not-found]

    try:
        memory = trt_cuda.Device(0)
    except RuntimeError as error:
        raise MissingError(str(error)) from None
    facts = {"memory": "CUDA", **round_trips(memory)}
    return {**facts, "against": _against_another(memory)}


def round_trips(memory: Memory) -> dict[str, Any]:
    """{copies, bytes}; UnexpectedError names the first type and size that came back changed."""
    count = total = 0
    memory.enter()
    for dtype in DTYPES:
        for size in SIZES:
            sent = pattern(size, dtype)
            got = np.zeros_like(sent)
            address = memory.buffer(dtype, sent.nbytes)
            memory.copy_in(address, sent)
            memory.copy_out(got, address)
            memory.wait()
            if got.tobytes() != sent.tobytes():
                raise UnexpectedError(f"{size} elements of {dtype} came back changed")
            count, total = count + 1, total + sent.nbytes
    return {"copies": count, "bytes": total}


def pattern(size: int, dtype: str) -> Any:
    """Bytes that differ from their neighbours, so that a shift or a repeated element shows."""
    values = (np.arange(size, dtype=np.int64) * 7919 + 13) % 127
    return (values % 3 == 0) if dtype == "bool" else values.astype(dtype)


def _against_another(memory: Memory) -> str:
    """CuPy, else torch, reads what ours wrote at the same address, and ours reads what it wrote."""
    sent = pattern(100_003, "float32")
    address = memory.buffer("shared", sent.nbytes)
    memory.copy_in(address, sent)
    memory.wait()
    name, seen, doubled = _other_library(address, sent)
    if not np.array_equal(seen, sent):
        raise UnexpectedError(f"{name} reads other values than were copied to the GPU")
    got = np.zeros_like(sent)
    memory.enter()
    memory.copy_out(got, address)
    memory.wait()
    if not np.array_equal(got, doubled):
        raise UnexpectedError(f"other values came back than {name} wrote")
    return name


class _Foreign:
    """Memory as both libraries take it: the CUDA array interface, version 3 (Numba's documentation)."""

    def __init__(self, address: int, array: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (address, False),
            "version": 3,
        }


def _other_library(address: int, like: Any) -> tuple[str, Any, Any]:
    """(its name, what it reads, twice that, which it has written there)"""
    try:
        import cupy
    except ImportError:
        try:
            import torch
        except ImportError:
            raise MissingError("neither cupy nor torch is here to compare with") from None
        tensor = torch.as_tensor(_Foreign(address, like), device="cuda")
        seen = tensor.cpu().numpy().copy()
        tensor.mul_(2)
        torch.cuda.synchronize()
        return f"torch {torch.__version__}", seen, seen * np.float32(2)
    array = cupy.asarray(_Foreign(address, like))
    seen = cupy.asnumpy(array)
    array *= 2
    cupy.cuda.Device().synchronize()
    return f"cupy {cupy.__version__}", seen, seen * np.float32(2)
