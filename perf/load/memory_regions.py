"""A size → a shared-memory region that a server has mapped: of this machine's memory, or of a GPU's.

Formats: Triton's system and CUDA shared-memory extensions (docs/protocol/extension_shared_memory.md). Of a
region in a GPU the server gets a CUDA IPC handle, which other processes of this machine may open too.
"""

from __future__ import annotations

import base64
import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Literal, Protocol

from tritonsmith.builder.base.errors import ServerError, ToolError, TrialError
from tritonsmith.builder.base.text.console import note
from tritonsmith.perf.wire.api import ServerApi

Kind = Literal["system", "cuda"]
_LET_GO_S = 10.0


class Region(Protocol):
    """Memory that this process and the server both see; a value that can be pickled into another process."""

    @property
    def name(self) -> str:
        """As requests name it."""

    def write(self, data: bytes) -> None:
        """Put these bytes at its front."""

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """A copy of what is there now."""


@dataclass(frozen=True, slots=True)
class SystemRegion:
    """Of /dev/shm; implements Region."""

    name: str
    memory: SharedMemory

    def write(self, data: bytes) -> None:
        """See Region."""
        assert self.memory.buf is not None
        self.memory.buf[: len(data)] = data

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """See Region."""
        assert self.memory.buf is not None
        return bytes(self.memory.buf[offset_bytes : offset_bytes + size_bytes])


class CudaRegion:
    """Of a GPU's memory; implements Region. In another process it is opened by its handle when first read.

    handle: the bytes of a cudaIpcMemHandle_t.
    address: where it lies for this process; 0 when it is not open here.
    """

    def __init__(self, name: str, device: int, size_bytes: int, handle: bytes, address: int = 0) -> None:
        self.name = name
        self.device = device
        self.size_bytes = size_bytes
        self.handle = handle
        self._address = address

    def __reduce__(self) -> tuple[Any, ...]:
        return CudaRegion, (self.name, self.device, self.size_bytes, self.handle)

    def write(self, data: bytes) -> None:
        """See Region."""
        from_host = (ctypes.c_char * len(data)).from_buffer_copy(data)
        self._copy(self._opened(), ctypes.addressof(from_host), len(data))

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """See Region."""
        to_host = (ctypes.c_char * size_bytes)()
        self._copy(ctypes.addressof(to_host), self._opened() + offset_bytes, size_bytes)
        return to_host.raw

    def _opened(self) -> int:
        if not self._address:
            import ctypes

            runtime = _runtime()
            handle = runtime.cudaIpcMemHandle_t()
            ctypes.memmove(handle.getPtr(), self.handle, len(self.handle))
            _cuda(runtime.cudaSetDevice, self.device)
            flags = runtime.cudaIpcMemLazyEnablePeerAccess
            self._address = int(_cuda(runtime.cudaIpcOpenMemHandle, handle, flags))
        return self._address

    @staticmethod
    def _copy(to: int, source: int, size_bytes: int) -> None:
        """cudaMemcpy is done when it returns; unified addresses tell it the direction."""
        runtime = _runtime()
        _cuda(runtime.cudaMemcpy, to, source, size_bytes, runtime.cudaMemcpyKind.cudaMemcpyDefault)


def _runtime() -> Any:
    from cuda.bindings import runtime  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return runtime


def _cuda(call: Any, *arguments: Any) -> Any:
    """A CUDA runtime call's result; ToolError with CUDA's words when it fails."""
    runtime = _runtime()
    error, *results = call(*arguments)
    if error != runtime.cudaError_t.cudaSuccess:
        _, words = runtime.cudaGetErrorString(error)
        text = words.decode() if isinstance(words, bytes) else str(words)
        raise ToolError(f"CUDA: {text}", code="cuda_failed", seen=call.__name__)
    return results[0] if results else None


@contextmanager
def registered_region(
    api: ServerApi, kind: Kind, name: str, size_bytes: int, device: int = 0
) -> Iterator[Region]:
    """A region of this size that the server has mapped while the block runs; then both let it go.

    device: the GPU of a CUDA region, as CUDA counts them for this process and for the server.
    """
    size_bytes = max(1, size_bytes)
    made = _cuda_region(name, size_bytes, device) if kind == "cuda" else _system_region(name, size_bytes)
    with made as region:
        if isinstance(region, CudaRegion):
            register_cuda(api, name, region.handle, device, size_bytes)
        else:
            _register_system(api, name, region.memory.size)
        try:
            yield region
        finally:
            _unregister(api, kind, name)


