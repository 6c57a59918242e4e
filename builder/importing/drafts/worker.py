"""The process that runs a torch source for `init`: {kind, reference, search_path, inputs} → a Surface."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.processes.child_worker import Task, enter_search_path, serve
from tritonsmith.builder.base.tensors import Dim, TensorSpec, dtype_from_numpy, tensor_from_dict
from tritonsmith.builder.importing.drafts.surface import Surface

if TYPE_CHECKING:
    import torch

_BATCH = 2
_Shape = tuple[int, ...]


def main(task: Task | None = None) -> None:
    """Answers one request; arguments as builder.base.processes.child_worker.serve takes them."""
    serve(_handle, "looking at a model", task)


def _handle(request: Mapping[str, Any], scratch: Path) -> Mapping[str, object]:
    from tritonsmith.builder.actions.export.sources.tools import import_tools
    from tritonsmith.builder.base.sources import source_rows

    row = source_rows()[request["kind"]]
    import_tools(row.imports, row.extra)
    enter_search_path(Path(request["search_path"]))
    look: Callable[..., Surface] = {
        "torch": _of_callable,
        "exported_program": _of_program,
        "torchscript": _of_script,
    }[request["kind"]]
    return look(request["reference"], [tensor_from_dict(t) for t in request["inputs"]]).as_dict()


def _of_callable(reference: str, stated: Sequence[TensorSpec]) -> Surface:
    """Which sizes torch.export leaves open when every one may be, at the example's, with two rows where it has one."""
    from tritonsmith.builder.actions.export.request import ExportRequest
    from tritonsmith.builder.actions.export.sources.callables import call_reference
    from tritonsmith.builder.actions.export.sources.torch import flattened, loaded_from

    request = ExportRequest("the model", "torch", reference, ".")
    returned, file = call_reference(reference, "source")
    single = loaded = loaded_from(request, returned, file)
    if single.tensors and all(t.dim() for t in single.tensors.values()):
        try:
            loaded = loaded_from(replace(request, max_batch_size=_BATCH), returned, file)
        except ExportError:  # its first dimension is no batch
            loaded = single
    shapes = [tuple(t.shape) for t in loaded.tensors.values()]
    dtypes = [dtype_from_numpy(str(t.dtype).removeprefix("torch.")) for t in loaded.tensors.values()]
    program = _captured(flattened(loaded), list(loaded.tensors.values()), shapes)
    if program is None:
        # The build finds out whether the first dimension may be another.
        open_shapes: list[tuple[Dim, ...]] = [
            ("batch", *s[1:]) if loaded is not single else s for s in shapes
        ]
        found = Surface(
            tuple(map(TensorSpec, loaded.names, dtypes, open_shapes)),
            {"batch": shapes[0][0]} if loaded is not single else {},
        )
    else:
        found = _surface(program, loaded.names, shapes)
    return found


def _captured(flat: Any, tensors: Sequence[torch.Tensor], shapes: Sequence[_Shape]) -> Any:
    import torch
    from torch.export import Dim as TorchDim

    hints = tuple(dict.fromkeys(range(len(shape)), TorchDim.AUTO) for shape in shapes)
    try:
        return torch.export.export(
            flat, tuple(t.clone() for t in tensors), dynamic_shapes={"tensors": hints}, strict=False
        )
    except Exception:  # data-dependent code, say: the build's own exporters have the word
        traceback.print_exc()
        return None


def _of_program(reference: str, stated: Sequence[TensorSpec]) -> Surface:
    from tritonsmith.builder.actions.export.sources.program import load_program
    from tritonsmith.builder.actions.export.sources.program_archive import check_archive

    path = Path(reference)
    check_archive(path)
    program = load_program(path)
    return _surface(program, None, None)


def _surface(program: Any, names: Sequence[str] | None, shapes: Sequence[_Shape] | None) -> Surface:
    """shapes: the example's; None for what the program remembers of it."""
    from tritonsmith.builder.actions.export.torch.example import dtype_from_torch
    from tritonsmith.builder.actions.export.torch.program import program_inputs, symbolic_range

    inputs: list[TensorSpec] = []
    sizes: dict[str, int] = {}
    largest: dict[str, int] = {}
    for index, (own, fake) in enumerate(program_inputs(program).items()):
        name = own if names is None else names[index]
        shape: list[Dim] = []
        for axis, size in enumerate(fake.shape):
            if (
                isinstance(size, int) or size.node.expr.is_number
            ):  # a size that was left open, and found to be one
                shape.append(int(size))
                continue
            symbol = str(size)
            shape.append(symbol)
            seen = size.node.hint if shapes is None else shapes[index][axis]
            if isinstance(seen, int):
                sizes[symbol] = seen
            if (high := symbolic_range(program, size.node.expr)[1]) is not None:
                largest[symbol] = high
        inputs.append(TensorSpec(name, dtype_from_torch(name, fake), tuple(shape)))
    return Surface(tuple(inputs), sizes, largest)


