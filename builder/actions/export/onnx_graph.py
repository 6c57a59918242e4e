"""An .onnx file → its tensors, opset and external data, checked by onnx and loaded by ONNX Runtime."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.errors import ExportError, Where, at
from tritonsmith.builder.base.files.untrusted import open_regular
from tritonsmith.builder.base.tensors import Dim, Dtype, TensorSpec, dtype_from_onnx
from tritonsmith.builder.base.text.console import note

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array
    from tritonsmith.builder.actions.export.exported import Arrays, Runner

# What exporters write for "dynamic, no name"; as a name it would tie unrelated dimensions together.
_NAMELESS = frozenset({"", "?", "-1", "None", "none", "dynamic", "unk"})
_MAX_LOCATION_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Graph:
    """The outside of an ONNX model.

    external_files: locations of external data, relative to the model's directory, each once, in order.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ir_version: int
    external_files: tuple[str, ...]


def read_graph(path: Path, *, full_check: bool = True) -> Graph:
    """Parses and checks a model without reading its external data; full_check False leaves onnx's checker out.

    ExportError: source_missing, git_lfs_pointer, corrupt_onnx, invalid_onnx, external_data_missing,
    external_data_path, unsupported_tensor.
    """
    import onnx

    with at(Where(path)):
        model = _parse(path)
        external = _external_locations(model, path)
        inferred = _with_inferred_shapes(model, path)
        if full_check:
            # What the file does not say is checked as ONNX Runtime has it; the file stays as it is.
            _check(model if inferred else str(path), path, onnx)
        initialised = {tensor.name for tensor in model.graph.initializer}
        # IR versions below 4 list initializers as inputs too.
        inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in initialised)
        outputs = tuple(_tensor(value) for value in model.graph.output)
        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        return Graph(inputs, outputs, int(opset), int(model.ir_version), external)


