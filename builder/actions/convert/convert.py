"""ConvertRequest → an ONNX file at the asked precision, checked, with what was left out and why."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.calibration import Calibration, load_calibration
from tritonsmith.builder.actions.accuracy.samples import SampleSet, load_samples
from tritonsmith.builder.actions.convert import graph as graphs
from tritonsmith.builder.actions.convert.conversion import Conversion, Converted
from tritonsmith.builder.actions.convert.coverage import (
    Coverage,
    coverage,
    really_half,
    really_quantized,
    weight_sizes,
)
from tritonsmith.builder.actions.convert.options import options_for
from tritonsmith.builder.actions.convert.prepare import outputs_taken_off_inputs, prepared, put_back
from tritonsmith.builder.actions.convert.request import ConvertRequest, ConvertResult, KeptNode
from tritonsmith.builder.actions.export.onnx_graph import (
    Graph,
    onnxruntime_runner,
    open_session,
    outputs_of_session,
    read_graph,
)
from tritonsmith.builder.base.errors import BuildError, ExportError, SpecError, Where, unknown
from tritonsmith.builder.base.files.disk import adopt, delete
from tritonsmith.builder.base.precisions import PrecisionRow, precision_rows
from tritonsmith.builder.base.rows import function_of

if TYPE_CHECKING:
    from tritonsmith.builder.base.tensors import TensorSpec


def convert(request: ConvertRequest, out_dir: Path) -> ConvertResult:
    """Writes the converted model below out_dir; run in a child process by run_convert.

    SpecError precision_unknown, precision_option, exclude_matches_nothing; BuildError calibration_missing and
    load_calibration's, nothing_to_convert, not_fp32, opset_conversion, quantization_failed, invalid_conversion;
    ToolError onnx_ir_missing; ExportError from read_graph.
    """
    started = time.monotonic()
    row = _row(request.precision)
    options = options_for(request.precision, request.options)
    source = Path(request.source_onnx)
    outside = read_graph(source)
    out_dir.mkdir(parents=True, exist_ok=True)
    _clear(out_dir)
    held_out = load_samples(Path(request.held_out)) if request.held_out else SampleSet(())
    calibration = _calibration(request, row, options, outside, held_out)
    done = None if row.convert is None else _converted(request, row, options, calibration, held_out)
    if done is None:
        # TF32 is how a GPU multiplies fp32: the graph is the same, and its runtime is told.
        files = _copied(source, outside, out_dir)
    else:
        files = graphs.save(done.model, out_dir, request.external_above_bytes)
    path = out_dir / next(name for name in files if name.endswith(".onnx"))
    result = _checked(path, outside, request)
    outputs, lacks = _as_served(path, result.outputs, request)
    return ConvertResult(
        precision=request.precision,
        files=files,
        inputs=result.inputs,
        outputs=outputs,
        opset=result.opset,
        ir_version=result.ir_version,
        kept_fp32=done.kept if done else (),
        converted=done.nodes if done else (),
        calibration_digest=calibration.digest if calibration else None,
        calibration_rows=calibration.rows if calibration else 0,
        dependencies=calibration.dependencies if calibration else (),
        seconds=time.monotonic() - started,
        tools=_tools(row),
        tensorrt_only=not _runs_in_onnxruntime(path),
        notes=done.notes if done else (),
        coverage=done.coverage if done else None,
        lacks=lacks,
    )


def _row(precision: str) -> PrecisionRow:
    rows = precision_rows()
    if precision in rows:
        return rows[precision]
    raise SpecError(
        f"precision {precision} cannot be made",
        code="precision_unknown",
        **unknown(precision, rows),
    )


def _clear(out_dir: Path) -> None:
    adopt(out_dir)
    for old in out_dir.glob("model.onnx*"):
        delete(old)


def _calibration(
    request: ConvertRequest, row: PrecisionRow, options: Any, outside: Graph, held_out: SampleSet
) -> Calibration | None:
    without = row.uncalibrated
    if row.calibration is None or (without and all(getattr(options, k) == v for k, v in without.items())):
        return None
    if request.calibration is not None:
        return load_calibration(request.calibration, outside.inputs, (s.inputs for s in held_out.samples))
    if row.calibration == "needs":
        told = ", ".join(f"{key}: {str(value).lower()}" for key, value in without.items())
        raise BuildError(
            f"{request.model}: precision {request.precision} needs calibration samples",
            code="calibration_missing",
            valid=["module:callable", "an .npz file", "a directory of .npz files"],
            fix="calibration: in the spec, with inputs from the model's real domain"
            + (f"; or options: {{{told}}}" if told else ""),
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


@dataclass(frozen=True, slots=True)
class _Done:
    """nodes: those that really compute in the precision."""

    model: Any
    kept: tuple[KeptNode, ...]
    nodes: tuple[str, ...]
    notes: tuple[str, ...]
    coverage: Coverage


def _converted(
    request: ConvertRequest,
    row: PrecisionRow,
    options: Any,
    calibration: Calibration | None,
    held_out: SampleSet,
) -> _Done:
    source = Path(request.source_onnx)
    model = graphs.load_prepared(source)
    has_functions = bool(model.functions)
    written = [(node.name, node.op_type) for node in model.graph.node]
    model, prepared_notes = prepared(model, fold=row.form == "weights")

    def judged(asked: ConvertRequest) -> _Done:
        conversion = Conversion(model, asked, {}, options, calibration, held_out)
        return _judged_whole(conversion, row, prepared_notes, source, written)

    if has_functions:
        graphs.named(model)
        with tempfile.TemporaryDirectory(prefix="tritonsmith-") as directory:
            # Calibration and ranges look at inner tensors, which functions hide.
            graphs.save(model, Path(directory), request.external_above_bytes)
            inner = next(Path(directory).rglob("model.onnx"))
            inner = inner / "model.onnx" if inner.is_dir() else inner
            return judged(replace(request, source_onnx=str(inner)))
    return judged(request)


def _judged_whole(
    conversion: Conversion,
    row: PrecisionRow,
    prepared_notes: tuple[str, ...],
    source: Path,
    written: Sequence[tuple[str, str]],
) -> _Done:
    """The conversion, with what it claims held against the graph that came out."""
    import onnx

    request, model = conversion.request, conversion.model
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
    assert row.convert is not None
    done: Converted = function_of(row.convert)(replace(conversion, excluded=excluded))
    made, half = done.model, row.form == "half"
    put_back(made.graph, inputs_given_back)
    really = really_half(made, done.nodes) if half else really_quantized(made, before, done.nodes)
    kept = tuple(KeptNode(n, types[n], reason) for n, reason in done.kept.items() if n in types)
    if not half:
        # Of half precision, such nodes have nothing to do with floats: shapes, indices.
        unchanged = [name for name in done.nodes if name not in really and name not in done.kept]
        kept += tuple(KeptNode(n, types[n], "the converter leaves it as it is") for n in unchanged)
    if not really:
        raise BuildError(
            f"no node of {request.model} can be brought to {request.precision}",
            code="nothing_to_convert",
            where=Where(source),
            seen=_reasons(kept),
        )
    weights = sizes if half else {node.input[1] for node in before.graph.node if node.name in really}
    covered = coverage(sizes, made, really, [(k.op_type, k.reason) for k in kept], weights)
    return _Done(made, kept, really, (*prepared_notes, *done.notes), covered)


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


def _as_served(
    path: Path, outputs: tuple[TensorSpec, ...], request: ConvertRequest
) -> tuple[tuple[TensorSpec, ...], str]:
    """(outputs with the sizes that ONNX Runtime's session of it infers, why there is no session)."""
    if request.graph_level is None:
        return outputs, ""
    try:
        session = open_session(path, optimised=True, level=request.graph_level)
    except ExportError as error:
        return outputs, error.message
    return outputs_of_session(outputs, session), ""


def _runs_in_onnxruntime(path: Path) -> bool:
    try:
        onnxruntime_runner(path, optimised=False)
    except ExportError:
        return False
    return True


def _tools(row: PrecisionRow) -> dict[str, str]:
    from importlib import metadata

    names = ("numpy", "onnx", "onnxruntime", *row.distributions)
    versions = {name: metadata.version(name) for name in names}
    return {**versions, "python": ".".join(map(str, sys.version_info[:3]))}
