"""A ModelConfig as written → the ModelConfig that Triton judges, its missing fields filled in.

Two steps, as in the server. The core fills `name`, `backend`, `platform` and `default_model_filename` from
each other and from the first version directory's files (core, src/model_config_utils.cc,
AutoCompleteBackendFields). The onnxruntime backend then fills `max_batch_size`, `dynamic_batching`, `input`
and `output` from the graph, when inputs or outputs are missing (onnxruntime_backend, src/onnxruntime.cc,
ModelState::AutoCompleteConfig).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.tensors import dtype_from_onnx
from tritonsmith.builder.lint.read.onnx_io import OnnxModel, OnnxTensor

DEFAULT_MAX_BATCH_SIZE = 4
"""What the server passes as `--backend-config=default-max-batch-size` unless told otherwise."""

# Backend → (platform that it stands for, default model file). An empty platform is not filled in.
BACKENDS: dict[str, tuple[str, str]] = {
    "tensorrt": ("tensorrt_plan", "model.plan"),
    "onnxruntime": ("onnxruntime_onnx", "model.onnx"),
    "openvino": ("", "model.xml"),
    "pytorch": ("pytorch_libtorch", "model.pt"),
    "python": ("", "model.py"),
}
# TensorFlow's platforms → their default model files; its backend is told by nothing else.
TENSORFLOW: dict[str, str] = {
    "tensorflow_savedmodel": "model.savedmodel",
    "tensorflow_graphdef": "model.graphdef",
}
PLATFORMS: dict[str, str] = {
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "ensemble": "",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}


def completed(
    written: Any, name: str, path: Path | None, versions: Iterable[Any], onnx: OnnxModel | None = None
) -> Any:
    """A completed copy of `written`.

    name:     the model directory's name.
    path:     the model's directory, None when it has none: then files say nothing.
    versions: its version directories.
    onnx:     the surface of the ONNX file that it serves, if there is one.
    """
    name = name.encode(
        errors="backslashreplace"
    ).decode()  # a directory's name need not be text, a message's must
    config = type(written)()
    config.CopyFrom(written)
    if not config.name:
        config.name = name
    if config.platform == "ensemble" or config.HasField("ensemble_scheduling"):
        return config
    # The core looks into the directory that sorts first as text, so 10 comes before 2.
    first = min(versions, key=lambda v: str(v.number), default=None)
    _fill_backend(config, name, first.entries if first is not None else frozenset())
    if onnx is not None and config.backend == "onnxruntime":
        _fill_from_onnx(config, onnx)
    return config


def _fill_backend(config: Any, name: str, files: frozenset[str]) -> None:
    _fill_tensorflow(config, files)
    if not config.backend:
        config.backend = _backend_from_hints(config, files)
    if config.backend in BACKENDS:
        platform, filename = BACKENDS[config.backend]
        if config.platform == "torch_aoti":
            filename = "model.pt2"
        config.platform = config.platform or platform
        config.default_model_filename = config.default_model_filename or filename
    elif not config.backend and not config.platform and not config.default_model_filename and "." in name:
        # A model named `model.identity` is served by the backend `identity`.
        config.backend = name.split(".", 1)[1]
        config.default_model_filename = f"model.{config.backend}"


def _fill_tensorflow(config: Any, files: frozenset[str]) -> None:
    if not config.platform and config.backend in ("", "tensorflow"):
        named = {config.default_model_filename} if config.default_model_filename else files
        config.platform = next((platform for platform, file in TENSORFLOW.items() if file in named), "")
    if config.platform in TENSORFLOW:
        config.backend = config.backend or "tensorflow"
        config.default_model_filename = config.default_model_filename or TENSORFLOW[config.platform]


def _backend_from_hints(config: Any, files: frozenset[str]) -> str:
    if config.platform:
        return PLATFORMS.get(config.platform, "")
    if config.default_model_filename:
        named = {filename: backend for backend, (_, filename) in BACKENDS.items()}
        return named.get(config.default_model_filename, "")
    return next((backend for backend, (_, filename) in BACKENDS.items() if filename in files), "")


def can_batch(onnx: OnnxModel) -> bool:
    """Whether every input and output has a dynamic first dimension.

    An output whose shape the file leaves open passes: ONNX Runtime infers it, mostly from the inputs.
    """
    shapes = [t.wire_shape or () for t in onnx.inputs]
    shapes += [t.wire_shape for t in onnx.outputs if t.wire_shape is not None]
    return all(shape and shape[0] == -1 for shape in shapes)


def _fill_from_onnx(config: Any, onnx: OnnxModel) -> None:
    inputs = len(config.input) + len(config.batch_input)
    if inputs and len(config.output):
        return
    if can_batch(onnx):
        if config.max_batch_size == 0:
            config.max_batch_size = DEFAULT_MAX_BATCH_SIZE
        if config.max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
            config.dynamic_batching.SetInParent()
    if not inputs:
        for tensor in onnx.inputs:
            _add_tensor(config.input.add(), tensor, config.max_batch_size)
    if not len(config.output):
        for tensor in onnx.outputs:
            _add_tensor(config.output.add(), tensor, config.max_batch_size)


def _add_tensor(field: Any, tensor: OnnxTensor, max_batch_size: int) -> None:
    field.name = tensor.name
    try:
        field.data_type = (
            type(field)
            .DESCRIPTOR.fields_by_name["data_type"]
            .enum_type.values_by_name[dtype_from_onnx(tensor.element).config]
            .number
        )
    except KeyError:
        field.data_type = 0
    shape = tensor.wire_shape or ()
    dims = shape[1:] if max_batch_size > 0 else shape
    field.dims.extend(dims or (1,))
    if not dims and max_batch_size > 0:
        field.reshape.SetInParent()
