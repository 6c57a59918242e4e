"""Requests for an ONNX model → ONNX Runtime → responses: Triton's `onnxruntime` backend as a Python-based
one.

Runs inside triton_python_backend_stub. Its as_numpy() and Tensor(ndarray) are right under numpy 1 only: under
numpy 2 they hand over wrong values without an error, so nothing is loaded there.
"""

import json
import os
from pathlib import Path

import numpy as np
import ort_batch
import ort_config
import ort_session
import ort_state
import triton_python_backend_utils as pb


def _tensors_of(session):
    odd = ort_config.unsupported([*session.get_inputs(), *session.get_outputs()])
    if odd:
        name, onnx_type = odd[0]
        raise ort_config.ConfigRefused(
            f"unsupported datatype {onnx_type} of tensor '{name}': Triton's onnxruntime backend carries "
            + ", ".join(sorted(set(ort_config.ONNX_TYPES.values())))
        )
    return ort_config.tensor_infos(session.get_inputs()), ort_config.tensor_infos(session.get_outputs())


def _refuse_numpy_2():
    if int(np.__version__.split(".")[0]) >= 2:
        raise pb.TritonModelException(
            f"numpy {np.__version__} is installed; Triton's Python stub corrupts tensors under numpy 2. "
            "Install numpy<2 in the environment whose bin directory is first in PATH"
        )


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(model_config):
        config = model_config.as_dict()
        if (config.get("input") or config.get("batch_input")) and config.get("output"):
            return model_config
        path = _path_in(pb.get_model_dir(), config.get("default_model_filename"))
        try:
            session = ort_session.session_from_config(config, path)
            inputs, outputs = _tensors_of(session)
            ort_config.complete(config, inputs, outputs, _default_max_batch_size())
        except Exception as error:
            raise pb.TritonModelException(_reason(error)) from None
        return model_config

    def initialize(self, args):
        _refuse_numpy_2()
        config = json.loads(args["model_config"])
        path = ort_session.model_path(
            args["model_repository"], args["model_version"], config.get("default_model_filename")
        )
        try:
            self._session = ort_session.session_from_config(
                config, path, args["model_instance_kind"], int(args["model_instance_device_id"])
            )
            inputs, outputs = _tensors_of(self._session)
            initializers = ort_config.tensor_infos(self._session.get_overridable_initializers())
            ort_config.validate(config, inputs, outputs, initializers)
        except Exception as error:
            raise pb.TritonModelException(_reason(error)) from None

        self._batching = config.get("max_batch_size", 0) > 0
        self._scalar_inputs = {name for name, info in inputs.items() if not info.dims}
        self._string_inputs = {
            n for n, info in {**inputs, **initializers}.items() if info.data_type == "TYPE_STRING"
        }
        self._ragged = frozenset(io["name"] for io in config["input"] if io.get("allow_ragged_batch"))
        self._batch_inputs = config.get("batch_input", [])
        self._scattered = {
            name: row["source_input"][0]
            for row in config.get("batch_output", [])
            for name in row["target_name"]
        }
        self._scalar_outputs = {
            io["name"]: [int(d) for d in io["dims"]]
            for io in config["output"]
            if not outputs[io["name"]].dims
        }
        self._states = ort_state.SequenceStates(config, args["model_repository"])
        returned = [io["name"] for io in config["output"]]
        self._outputs = returned + [
            r["output_name"] for r in self._states.rows if r["output_name"] not in returned
        ]

    def execute(self, requests):
        responses = [None] * len(requests)
        feeds = []
        for index, request in enumerate(requests):
            try:
                feeds.append((index, self._feed(request)))
            except Exception as error:  # noqa: PERF203
                responses[index] = _failed(error)
        arrays = [feed for _, feed in feeds]
        groups = ort_batch.groups_of_equal_shape(
            arrays, self._batching and not self._scalar_inputs, self._ragged
        )
        for group in groups:
            members = [feeds[i] for i in group]
            for index, result in self._run(requests, members):
                responses[index] = result
        return responses

    def _feed(self, request):
        """{input name: array} of one request, as the ONNX model wants them."""
        feed = {}
        for tensor in request.inputs():
            name = tensor.name()
            array = tensor.as_numpy()
            if name in self._string_inputs:
                array = _text(name, array)
            elif name in self._scalar_inputs:
                array = array.reshape(())
            feed[name] = array
        if self._states.rows:
            start = request.flags() & pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
            feed.update(self._states.feed(request.correlation_id(), start))
        return feed

    def _run(self, requests, members):
        """One run for `members`, [(request index, feed)] → (request index, response) of each.

        When a joined run fails, its requests run one by one, so that only the one at fault fails.
        """
        feeds = [feed for _, feed in members]
        try:
            joined = ort_batch.join(feeds, self._ragged)
            for row in self._batch_inputs:
                shapes = [feed[row["source_input"][0]].shape for feed in feeds]
                tensor = ort_batch.batch_input(row["kind"], ort_state.NUMPY[row["data_type"]], shapes)
                joined = {**joined, **dict.fromkeys(row["target_name"], tensor)}
            wanted = self._wanted(requests, members)
            results = self._session.run(wanted, joined) if wanted else []
            shares = [
                dict(zip(wanted, values, strict=True))
                for values in zip(*self._split(wanted, results, feeds), strict=True)
            ]
        except Exception as error:
            if len(members) == 1:
                return [(members[0][0], _failed(error))]
            return [pair for member in members for pair in self._run(requests, [member])]
        return [
            (index, self._response(requests[index], share))
            for (index, _), share in zip(members, shares or [{}] * len(members), strict=True)
        ]

    def _wanted(self, requests, members):
        asked = set()
        for index, _ in members:
            asked.update(requests[index].requested_output_names())
        asked.update(row["output_name"] for row in self._states.rows)
        return [name for name in self._outputs if name in asked]

    def _split(self, names, results, feeds):
        for name, output in zip(names, results, strict=True):
            if name in self._scattered:
                yield ort_batch.scatter(name, output, [feed[self._scattered[name]].shape for feed in feeds])
                continue
            if name in self._scalar_outputs:
                output = output.reshape(self._scalar_outputs[name])
            yield ort_batch.split(name, output, ort_batch.rows_of(feeds)) if self._batching else [output]

    def _response(self, request, share):
        if self._states.rows:
            end = request.flags() & pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
            state = {row["input_name"]: share[row["output_name"]] for row in self._states.rows}
            self._states.keep(request.correlation_id(), end, state)
        # In the order of their names, as in production: onnxruntime.cc adds a response's outputs while it walks
        # ModelOutputs(), a std::map by name, however the request or the config orders them.
        names = sorted(request.requested_output_names())
        return pb.InferenceResponse([pb.Tensor(name, share[name]) for name in names])


