"""Rules about an ONNX file itself: whether it can be read, and whether ONNX Runtime and Triton take it."""

from __future__ import annotations

from collections.abc import Iterator

from tritonsmith.builder.lint.read.model import Model, model_file
from tritonsmith.builder.lint.read.onnx_io import OnnxModel, OnnxProblem
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import onnx_type
from tritonsmith.builder.lint.target import onnx_limits


@rule(
    "ONNX001",
    "error",
    "load",
    then="ONNX Runtime refuses the file when it creates the session",
    fix="export at a lower opset, or serve from a newer release",
    source="measured: builder/lint/rules/files/onnxruntime_limits.csv; Model Navigator docs/known_issues.md",
    bad='backend: "onnxruntime"  # the file has opset 24, --target 24.10',
    good='backend: "onnxruntime"  # the file has opset 21, --target 24.10',
    needs="target",
)
def too_new_for_target(model: Model, context: Context) -> Iterator[Hit]:
    """An ONNX file's IR version or opset is newer than the target's ONNX Runtime."""
    runtime = context.target.onnxruntime
    limits = onnx_limits(runtime) if runtime else None
    if limits is None:
        return
    for version in model.selected:
        surface = model.onnx.get(version.number)
        if not isinstance(surface, OnnxModel):
            continue
        for what, have, most in (
            ("IR version", surface.ir_version, limits[0]),
            ("opset", surface.opset, limits[1]),
        ):
            if have > most:
                yield Hit(
                    f"{what} {have}; Triton {context.target.release} has ONNX Runtime {runtime}, "
                    f"which loads up to {most}",
                    seen=have,
                    file=model_file(model.config, version),
                )


@rule(
    "ONNX002",
    "error",
    "load",
    then="ONNX Runtime refuses the file and the model does not load",
    fix="export or download it again",
    source="seen live on 2.51.0: INVALID_PROTOBUF, Load model failed: Protobuf parsing failed",
    bad="detector/1/model.onnx  # cut off in the middle",
    good="detector/1/model.onnx  # whole",
    needs="onnx",
)
def unreadable_onnx(model: Model, context: Context) -> Iterator[Hit]:
    """An ONNX file cannot be read as one."""
    for version in model.selected:
        problem = model.onnx.get(version.number)
        if isinstance(problem, OnnxProblem):
            yield Hit(f"no ONNX model: {problem}", file=model_file(model.config, version))


@rule(
    "ONNX003",
    "error",
    "load",
    then="the onnxruntime backend refuses the model: it carries dense tensors of Triton's types only",
    fix="export the graph with tensor inputs and outputs (for scikit-learn, zipmap=False)",
    source="onnxruntime_backend/src/onnxruntime_utils.cc, InputOutputInitializerInfos",
    bad='backend: "onnxruntime"  # the graph gives a sequence of maps',
    good='backend: "onnxruntime"  # the graph gives a tensor',
    needs="onnx",
)
def type_without_name(model: Model, context: Context) -> Iterator[Hit]:
    """A graph input or output is no dense tensor, or of a type that the backend does not carry."""
    for version in model.selected:
        surface = model.onnx.get(version.number)
        if not isinstance(surface, OnnxModel):
            continue
        for tensor in (*surface.inputs, *surface.outputs):
            if onnx_type(tensor) in (None, "TYPE_BF16"):
                what = "no tensor" if not tensor.element else f"of ONNX type {tensor.element}"
                yield Hit(
                    f"'{tensor.name}' is {what}", seen=tensor.element, file=model_file(model.config, version)
                )
