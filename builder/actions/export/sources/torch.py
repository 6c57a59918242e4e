"""`module:callable` → (module, example inputs) → model.onnx by one of torch's exporters, held against the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.batching import with_batch_dimension
from tritonsmith.builder.actions.export.checks.verify import Stated, Verified, stated_samples, verify
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.onnx_graph import Graph
from tritonsmith.builder.actions.export.request import EXPORTERS, Exporter, ExportRequest
from tritonsmith.builder.actions.export.sources.callables import call_reference
from tritonsmith.builder.actions.export.torch.dims import (
    Dims,
    dim_hint,
    found_dims,
    grown,
    input_shapes,
    wanted_ranges,
)
from tritonsmith.builder.actions.export.torch.errors import both_refused, not_exportable, watching_guards
from tritonsmith.builder.actions.export.torch.example import (
    Example,
    dtype_from_torch,
    evaluating,
    example_from_returned,
    names_by_path,
)
from tritonsmith.builder.actions.export.torch.example_run import Leaves, run_example, watched_run
from tritonsmith.builder.actions.export.torch.program import (
    check_opset,
    check_ranges,
    kept_state,
    refuse_unstated_bounds,
    write_onnx,
)
from tritonsmith.builder.actions.export.torch.trace import write_traced
from tritonsmith.builder.base.errors import ExportError, Where, shortened, unknown
from tritonsmith.builder.base.tensors import Dim

if TYPE_CHECKING:
    import torch

    from tritonsmith.builder.actions.accuracy.samples import Array
    from tritonsmith.builder.actions.export.exported import Runner

EXPORTER_NAMES: Mapping[Exporter, str] = {"dynamo": "torch.export", "torchscript": "TorchScript tracing"}

# Refusals that another exporter may not have: of the module, or of the file that came of it.
_ANOTHER_MAY = frozenset(
    (
        "not_exportable",
        "onnx_conversion",
        "opset_changed",
        "invalid_onnx",
        "onnxruntime_rejects",
        "candidate_failed",
        "tensor_readback",
    )
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A source that was loaded and ran on its example.

    names, shapes: of the inputs in the ONNX file. tensors: the example, as it is exported with.
    output_names: one for each leaf of what forward returns, None for one that is left out.
    """

    example: Example
    names: list[str]
    shapes: list[tuple[Dim, ...]]
    tensors: Mapping[str, torch.Tensor]
    output_names: list[str | None]
    file: File | None
    notes: tuple[str, ...]

    @property
    def where(self) -> Where | None:
        """The callable's module."""
        return Where(self.file) if self.file else None

    @property
    def chosen_names(self) -> list[str]:
        """Of the outputs that are exported."""
        return [name for name in self.output_names if name is not None]


def export_callable(request: ExportRequest, out_dir: File) -> tuple[Exported, Stated, Verified]:
    """Exports what the callable returns, and holds it against the module.

    The first dimension is `batch` when max_batch_size > 0; further dynamic dimensions are those that the
    spec's input shapes name. Files the callable reads through Python's open() become dependencies; weights
    should be read that way (safetensors.torch.load(path.read_bytes()), torch.load(path, weights_only=True)).
    Where torch.export refuses the module, TorchScript tracing is tried, and kept only if what it wrote answers like
    the module at several sizes. ExportError of the first exporter, with the second's words in its details.
    """
    loaded = load(request)
    stated = stated_samples(request)
    asked = EXPORTERS if request.exporter is None else (request.exporter,)
    try:
        exported = _exported(asked[0], loaded, request, out_dir)
        verified = verify(request, exported, stated, out_dir)
        if not verified[0].passed:
            check_ranges(wanted_ranges(request), exported.dim_ranges, loaded.where, smallest=True)
        return exported, stated, verified
    except ExportError as error:
        if error.code not in _ANOTHER_MAY or len(asked) == 1:
            raise
        refused = error
    try:
        return _kept(_exported(asked[1], loaded, request, out_dir), refused, request, stated, out_dir)
    except ExportError as error:
        raise both_refused(refused, error, EXPORTER_NAMES.values()) from refused


def _kept(
    exported: Exported, refused: ExportError, request: ExportRequest, stated: Stated, out_dir: File
) -> tuple[Exported, Stated, Verified]:
    """What the second exporter wrote, if it answers like the module; on more sizes than the spec's, since it saw one."""
    largest = request.max_batch_size
    sizes = {*request.sample_batch_sizes, *(size for size in (1, 2, 3, 5) if size <= largest)}
    verified = verify(replace(request, sample_batch_sizes=tuple(sorted(sizes))), exported, stated, out_dir)
    failures = verified[0].failures
    if failures:
        raise ExportError(
            f"what it wrote gives other answers than the module: {failures[0].output}, {failures[0].sample}",
            code="accuracy",
            seen=", ".join(failures[0].violations),
        )
    why = shortened(refused.message, 200)
    note = f"exported by {EXPORTER_NAMES['torchscript']}, and held against the module: {why}"
    return replace(exported, notes=(*exported.notes, note)), stated, verified


