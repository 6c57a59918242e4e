"""(ExportedProgram, names) → model.onnx in out_dir, dynamic dimensions by name, the opset read back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.disk import replacing
from builder.errors import ExportError, Where
from builder.export.callables import users_place
from builder.export.onnx_graph import Graph, read_graph
from builder.export.onnx_source import MODEL_FILE, clear
from builder.export.request import OPSETS, ExportRequest
from builder.tensors import Dim

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def check_opset(opset: int) -> None:
    """ExportError opset_unsupported outside OPSETS."""
    if opset not in OPSETS:
        raise ExportError(
            f"a torch source cannot be exported to opset {opset}",
            code="opset_unsupported",
            seen=opset,
            valid=[f"{OPSETS.start} to {OPSETS.stop - 1}"],
            fix=f"opset: {OPSETS.stop - 3}",
        )


def write_onnx(
    program: ExportedProgram,
    request: ExportRequest,
    out_dir: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    shapes: Sequence[Sequence[Dim]],
) -> tuple[Path, tuple[str, ...], Graph]:
    """Translates and checks → (the model file, files for a version directory, its graph).

    shapes: one for each input; a string names that dimension in the ONNX file, and every output dimension
    that torch found to be equal to it. Weights above request.external_above_bytes go beside the model in a
    directory, the way Triton's onnxruntime backend takes them. ExportError: onnx_conversion, opset_changed,
    and read_graph's.
    """
    import torch

    named = tuple({axis: d for axis, d in enumerate(shape) if isinstance(d, str)} for shape in shapes)
    try:
        onnx_program = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            input_names=list(input_names),
            output_names=list(output_names),
            opset_version=request.opset,
            dynamic_shapes=named,
        )
    except OSError:
        raise
    except Exception as error:
        raise not_exportable(
            error, "torch's ONNX exporter cannot translate the model", "onnx_conversion"
        ) from error
    assert onnx_program is not None
    _forget_origins(onnx_program.model)
    target = clear(out_dir)
    if program_bytes(program) <= request.external_above_bytes:
        with replacing(target) as temporary:
            onnx_program.save(str(temporary), external_data=False)
        model_path = target
    else:
        target.mkdir()
        model_path = target / MODEL_FILE
        onnx_program.save(str(model_path), external_data=True)
    graph = read_graph(model_path)
    if graph.opset != request.opset:
        raise ExportError(
            f"opset {request.opset} was asked for, but torch wrote opset {graph.opset}",
            code="opset_changed",
            seen=graph.opset,
            fix=f"opset: {graph.opset}; some operator of this model has no form in opset {request.opset}",
        )
    relative = model_path.relative_to(out_dir)
    return model_path, (str(relative), *(str(relative.parent / f) for f in graph.external_files)), graph


def _forget_origins(model: Any) -> None:
    """Removes what torch notes about where each node came from.

    The notes hold stack traces with this machine's paths: they would travel to production, and the same
    source would give other bytes in another directory.
    """
    model.metadata_props.clear()
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def program_bytes(program: ExportedProgram) -> int:
    """Bytes of all parameters, buffers and constants."""
    import torch

    tensors = {**program.state_dict, **program.constants}
    return sum(t.numel() * t.element_size() for t in tensors.values() if isinstance(t, torch.Tensor))


def program_inputs(program: ExportedProgram) -> dict[str, Any]:
    """Placeholder name → fake tensor of each user input, in order."""
    wanted = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return {str(name): nodes[name].meta["val"] for name in wanted if name in nodes}


def symbolic_ranges(program: ExportedProgram, fake: Any) -> dict[int, tuple[int, int | None]]:
    """Axis → (smallest, largest) size of each dynamic axis; torch's lower bound of 2 counts as 1.

    torch.export never considers sizes 0 and 1 (they specialise), so a lower bound of 2 says nothing about 1.
    """
    found: dict[int, tuple[int, int | None]] = {}
    for axis, size in enumerate(fake.shape):
        if isinstance(size, int):
            continue
        bounds = program.range_constraints.get(size.node.expr)
        lower, upper = (1, None) if bounds is None else (_whole(bounds.lower), _whole(bounds.upper))
        found[axis] = (1 if lower is None or lower <= 2 else lower, upper)
    return found


def _whole(bound: Any) -> int | None:
    try:
        value = int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return value if value < 2**62 else None


def check_ranges(
    wanted: Mapping[str, tuple[int, int]], accepted: Mapping[str, tuple[int, int | None]], where: Where | None
) -> None:
    """ExportError dim_range when the model takes less than the spec promises."""
    for name, (smallest, largest) in wanted.items():
        low, high = accepted.get(name, (1, None))
        if smallest < low or (high is not None and largest > high):
            raise ExportError(
                f"the model does not take every size of {name} that the spec promises",
                code="dim_range",
                where=where,
                seen=f"{name}: {smallest} to {largest}",
                valid=[f"{low} to {high}" if high is not None else f"{low} and more"],
                fix="max_batch_size"
                if name == "batch"
                else f"dynamic_dims: {{{name}: …}} within the model's range",
            )


_NOISE = (
    "Failed to export the model",
    "Failed to convert the exported program",
    "## ",
    "⬆️",
    "- ",
    "  -",
    "Refer to",
    "This is step",
    "Please",
    "##",
)


def not_exportable(error: BaseException, what: str, code: str) -> ExportError:
    """torch's reason in one or two lines, the operator it names, and the user's line it happened in."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    text = "\n".join(str(item) for item in reversed(chain))
    operator = re.search(
        r"\b(?:OpOverload\(op='|torch\.ops\.)?((?:aten|prims|torchvision|quantized)[.:]+[\w.]+)", text
    )
    place = next((p for p in (users_place(item) for item in reversed(chain)) if p is not None), None)
    return ExportError(
        f"{what}: {_reason(chain)}",
        code=code,
        where=place or _place_in_text(text),
        seen=operator.group(1) if operator else None,
        fix=_fix(code, text),
    )


def _fix(code: str, text: str) -> str:
    if code == "onnx_conversion":
        return "put other operators in that one's place; ONNX, or torch's exporter, has no form of it"
    if "specialized it to be a constant" in text or "0/1 specialized" in text:
        return "let forward take any size of that dimension; for the first one, max_batch_size: 0 also does"
    return "rewrite that part of forward in tensor operations: torch.where for a branch on values, no NumPy"


def _reason(chain: Sequence[BaseException]) -> str:
    for item in reversed(chain):
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(item).splitlines()]
        head = next((line for line in lines if line and not line.startswith(_NOISE)), None)
        if head is None:
            continue
        if "Constraints violated" in head or "conflicts between user-specified" in head:
            details = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
            if details:
                head = details[0]
        return f"{type(item).__name__}: {head.partition(' If you')[0][:400]}"
    return type(chain[0]).__name__


def _place_in_text(text: str) -> Where | None:
    """torch quotes the user's frame as `File "…", line N`; the last one outside torch is the innermost."""
    found = None
    for file, line in re.findall(r'File "?([^":\n]+\.py)"?[:,](?: line )?(\d+)', text):
        if "site-packages" not in file and Path(file).is_file():
            found = Where(Path(file), int(line))
    return found