@contextmanager
def _system_region(name: str, size_bytes: int) -> Iterator[SystemRegion]:
    """The memory also goes when this process is killed: multiprocessing's resource tracker sees to it."""
    try:
        memory = SharedMemory(name, create=True, size=size_bytes)
    except OSError as error:
        seen = f"{size_bytes} bytes: {error.strerror}"
        raise ToolError("no shared memory of this size", code="no_shared_memory", seen=seen) from error
    try:
        yield SystemRegion(name, memory)
    finally:
        memory.close()
        memory.unlink()


@contextmanager
def _cuda_region(name: str, size_bytes: int, device: int) -> Iterator[CudaRegion]:
    """The memory goes with this process, however that ends."""
    cuda = _cuda_shared_memory()
    try:
        memory = cuda.create_shared_memory_region(name, size_bytes, device)
    except cuda.CudaSharedMemoryException as error:
        raise _no_cuda(str(error.__cause__ or error), f"{size_bytes} bytes of GPU {device}") from error
    handle = base64.b64decode(cuda.get_raw_handle(memory))
    try:
        yield CudaRegion(name, device, size_bytes, handle, int(memory._base_addr))
    finally:
        cuda.destroy_shared_memory_region(memory)
        del memory  # its last reference, which frees it


def _register_system(api: ServerApi, name: str, size_bytes: int) -> None:
    with _refused(
        "the server cannot map this machine's shared memory",
        "the server must run on this machine and see its /dev/shm (docker: --ipc=host)",
    ):
        api.register_region(name, f"/{name}", size_bytes)


def register_cuda(api: ServerApi, name: str, handle: bytes, device: int, size_bytes: int) -> None:
    """Have the server open a GPU's memory by its handle; TrialError with the server's reason."""
    with _refused(
        "the server cannot open this GPU's memory",
        "the server must run on this machine, see the same GPU and be built with GPU support",
    ):
        api.register_cuda_region(name, handle, device, size_bytes)


@contextmanager
def _refused(what: str, fix: str) -> Iterator[None]:
    try:
        yield
    except TrialError as error:
        message = f"{what}: {error.message}"
        raise TrialError(message, code="shared_memory_refused", seen=error.seen, fix=fix) from error


def check_cuda(device: int) -> None:
    """ToolError when CUDA, or this GPU, cannot be used from here; before any server is asked."""
    _cuda_shared_memory()
    try:
        count = int(_cuda(_runtime().cudaGetDeviceCount))
    except ToolError as error:
        raise _no_cuda(error.message, f"GPU {device}") from error
    except RuntimeError as error:  # the driver's library is not there
        raise _no_cuda(str(error), f"GPU {device}") from error
    if not 0 <= device < count:
        raise ToolError(
            "there is no such GPU",
            code="no_cuda_shared_memory",
            seen=device,
            valid=list(range(count)),
            fix="--cuda-device 0",
        )


def _cuda_shared_memory() -> Any:
    try:
        from tritonclient.utils import cuda_shared_memory
    except (RuntimeError, ImportError) as error:
        raise ToolError(
            "CUDA shared memory needs NVIDIA's Python bindings",
            code="no_cuda_shared_memory",
            seen=str(error)[:200],
            valid=["none", "system"],
            fix="pip install cuda-python",
        ) from error
    return cuda_shared_memory


def _no_cuda(why: str, asked: str) -> ToolError:
    return ToolError(
        f"CUDA shared memory needs a GPU: {why}",
        code="no_cuda_shared_memory",
        seen=asked,
        valid=["none", "system"],
        fix="--shared-memory system",
    )


def _unregister(api: ServerApi, kind: Kind, name: str) -> None:
    """Triton keeps a region while requests that the client gave up still use it; a server that is gone has let
    go."""
    deadline = time.monotonic() + _LET_GO_S
    while (refusal := _refusal_to_unregister(api, kind, name)) is not None:
        if time.monotonic() > deadline:
            note(f"the server still holds the shared memory `{name}`: {refusal}")
            return
        time.sleep(0.1)


def _refusal_to_unregister(api: ServerApi, kind: Kind, name: str) -> str | None:
    try:
        api.unregister_region(name, kind)
    except TrialError as error:
        return error.message
    except ServerError:
        pass
    return None