def load(request: ExportRequest) -> Loaded:
    """Imports, calls, and runs forward twice on the example; names every tensor."""
    import numpy as np
    import torch

    check_opset(request.opset)
    torch.manual_seed(request.seed)
    np.random.seed(request.seed)
    returned, file = call_reference(request.reference, "source")
    return loaded_from(request, returned, file)


def export_returned(request: ExportRequest, out_dir: File, returned: Any, file: File | None) -> Exported:
    """Exports (module, example inputs) that are there already, by torch.export; file: what they came from."""
    check_opset(request.opset)
    return _exported("dynamo", loaded_from(request, returned, file), request, out_dir)


def loaded_from(request: ExportRequest, returned: Any, file: File | None) -> Loaded:
    """(module, example inputs) that the callable returned → Loaded."""
    where = Where(file) if file else None
    example = example_from_returned(returned, request.reference)
    names, shapes = input_shapes(request, example, where)
    tensors = grown(example.tensors, dict(zip(example.names, shapes, strict=True)), request, where)
    leaves = run_example(example, tensors, request.seed)
    who = f"{type(example.module).__name__}.forward"
    output_names, notes = names_of_outputs(request, leaves, names, who)
    if example.fixed:
        notes.append(f"part of the model, no inputs: {', '.join(example.fixed)}")
    if any(part.training for part in example.module.modules()):
        notes.append(
            f"{type(example.module).__name__} was in training mode: it is exported in evaluation mode, as after .eval()"
        )
    return Loaded(example, names, shapes, tensors, output_names, file, tuple(notes))


def names_of_outputs(
    request: ExportRequest, leaves: Leaves, input_names: Sequence[str], who: str
) -> tuple[list[str | None], list[str]]:
    """Leaves of a return value → (the ONNX name of each, None for those the spec does not list; notes).

    Names the spec lists are matched with those by path; when none is known, by position, which renames. ExportError
    forward_returned, stated_tensor, tensor_names.
    """
    import torch

    paths = [path for path, _ in leaves]
    inferred = names_by_path(paths, input_names)
    listed = list(request.output_names) or [tensor.name for tensor in request.outputs]
    names = _listed(listed, inferred, [isinstance(leaf, torch.Tensor) for _, leaf in leaves])
    for name, (path, leaf) in zip(names, leaves, strict=True):
        if name is not None and not isinstance(leaf, torch.Tensor):
            told = ".".join(map(str, path)) or "output"
            raise ExportError(
                f"{who} returned something else than tensors",
                code="forward_returned",
                seen=f"{told}: {type(leaf).__name__}",
                valid=["a tensor; tuples, dicts and dataclasses of tensors; None is left out"],
                fix=f"return a tensor there, or list in output: what is to be served, without {told}",
            )
        if name is not None:
            dtype_from_torch(name, leaf)
    if not any(names):
        raise ExportError(
            f"{who} returned no tensor", code="forward_returned", seen="nothing, or None", valid=["tensors"]
        )
    chosen = [name for name in names if name is not None]
    repeated = [name for i, name in enumerate(chosen) if name in chosen[:i] or name in input_names]
    if repeated:
        raise ExportError(
            f"two tensors of the model would be called {repeated[0]}",
            code="tensor_names",
            seen=repeated[0],
            fix="state the outputs in the spec under other names, in order",
        )
    notes = [
        f"output {'.'.join(map(str, path))} is called {name}, since an input has its name"
        for path, name in zip(paths, names, strict=True)
        if name is not None and name not in listed and ".".join(map(str, path)) in input_names
    ]
    return names, notes


def _listed(listed: Sequence[str], inferred: Sequence[str], is_tensor: Sequence[bool]) -> list[str | None]:
    if not listed:
        return list(inferred)
    others = [name for name in listed if name not in inferred]
    if not others:
        return [name if name in listed else None for name in inferred]
    if len(others) == len(listed) == sum(is_tensor):
        given = iter(listed)
        return [next(given) if tensor else None for tensor in is_tensor]
    raise ExportError(
        f"the source has no output {others[0]}",
        code="stated_tensor",
        **unknown(
            others[0], inferred, "state every output to rename them by position, or use the source's names"
        ),
    )


