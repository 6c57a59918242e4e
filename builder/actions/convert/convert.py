"""ConvertRequest → an ONNX file at the asked precision, checked, with what was left out and why."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.calibration import Calibration, load_calibration
from tritonsmith.builder.actions.accuracy.samples import SampleSet, load_samples
from tritonsmith.builder.actions.convert import graph as graphs
from tritonsmith.builder.actions.convert.by_precision import NONE, Converted, half, int4, nvfp4, quantized
from tritonsmith.builder.actions.convert.coverage import (
    Coverage,
    coverage,
    really_half,
    really_quantized,
    weight_sizes,
)
from tritonsmith.builder.actions.convert.options import Nvfp4Options, options_for
from tritonsmith.builder.actions.convert.prepare import (
    outputs_taken_off_inputs,
    prepared,
    put_back,
)
from tritonsmith.builder.actions.convert.request import (
    NEEDS_CALIBRATION,
    PRECISIONS,
    TOOLS_BESIDE_ONNX,
    ConvertRequest,
    ConvertResult,
    KeptNode,
    Precision,
)
from tritonsmith.builder.actions.export.onnx_graph import Graph, onnxruntime_runner, read_graph
from tritonsmith.builder.base.errors import BuildError, ExportError, SpecError, Where, unknown
from tritonsmith.builder.base.files.disk import adopt, delete


def convert(request: ConvertRequest, out_dir: Path) -> ConvertResult:
    """Writes the converted model below out_dir; run in a child process by run_convert.

    SpecError precision_unknown, precision_option, exclude_matches_nothing; BuildError calibration_missing and
    load_calibration's, nothing_to_convert, not_fp32, opset_conversion, quantization_failed, invalid_conversion;
    ToolError onnx_ir_missing; ExportError from read_graph.
    """
    started = time.monotonic()
    check_precision(request.precision)
    options = options_for(request.precision, request.options)
    source = Path(request.source_onnx)
    outside = read_graph(source)
    out_dir.mkdir(parents=True, exist_ok=True)
    _clear(out_dir)
    held_out = load_samples(Path(request.held_out)) if request.held_out else SampleSet(())
    calibration = _calibration(request, options, outside, held_out)
    kept: tuple[KeptNode, ...] = ()
    converted, notes = NONE, NONE
    covered: Coverage | None = None
    if request.precision in ("fp32", "tf32"):
        # TF32 is how a GPU multiplies fp32: the graph is the same, and its runtime is told.
        files = _copied(source, outside, out_dir)
    else:
        (model, kept, converted, notes), covered = _converted(request, options, calibration, held_out)
        files = graphs.save(model, out_dir, request.external_above_bytes)
    path = out_dir / next(name for name in files if name.endswith(".onnx"))
    result = _checked(path, outside, request)
    return ConvertResult(
        precision=request.precision,
        files=files,
        inputs=result.inputs,
        outputs=result.outputs,
        opset=result.opset,
        ir_version=result.ir_version,
        kept_fp32=kept,
        converted=converted,
        calibration_digest=calibration.digest if calibration else None,
        calibration_rows=calibration.rows if calibration else 0,
        dependencies=calibration.dependencies if calibration else (),
        seconds=time.monotonic() - started,
        tools=_tools(request.precision),
        tensorrt_only=not _runs_in_onnxruntime(path),
        notes=notes,
        coverage=covered,
    )


def check_precision(precision: str) -> None:
    """SpecError precision_unknown with the nearest one."""
    if precision in PRECISIONS:
        return
    raise SpecError(
        f"precision {precision} cannot be made",
        code="precision_unknown",
        **unknown(precision, PRECISIONS),
    )


def _clear(out_dir: Path) -> None:
    adopt(out_dir)
    for old in out_dir.glob("model.onnx*"):
        delete(old)


def _calibration(
    request: ConvertRequest, options: Any, outside: Graph, held_out: SampleSet
) -> Calibration | None:
    weights_alone = isinstance(options, Nvfp4Options) and not options.activations
    looked_at = request.precision in (*NEEDS_CALIBRATION, "fp16") and not weights_alone
    if request.calibration is not None and looked_at:
        return load_calibration(request.calibration, outside.inputs, (s.inputs for s in held_out.samples))
    if looked_at and request.precision in NEEDS_CALIBRATION:
        raise BuildError(
            f"{request.model}: precision {request.precision} needs calibration samples",
            code="calibration_missing",
            valid=["module:callable", "an .npz file", "a directory of .npz files"],
            fix="calibration: in the spec, with inputs from the model's real domain"
            + ("; or options: {activations: false}" if request.precision == "nvfp4" else ""),
        )
    return None


def _copied(source: Path, outside: Graph, out_dir: Path) -> tuple[str, ...]:
    if not outside.external_files:
        shutil.copyfile(source, out_dir / "model.onnx")
        return ("model.onnx",)
    directory = out_dir / "model.onnx"
    directory.mkdir()
    shutil.copyfile(source, directory / "model.onnx")
    for name in outside.external_files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, directory / name)
    return ("model.onnx/model.onnx", *(f"model.onnx/{name}" for name in outside.external_files))


def _converted(
    request: ConvertRequest, options: Any, calibration: Calibration | None, held_out: SampleSet
) -> tuple[Converted, Coverage]:
    source = Path(request.source_onnx)
    model = graphs.load_prepared(source)
    has_functions = bool(model.functions)
    written = [(node.name, node.op_type) for node in model.graph.node]
    weights_alone = request.precision not in ("fp16", "bf16")
    model, prepared_notes = prepared(model, fold=weights_alone)
    if has_functions:
        graphs.named(model)
        with tempfile.TemporaryDirectory(prefix="tritonsmith-") as directory:
            # Calibration and ranges look at inner tensors, which functions hide.
            graphs.save(model, Path(directory), request.external_above_bytes)
            inner = next(Path(directory).rglob("model.onnx"))
            inner = inner / "model.onnx" if inner.is_dir() else inner
            return _judged_whole(
                replace(request, source_onnx=str(inner)),
                model,
                options,
                calibration,
                held_out,
                prepared_notes,
                source,
                written,
            )
    return _judged_whole(request, model, options, calibration, held_out, prepared_notes, source, written)


def _judged_whole(
    request: ConvertRequest,
    model: Any,
    options: Any,
    calibration: Calibration | None,
    held_out: SampleSet,
    prepared_notes: tuple[str, ...],
    source: Path,
    written: Sequence[tuple[str, str]],
) -> tuple[Converted, Coverage]:
    """The conversion, with what it claims held against the graph that came out."""
    import onnx

    sizes, before = weight_sizes(model), onnx.ModelProto()
    before.graph.node.extend(model.graph.node)
    types = {node.name: node.op_type for node in model.graph.node}
    if not sizes:
        stored = sorted({onnx.TensorProto.DataType.Name(t.data_type) for t in model.graph.initializer})
        raise BuildError(
            f"{request.model} has no fp32 weights, so there is nothing to bring to {request.precision}",
            code="nothing_to_convert",
            where=Where(source),
            seen=f"constants of type {', '.join(stored)}" if stored else "no constants",
        )
    excluded = {
        name: f'excluded by "{pattern}"'
        for name, pattern in graphs.excluded_nodes([*written, *types.items()], request.exclude).items()
    }
    inputs_given_back = outputs_taken_off_inputs(model.graph)
    if request.precision in ("fp16", "bf16"):
        done = half(request, model, excluded, calibration, held_out)
    elif request.precision == "int4":
        done = int4(request, model, excluded, options)
    elif request.precision == "nvfp4":
        done = nvfp4(request, model, excluded, calibration)
    else:
        assert calibration is not None
        done = quantized(request, model, excluded, options, calibration)
    made, kept, claimed, notes = done
    put_back(made.graph, inputs_given_back)
    really = (
        really_quantized(made, before, claimed)
        if request.precision not in ("fp16", "bf16")
        else really_half(made, claimed)
    )
    named = {node.name for node in kept}
    unchanged = [name for name in claimed if name not in really and name not in named]
    if request.precision not in ("fp16", "bf16"):
        # Of half precision, such nodes have nothing to do with floats: shapes, indices.
        kept += tuple(KeptNode(n, types[n], "the converter leaves it as it is") for n in unchanged)
    if not really:
        raise BuildError(
            f"no node of {request.model} can be brought to {request.precision}",
            code="nothing_to_convert",
            where=Where(source),
            seen=_reasons(kept),
        )
    weights = (
        sizes
        if request.precision in ("fp16", "bf16")
        else {node.input[1] for node in before.graph.node if node.name in really}
    )
    covered = coverage(sizes, made, really, [(k.op_type, k.reason) for k in kept], weights)
    return (made, kept, really, (*prepared_notes, *notes)), covered


def _reasons(kept: Sequence[KeptNode]) -> str:
    """Each reason with the nodes it holds for."""
    by_reason: dict[str, list[str]] = {}
    for node in kept:
        by_reason.setdefault(node.reason, []).append(f"{node.op_type} {node.name}")
    told = [
        f"{reason} ({', '.join(nodes[:3])}{f' and {len(nodes) - 3} more' if len(nodes) > 3 else ''})"
        for reason, nodes in list(by_reason.items())[:4]
    ]
    return "; ".join(told) or "no node of a kind it applies to"


def _checked(path: Path, source: Graph, request: ConvertRequest) -> Graph:
    """The new file's outside: valid, and with the source's tensors."""
    try:
        made = read_graph(path)
    except ExportError as error:
        raise BuildError(
            f"the {request.precision} conversion of {request.model} gives an invalid graph: {error.message}",
            code="invalid_conversion",
            where=error.where,
            fix="exclude the node it names",
        ) from error
    before, after = ((*g.inputs, *g.outputs) for g in (source, made))
    same_names = [t.name for t in before] == [t.name for t in after]
    if not same_names or (request.keep_io and [t.dtype for t in before] != [t.dtype for t in after]):
        raise BuildError(
            f"the {request.precision} conversion of {request.model} changed its inputs or outputs",
            code="invalid_conversion",
            seen=[t.as_dict() for t in after],
            valid=[t.as_dict() for t in before],
        )
    # Converters may drop the names of dynamic dimensions; the function is the same, and so are they.
    dtypes = {t.name: t.dtype for t in after}
    return replace(
        made,
        inputs=tuple(replace(t, dtype=dtypes[t.name]) for t in source.inputs),
        outputs=tuple(replace(t, dtype=dtypes[t.name]) for t in source.outputs),
    )


def _runs_in_onnxruntime(path: Path) -> bool:
    try:
        onnxruntime_runner(path, optimised=False)
    except ExportError:
        return False
    return True


def _tools(precision: Precision) -> dict[str, str]:
    from importlib import metadata

    names = ("numpy", "onnx", "onnxruntime", *TOOLS_BESIDE_ONNX.get(precision, ()))
    versions = {name: metadata.version(name) for name in names}
    return {**versions, "python": ".".join(map(str, sys.version_info[:3]))}