def _path_in(version_dir, filename):
    version_dir = Path(version_dir)
    return ort_session.model_path(version_dir.parent, version_dir.name, filename)


def _reason(error):
    # onnxruntime's exceptions are told apart by their class: NoSuchFile, InvalidProtobuf, Fail …
    known = isinstance(error, (RuntimeError, ort_config.ConfigRefused))
    return str(error) if known else f"{type(error).__name__}: {error}"


def _default_max_batch_size():
    return int(os.environ.get("TRITONSMITH_DEFAULT_MAX_BATCH_SIZE", ort_config.DEFAULT_MAX_BATCH_SIZE))


def _text(name, array):
    """Triton's BYTES elements (bytes) → str, which is what onnxruntime's Python API takes.

    ValueError for bytes that are not UTF-8, and for a NUL: production hands C strings over (FillStringTensor in
    onnxruntime.cc), which end there.
    """
    raw = [v if isinstance(v, bytes) else v.encode("utf-8") for v in array.reshape(-1)]
    if any(b"\0" in v for v in raw):
        raise ValueError(
            f"input '{name}' holds a NUL byte, at which production's onnxruntime backend cuts it"
        )
    text = np.empty(len(raw), dtype=np.object_)
    try:
        text[:] = [v.decode("utf-8") for v in raw]
    except UnicodeDecodeError as error:
        raise ValueError(f"input '{name}' holds BYTES that are not UTF-8: {error}") from None
    return text.reshape(array.shape)


def _failed(error):
    return pb.InferenceResponse(output_tensors=[], error=pb.TritonError(f"onnx runtime error: {error}"))
