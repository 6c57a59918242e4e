"""(ONNX model, names of its inner tensors, inputs) → their values, run in ONNX Runtime with the graph as written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.files.disk import beside

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

CHUNK_BYTES = 512 * 2**20
"""Values of one run held at once; the number of tensors a run gives back is chosen to stay below it."""

_FIRST_CHUNK = 16


def float_tensors(model: Any) -> list[str]:
    """Outputs of the top-level graph's nodes that carry fp32, fp16 or bf16 as far as shape inference knows, in order."""
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    types = element_types(model)
    return [name for node in model.graph.node for name in node.output if name and types.get(name) in floats]


def element_types(model: Any) -> dict[str, int]:
    """Tensor name → ONNX element type, of all tensors whose type is stated or inferred."""
    import onnx

    light = without_weights(model)
    with_types = onnx.shape_inference.infer_shapes(light)
    graph = with_types.graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.HasField("tensor_type")
    }
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def without_weights(model: Any) -> Any:
    """A copy whose large initializers are inputs: small enough for protobuf's 2 GiB, typed alike."""
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(model) if model.ByteSize() < 2**22 else _copy_without_weights(model, light)
    return light


def _copy_without_weights(model: Any, light: Any) -> None:
    import onnx

    for field in ("ir_version", "producer_name"):
        setattr(light, field, getattr(model, field))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = model.graph
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    known = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.ByteSize() < 1024:
            light.graph.initializer.append(tensor)
        elif tensor.name not in known:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )


def run_intermediates(
    path: str, names: Sequence[str], samples: Sequence[Mapping[str, Array]]
) -> Iterator[tuple[int, str, Array]]:
    """(index of the sample, tensor name, value) of every named tensor; a few tensors at a time.

    path: the .onnx file; external data is found beside it. BuildError intermediates when ONNX Runtime cannot
    run it. Values are as ONNX Runtime gives them; one run's values never exceed about CHUNK_BYTES.
    """
    left, size = list(names), _FIRST_CHUNK
    while left:
        chunk, left = left[:size], left[size:]
        largest = 1
        run = _runner(path, chunk)
        for index, inputs in enumerate(samples):
            values = run(inputs)
            largest = max(largest, sum(value.nbytes for value in values) // len(chunk))
            for name, value in zip(chunk, values, strict=True):
                yield index, name, value
        size = max(1, min(256, CHUNK_BYTES // largest))


def _runner(path: str, names: Sequence[str]) -> Any:
    """A function inputs → values of `names`, which become the model's outputs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _with_outputs(path, names) as model:
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _cannot_run(error) from error
    wanted = {value.name for value in session.get_inputs()}

    def run(inputs: Mapping[str, Array]) -> Any:
        try:
            return session.run(list(names), {k: v for k, v in inputs.items() if k in wanted})
        except Exception as error:  # ONNX Runtime's own have no base but this
            raise _cannot_run(error) from error

    return run


def _cannot_run(error: Exception) -> BuildError:
    return BuildError(
        f"ONNX Runtime cannot run the model with its inner tensors as outputs: {str(error)[:300]}",
        code="intermediates",
    )


@contextmanager
def _with_outputs(path: str, names: Sequence[str]) -> Iterator[bytes | str]:
    import onnx

    model = onnx.load(path, load_external_data=False)
    # Outputs that nobody asks for would be computed and kept all the same.
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    if not any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        yield model.SerializeToString()
        return
    # External data is looked up beside the file, so the file has to lie there.
    with beside(Path(path)) as temporary:
        onnx.save(model, str(temporary))
        yield str(temporary)
