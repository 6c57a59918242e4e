"""Requests for a TensorRT plan → TensorRT's Python runtime → responses: Triton's `tensorrt` backend as a
Python-based one.

Joining, splitting and the rules of configs are the onnxruntime backend's, which lies beside this one.
"""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

# Behind everything else: its model.py must not stand in for this one.
sys.path.append(str(Path(__file__).resolve().parent.parent / "onnxruntime"))

import ort_batch
import ort_config
import trt_cuda
import trt_engine
import trt_rules


def _load(config, version_dir, device_id):
    """The device comes first: without a GPU nothing else matters, and TensorRT's own error says less."""
    device = trt_cuda.Device(device_id)
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:
        raise RuntimeError(f"TensorRT's Python runtime is not here ({error}); pip install tensorrt") from None
    path = Path(version_dir, trt_rules.plan_name(config, device.compute_capability()))
    return trt_engine.Engine(trt, path, device)


def _refuse_what_is_not_served(config):
    for key in ("batch_input", "batch_output"):
        if config.get(key):
            raise ort_config.ConfigRefused(f"model '{config['name']}': {key} is not served by this backend")
    if config.get("sequence_batching", {}).get("state"):
        raise ort_config.ConfigRefused(
            f"model '{config['name']}': implicit state is not served by this backend"
        )
    if int(np.__version__.split(".")[0]) >= 2:
        raise RuntimeError(
            f"numpy {np.__version__} is installed; Triton's Python stub corrupts tensors under numpy 2"
        )


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(model_config):
        config = model_config.as_dict()
        if config.get("input") and config.get("output"):
            return model_config
        try:
            engine = _load(config, pb.get_model_dir(), trt_rules.first_gpu(config))
            allowed = trt_rules.profiles_of_model(config, len(engine.profiles))
            default = trt_rules.largest_batch(engine.profiles, allowed, ort_config.DEFAULT_MAX_BATCH_SIZE)
            ort_config.complete(config, engine.inputs, engine.outputs, default)
        except Exception as error:
            raise pb.TritonModelException(str(error)) from None
        return model_config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        device_id = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0
        version_dir = Path(args["model_repository"], str(args["model_version"]))
        try:
            _refuse_what_is_not_served(config)
            self._engine = _load(config, version_dir, device_id)
            ort_config.validate(
                config, self._engine.inputs, self._engine.outputs, same_dims=trt_rules.same_dims
            )
            self._profiles = trt_rules.profiles_of_instance(
                config, args["model_instance_name"], len(self._engine.profiles)
            )
        except Exception as error:
            raise pb.TritonModelException(str(error)) from None
        self._batching = config.get("max_batch_size", 0) > 0

    def execute(self, requests):
        responses = [None] * len(requests)
        feeds = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        for group in ort_batch.groups_of_equal_shape(feeds, self._batching):
            for index, response in self._run(requests, feeds, group):
                responses[index] = response
        return responses

    def _run(self, requests, feeds, group):
        """(request index, response) of each; when a joined run fails, its requests run one by one."""
        asked = {name for index in group for name in requests[index].requested_output_names()}
        wanted = [name for name in self._engine.outputs if name in asked]
        members = [feeds[index] for index in group]
        try:
            results = self._engine.run(ort_batch.join(members), wanted, self._profiles)
            parts = [
                ort_batch.split(name, result, ort_batch.rows_of(members)) if self._batching else [result]
                for name, result in zip(wanted, results, strict=True)
            ]
        except Exception as error:
            if len(group) > 1:
                return [pair for index in group for pair in self._run(requests, feeds, [index])]
            message = pb.TritonError(f"TensorRT: {error}")
            return [(group[0], pb.InferenceResponse(output_tensors=[], error=message))]
        return [
            (index, self._response(requests[index], wanted, [part[place] for part in parts]))
            for place, index in enumerate(group)
        ]

    def _response(self, request, names, arrays):
        # In the order of the engine's tensors, as in production: instance_state.cc of the tensorrt_backend adds a
        # response's outputs while it walks the engine's bindings.
        asked = request.requested_output_names()
        return pb.InferenceResponse(
            [pb.Tensor(name, array) for name, array in zip(names, arrays, strict=True) if name in asked]
        )