def _parse(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        with open_regular(path) as file:
            head = file.read(64)
    except (FileNotFoundError, NotADirectoryError):
        raise ExportError("the ONNX file does not exist", code="source_missing") from None
    except OSError as error:
        raise ExportError(
            f"the ONNX file cannot be read: {error.strerror or error}", code="source_unreadable"
        ) from error
    if head.startswith(b"version https://git-lfs"):
        raise ExportError(
            "this is a Git LFS pointer, not the ONNX file itself", code="git_lfs_pointer", fix="git lfs pull"
        )
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ExportError(
            "not an ONNX file, or a damaged one: it does not parse as protobuf",
            code="corrupt_onnx",
            seen=f"{path.stat().st_size} bytes starting {head[:12]!r}",
            fix="export or download it again",
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ExportError(
            "the file holds no ONNX graph",
            code="corrupt_onnx",
            seen=f"{path.stat().st_size} bytes",
            fix="export or download it again",
        )
    return model


def _with_inferred_shapes(model: Any, path: Path) -> bool:
    """Gives outputs without a shape, in the parsed model, the one that ONNX Runtime infers; whether there were any.

    Triton's onnxruntime backend reads an output's shape from the session, never from the file. Where ONNX Runtime infers no
    rank it says rank 0, and the backend takes the output for a scalar: ExportError unsupported_tensor.
    """
    bare = [
        value
        for value in model.graph.output
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    if not bare:
        return False
    shapes = {output.name: output.shape for output in open_session(path, optimised=True).get_outputs()}
    for value in bare:
        if not shapes.get(value.name):
            raise ExportError(
                f"output {value.name} has no rank, and ONNX Runtime infers none: Triton would take it for a scalar",
                code="unsupported_tensor",
                fix="export the model with the output's shape, dynamic dimensions as names",
            )
        for size in shapes[value.name]:
            dim = value.type.tensor_type.shape.dim.add()
            if isinstance(size, int) and size >= 0:
                dim.dim_value = size
            elif isinstance(size, str):
                dim.dim_param = size
    return True


def _check(model: Any, path: Path, onnx: Any) -> None:
    """onnx.checker in full, of a path or a parsed model; where shape inference alone objects, the plain check decides."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.shape_inference.InferenceError as error:
        note(f"full check of {path}: {error}")
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as invalid:
            raise _invalid(invalid) from invalid
    except onnx.checker.ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: Exception) -> ExportError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ExportError(f"onnx's checker rejects the model: {reason}", code="invalid_onnx")


def _tensor(value: Any) -> TensorSpec:
    if not value.type.HasField("tensor_type"):
        raise ExportError(
            f"{value.name} is no tensor; Triton carries tensors only",
            code="unsupported_tensor",
            seen=value.type.WhichOneof("value"),
        )
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ExportError(
            f"{value.name} has no rank",
            code="unsupported_tensor",
            fix="run onnx.shape_inference.infer_shapes on the model, or export it with shapes",
        )
    dims = tuple(_dim(dim) for dim in tensor.shape.dim)
    if 0 in dims:
        raise ExportError(
            f"{value.name} has a dimension of size 0, which Triton does not accept",
            code="unsupported_tensor",
            seen=list(dims),
            fix="export the model with a dynamic dimension there, or without the tensor",
        )
    return TensorSpec(value.name, _dtype(value.name, tensor.elem_type), dims)


def _dtype(name: str, elem_type: int) -> Dtype:
    import onnx

    try:
        return dtype_from_onnx(elem_type)
    except KeyError:
        raise ExportError(
            f"Triton cannot carry the type of {name}",
            code="unsupported_tensor",
            seen=onnx.TensorProto.DataType.Name(elem_type),
        ) from None


def _dim(dim: Any) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else -1
    return -1 if dim.dim_param in _NAMELESS else str(dim.dim_param)


def _external_locations(model: Any, path: Path) -> tuple[str, ...]:
    import onnx

    found: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            if location not in found:
                found[location] = _size_of_data(location, path)
            _check_range(entries, found[location])
    return tuple(found)


def _check_range(entries: Mapping[str, str], size_bytes: int) -> None:
    """ExportError where a tensor lies outside its file, which would be read as an allocation of any size."""
    offset, length = entries.get("offset", "0"), entries.get("length", "0")
    stated = [
        number for number in (offset, length) if number.isascii() and number.isdigit() and len(number) < 20
    ]
    if len(stated) < 2 or int(offset) + int(length) > size_bytes:
        raise ExportError(
            "a tensor of the model lies outside its file of external data",
            code="external_data_range",
            seen=f"{entries['location']}: offset {offset:.40}, length {length:.40} of {size_bytes} bytes",
            fix="save it again with its data beside it: onnx.save(…, save_as_external_data=True)",
        )


def _size_of_data(location: str, model_path: Path) -> int:
    directory = model_path.parent.resolve()
    parts = PurePosixPath(location).parts
    target = directory.joinpath(location)
    outside = (
        not parts
        or ".." in parts
        or PurePosixPath(location).is_absolute()
        or PureWindowsPath(location).is_absolute()
        or "\\" in location
        or "\0" in location
        or len(location.encode()) > _MAX_LOCATION_BYTES
    )
    if outside or not target.resolve().is_relative_to(directory):
        raise ExportError(
            "external data outside the model's directory is refused",
            code="external_data_path",
            seen=f"{location:.200}",
            fix="save it again with its data beside it: onnx.save(…, save_as_external_data=True)",
        )
    if not target.is_file():
        raise ExportError(
            "a file of the model's external data is missing, or is no regular file",
            code="external_data_missing",
            seen=location,
            fix=f"put it at {target}",
        )
    return target.stat().st_size


def _tensors(model: Any) -> Iterator[Any]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def onnxruntime_runner(path: Path, *, optimised: bool) -> Runner:
    """A function that runs the model in ONNX Runtime on the CPU; ExportError onnxruntime_rejects.

    optimised False is ORT_DISABLE_ALL: the graph as written.
    """
    return runner_of_session(open_session(path, optimised=optimised))


def open_session(path: Path, *, optimised: bool, level: int = 0) -> Any:
    """An onnxruntime.InferenceSession on the CPU; ExportError onnxruntime_rejects.

    level: Triton's optimization.graph.level, as its onnxruntime backend reads it: 0 is all, -1 basic, 1 extended, 2 none.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # ONNX Runtime does not read it: by itself it takes every CPU, which an action shares with those beside it.
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    levels = ort.GraphOptimizationLevel
    of_triton = {-1: levels.ORT_ENABLE_BASIC, 1: levels.ORT_ENABLE_EXTENDED, 2: levels.ORT_DISABLE_ALL}
    options.graph_optimization_level = of_triton.get(
        level if optimised else 2, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot load the model: {onnxruntime_reason(error)}",
            code="onnxruntime_rejects",
            where=Where(path),
        ) from error


def lacks_kernels(error: ExportError) -> bool:
    """Whether open_session failed for want of a kernel on the CPU: another provider may have it."""
    return type(error.__cause__).__name__ == "NotImplemented"


def outputs_of_session(outputs: Sequence[TensorSpec], session: Any) -> tuple[TensorSpec, ...]:
    """Outputs as the file or the spec has them → the same with the sizes that ONNX Runtime infers.

    Triton's onnxruntime backend compares an output's dims with these, and exactly: neither an open dimension that
    ONNX Runtime knows nor a size that it does not know loads (CompareDimsSupported, compare_exact, in
    onnxruntime_backend's src/onnxruntime_utils.cc). A rank that differs is left to the check of what comes out.
    """
    shapes = {output.name: output.shape for output in session.get_outputs()}
    return tuple(
        replace(t, shape=tuple(map(_of_session, t.shape, shapes[t.name])))
        if len(shapes.get(t.name, ())) == len(t.shape)
        else t
        for t in outputs
    )


def _of_session(ours: Dim, session: Any) -> Dim:
    if isinstance(session, int) and session >= 0:
        return session
    return ours if isinstance(ours, str) else -1


def runner_of_session(session: Any) -> Runner:
    """A function that runs it: {input: array} → {output: array}."""
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> dict[str, Array]:
        values = session.run(names, {name: _fed(array) for name, array in inputs.items()})
        return {name: _as_array(value) for name, value in zip(names, values, strict=True)}

    return run


def _fed(array: Array) -> Array:
    """What ONNX Runtime's Python API takes: strings as str, since it would feed repr(bytes) for bytes."""
    import numpy as np

    if array.dtype != object:
        return np.asarray(array, order="C")
    text = np.empty(array.size, dtype=object)
    text[:] = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
    return text.reshape(array.shape)


def _as_array(value: Any) -> Array:
    import numpy as np

    from tritonsmith.builder.actions.accuracy.samples import bytes_as_object

    return bytes_as_object(np.asarray(value))


def onnxruntime_reason(error: Exception) -> str:
    """ONNX Runtime's message without its error number, source file and function names."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S+\.(?:h|cc):\d+ \S+\([^)]*\) ", "", text)
    return text[:400]