def _of_script(reference: str, stated: Sequence[TensorSpec]) -> Surface:
    """A script knows neither dtypes nor sizes: as stated, or, of one input, what its first layer takes and a run confirms.

    ExportError corrupt_script, inputs_not_stated.
    """
    from tritonsmith.builder.actions.export.sources.torchscript import load_script, script_arguments

    module = load_script(Path(reference))
    names = script_arguments(module)
    if stated:
        # As the user states them: a batch comes before what is stated.
        return Surface(tuple(TensorSpec(t.name, t.dtype, ("batch", *t.shape)) for t in stated))
    if len(names) == 1:
        for layer, dtype, shape in _guesses(module):
            if (found := _guessed(module, names[0], dtype, shape, layer)) is not None:
                return found
    flags = " ".join(f"--input {name}:FP32:3,height,width" for name in names[:4])
    raise ExportError(
        "a TorchScript file says neither dtypes nor sizes of its inputs, and none could be found by trying",
        code="inputs_not_stated",
        where=Where(Path(reference)),
        seen=", ".join(names),
        fix=f"state each, without the batch: tritonsmith init {reference} {flags}",
    )


def _guesses(module: Any) -> Iterator[tuple[str, str, tuple[Dim, ...]]]:
    """(the first layer, dtype, whole shape) that it takes; a name is a size that may be open."""
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        if not own:
            continue
        layer = str(getattr(part, "original_name", type(part).__name__))
        weight = own.get("weight", next(iter(own.values())))
        if layer in ("Embedding", "EmbeddingBag"):
            yield layer, "int64", ("batch", "sequence")
        elif layer in ("LSTM", "GRU", "RNN"):
            yield layer, "float32", ("batch", "sequence", int(weight.shape[1]))
        elif weight.dim() == 2:
            yield layer, "float32", ("batch", int(weight.shape[1]))
        elif weight.dim() == 3:
            yield layer, "float32", ("batch", int(weight.shape[1]), "length")
        elif weight.dim() == 4:
            yield layer, "float32", ("batch", int(weight.shape[1]), "height", "width")
        return


_TRIED = {
    "batch": (2,),
    "sequence": (16, 8),
    "length": (16000, 1024),
    "height": (224, 32, 28),
    "width": (224, 32, 28),
}


def _guessed(module: Any, name: str, dtype: str, shape: tuple[Dim, ...], layer: str) -> Surface | None:
    """What of the shape a run confirms: a size is open when the script takes another one, too."""
    places = [d for d in shape if isinstance(d, str)]
    for step in range(max(len(_TRIED[d]) for d in places)):
        sizes = {d: _TRIED[d][min(step, len(_TRIED[d]) - 1)] for d in places}
        if not _runs(module, dtype, shape, sizes):
            continue
        fixed = {
            d: size
            for d, size in sizes.items()
            if d != "batch" and not _runs(module, dtype, shape, {**sizes, d: size + size // 2})
        }
        found = tuple(fixed.get(d, d) if isinstance(d, str) else d for d in shape)
        told = ", ".join(map(str, found))
        return Surface(
            (TensorSpec(name, dtype_from_numpy(dtype), found),),
            {d: size for d, size in sizes.items() if d not in fixed},
            remarks=(
                f"{name}: a TorchScript file does not tell it; {dtype} [{told}] is what its first layer ({layer}) takes and a "
                "run confirmed: state another with --input",
            ),
        )
    return None


def _runs(module: Any, dtype: str, shape: tuple[Dim, ...], sizes: Mapping[str, int]) -> bool:
    import torch

    whole = [sizes[d] if isinstance(d, str) else d for d in shape]
    try:
        with torch.no_grad():
            module(torch.zeros(whole, dtype=getattr(torch, dtype)))
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main()