def _exported(exporter: Exporter, loaded: Loaded, request: ExportRequest, out_dir: File) -> Exported:
    flat = flattened(loaded)
    tensors = [tensor.clone() for tensor in loaded.tensors.values()]
    with evaluating(loaded.example.module):
        notes: list[str] = []
        if exporter == "dynamo":
            dims, (model_path, files, graph) = _by_dynamo(flat, tensors, loaded, request, out_dir)
        else:
            dims = Dims({}, {})
            notes, (model_path, files, graph) = write_traced(
                flat,
                tensors,
                watched_run(loaded.example, loaded.tensors),
                request,
                out_dir,
                loaded.names,
                loaded.chosen_names,
                loaded.shapes,
            )
    example = loaded.example
    fix = "return that output with the batch as its first dimension"
    relations = {**dims.relations, **request.dim_relations}
    return Exported(
        model_path=model_path,
        files=files,
        inputs=graph.inputs,
        outputs=with_batch_dimension(graph.outputs, request.max_batch_size, loaded.where, fix),
        opset=graph.opset,
        ir_version=graph.ir_version,
        reference=torch_runner(example, loaded.names, loaded.output_names),
        example={
            new: loaded.tensors[old].numpy() for new, old in zip(loaded.names, example.names, strict=True)
        },
        dim_ranges=dims.ranges,
        dependencies=(loaded.file,) if loaded.file else (),
        relations=relations,
        exporter=exporter,
        notes=(
            *loaded.notes,
            *notes,
            *(f"torch.export found {n} = {text}" for n, text in dims.relations.items()),
        ),
    )


def _by_dynamo(
    flat: torch.nn.Module,
    tensors: Sequence[torch.Tensor],
    loaded: Loaded,
    request: ExportRequest,
    out_dir: File,
) -> tuple[Dims, tuple[File, tuple[str, ...], Graph]]:
    program = _captured(flat, tensors, loaded, request)
    state = kept_state(program)
    if state:
        names = ", ".join(name.removeprefix("module.") for name in state)
        raise ExportError(
            f"forward writes {names} and answers by it: it keeps state from call to call, which an exported model has not",
            code="stateful",
            where=loaded.where,
            seen=names,
            fix="take the state as an input and return the new one as an output; Triton's sequence_batching keeps it",
        )
    dims = found_dims(program, loaded.shapes, request, loaded.where)
    check_ranges(wanted_ranges(request), dims.ranges, loaded.where)
    refuse_unstated_bounds({*wanted_ranges(request), *dims.relations}, dims.ranges, loaded.where)
    return dims, write_onnx(program, request, out_dir, loaded.names, loaded.chosen_names, loaded.shapes)


def flattened(loaded: Loaded) -> torch.nn.Module:
    """The module with tensors for arguments and the chosen tensors for an answer, whatever it takes and returns itself."""
    import torch

    example = loaded.example
    chosen = [index for index, name in enumerate(loaded.output_names) if name is not None]

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = example.module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            leaves = example.leaves(tensors)
            return tuple(leaves[index][1] for index in chosen)

    made = Flat()
    made.training = False
    return made


def _captured(
    flat: torch.nn.Module, tensors: Sequence[torch.Tensor], loaded: Loaded, request: ExportRequest
) -> Any:
    """torch.export with Dim.DYNAMIC, which finds relations such as "a multiple of 32"."""
    import torch

    hints = tuple({axis: dim_hint(dim, request) for axis, dim in enumerate(shape)} for shape in loaded.shapes)
    with watching_guards() as guards:
        try:
            return torch.export.export(flat, tuple(tensors), dynamic_shapes={"tensors": hints}, strict=False)
        except Exception as error:
            what = "torch.export cannot capture the model"
            raised = not_exportable(error, what, "not_exportable", loaded.names, guards)
            raised.where = raised.where or loaded.where
            rnn = any(isinstance(part, torch.nn.RNNBase) for part in flat.modules())
            if rnn and "specialized" in raised.message:
                raised.fix = "torch.export unrolls an RNN over the example's length: exporter: torchscript, or leave it out"
            raise raised from error


def torch_runner(example: Example, input_names: Sequence[str], output_names: Sequence[str | None]) -> Runner:
    """The module itself as the reference: NumPy in and out under the ONNX file's names."""
    import torch

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [torch.from_numpy(inputs[name].copy()) for name in input_names]
        with evaluating(example.module):
            leaves = example.leaves(tensors)
        return {
            name: leaf.cpu().numpy()
            for name, (_, leaf) in zip(output_names, leaves, strict=True)
            if name is not None
        }

    return run
