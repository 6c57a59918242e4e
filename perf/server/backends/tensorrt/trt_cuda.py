"""The CUDA driver (libcuda.so.1) by ctypes: device memory, copies and a stream for one GPU, no CUDA toolkit
needed.

Functions and types: CUDA Driver API reference manual. A `_v2` name is the 64-bit function behind cuda.h's macro.
"""

import ctypes

_POINTER = ctypes.c_uint64
_SIGNATURES = {
    "cuInit": [ctypes.c_uint],
    "cuDeviceGetCount": [ctypes.POINTER(ctypes.c_int)],
    "cuDeviceGet": [ctypes.POINTER(ctypes.c_int), ctypes.c_int],
    "cuDeviceGetAttribute": [ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int],
    "cuDevicePrimaryCtxRetain": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int],
    "cuCtxSetCurrent": [ctypes.c_void_p],
    "cuStreamCreate": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint],
    "cuStreamSynchronize": [ctypes.c_void_p],
    "cuMemAlloc_v2": [ctypes.POINTER(_POINTER), ctypes.c_size_t],
    "cuMemFree_v2": [_POINTER],
    "cuMemcpyHtoDAsync_v2": [_POINTER, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p],
    "cuMemcpyDtoHAsync_v2": [ctypes.c_void_p, _POINTER, ctypes.c_size_t, ctypes.c_void_p],
}
# A tensor without elements still needs an address; TensorRT wants 256-byte alignment, which cuMemAlloc gives.
_LEAST_BYTES = 256


class Device:
    """One GPU's primary context, a stream, and one buffer a tensor that grows as needed."""

    def __init__(self, index):
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise RuntimeError(
                "no NVIDIA GPU on this machine: the driver (libcuda.so.1) is not installed"
            ) from None
        for name, types in _SIGNATURES.items():
            getattr(self._driver, name).argtypes = types
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= index < count.value:
            raise RuntimeError(f"GPU {index} is asked for and this machine has {count.value}")
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), index)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device.value)
        self._device = device.value
        self.enter()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 1)  # CU_STREAM_NON_BLOCKING
        self.stream = stream.value
        self._buffers = {}

    def compute_capability(self):
        """`9.0`."""
        numbers = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            number = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(number), attribute, self._device)
            numbers.append(str(number.value))
        return ".".join(numbers)

    def enter(self):
        """Makes the context the calling thread's; TensorRT works on whichever is current."""
        self._call("cuCtxSetCurrent", self._context)

    def buffer(self, name, size):
        """Address of at least `size` bytes kept for this tensor."""
        address, room = self._buffers.get(name, (0, 0))
        if room < max(size, _LEAST_BYTES):
            if address:
                del self._buffers[name]
                self._call("cuMemFree_v2", address)
            fresh, room = _POINTER(), max(size, _LEAST_BYTES)
            self._call("cuMemAlloc_v2", ctypes.byref(fresh), room)
            address = fresh.value
            self._buffers[name] = (address, room)
        return address

    def copy_in(self, address, array):
        """A contiguous array → device, in stream order."""
        if array.nbytes:
            self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.stream)

    def copy_out(self, array, address):
        """Device → a contiguous array, in stream order; complete after wait()."""
        if array.nbytes:
            self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self.stream)

    def wait(self):
        """Until all of the stream is done."""
        self._call("cuStreamSynchronize", self.stream)

    def _call(self, name, *arguments):
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} failed with CUDA error {status}")
