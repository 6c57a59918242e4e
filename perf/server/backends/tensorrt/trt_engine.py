"""A plan file → an engine that runs arrays through its nearest optimization profile."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

import numpy as np
import trt_rules

if TYPE_CHECKING:
    import tensorrt

TensorInfo = namedtuple("TensorInfo", ["name", "data_type", "dims"])
"""As in the onnxruntime backend's ort_config: Triton's type name and the whole shape, -1 where it is
dynamic."""


class Engine:
    """A deserialised plan; `device` is a trt_cuda.Device. RuntimeError says why a plan cannot be loaded or run."""

    def __init__(self, trt, path, device):
        if not path.is_file():
            raise RuntimeError(f"unable to find '{path}'")
        self._trt, self._device = trt, device
        errors = []
        # A plan that brings host code along would run it here: not allowed, as in production without its flag.
        logger = _logger(trt, errors)
        # As production's backend does when it starts (tensorrt_backend, src/tensorrt.cc): engines may need them.
        trt.init_libnvinfer_plugins(logger, "")
        self._runtime: tensorrt.Runtime = trt.Runtime(logger)
        engine: tensorrt.ICudaEngine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RuntimeError(
                f"TensorRT {trt.__version__} cannot load '{path.name}': "
                + ("; ".join(errors[:2]) or "it says no reason")
            )
        self._engine = engine
        self._contexts = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        types = {name: engine.get_tensor_dtype(name).name for name in names}
        odd = sorted(name for name in names if types[name] not in trt_rules.NUMPY)
        if odd:
            raise RuntimeError(f"unsupported datatype {types[odd[0]]} of tensor '{odd[0]}'")
        self._dtypes = {name: np.dtype(trt_rules.NUMPY[types[name]]) for name in names}
        self._on_host = {
            name for name in names if engine.get_tensor_location(name) == trt.TensorLocation.HOST
        }
        rows = {name: self._info(engine, name) for name in names}
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = {name: rows[name] for name in inputs}
        self.outputs = {name: rows[name] for name in names if name not in self.inputs}
        self.profiles = [
            {
                name: tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
                for name in inputs
                if name not in self._on_host
            }
            for index in range(engine.num_optimization_profiles)
        ]

    def _info(self, engine: tensorrt.ICudaEngine, name):
        data_type = trt_rules.TYPES.get(engine.get_tensor_dtype(name).name, "TYPE_INVALID")
        return TensorInfo(name, data_type, tuple(engine.get_tensor_shape(name)))

    def run(self, feed, wanted, allowed):
        """{input: array} → [array of each wanted output]."""
        shapes = {name: array.shape for name, array in feed.items() if name not in self._on_host}
        index = trt_rules.nearest_profile(self.profiles, allowed, shapes)
        device = self._device
        device.enter()
        context: tensorrt.IExecutionContext = self._context(index)
        held = []
        for name, given in feed.items():
            array = np.ascontiguousarray(given, dtype=self._dtypes[name])
            held.append(array)
            if name not in self._on_host:
                context.set_input_shape(name, array.shape)
            self._bind(context, name, array, copy=True)
        missing = context.infer_shapes()
        if missing:
            raise RuntimeError(f"shapes cannot be told without {', '.join(missing)}")
        results = {}
        for name in self.outputs:
            shape = tuple(context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise RuntimeError(f"output '{name}' has a size that depends on the data; that is not served")
            results[name] = np.empty(shape, dtype=self._dtypes[name])
            self._bind(context, name, results[name], copy=False)
        if not context.execute_async_v3(device.stream):
            raise RuntimeError("TensorRT refused to run the batch; the server's log has its reason")
        for name in wanted:
            if name not in self._on_host:
                device.copy_out(results[name], device.buffer(name, results[name].nbytes))
        device.wait()
        return [results[name] for name in wanted]

    def _bind(self, context: tensorrt.IExecutionContext, name, array, copy):
        if name in self._on_host:
            context.set_tensor_address(name, array.ctypes.data)
            return
        address = self._device.buffer(name, array.nbytes)
        if copy:
            self._device.copy_in(address, array)
        context.set_tensor_address(name, address)

    def _context(self, index):
        """The execution context of a profile, made at its first use."""
        if index not in self._contexts:
            engine: tensorrt.ICudaEngine = self._engine
            context: tensorrt.IExecutionContext = engine.create_execution_context()
            if context is None:
                raise RuntimeError("TensorRT has no memory for another execution context")
            context.set_optimization_profile_async(index, self._device.stream)
            self._device.wait()
            self._contexts[index] = context
        return self._contexts[index]


def _logger(trt, errors):
    class Logger(trt.ILogger):
        def log(self, severity, message):
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(" ".join(message.split()))
                print(f"TensorRT: {message}", flush=True)

    return Logger()
