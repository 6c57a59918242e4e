"""(the spec's shapes, the example, torch's symbolic sizes) → dimensions by name, and which follow from others."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.batching import BATCH, with_batch_dimension
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.torch.example import Example, dtype_from_torch
from tritonsmith.builder.actions.export.torch.program import program_inputs, symbolic_range
from tritonsmith.builder.base.dim_relations import relation_from_text, sizes_with_relations, with_found
from tritonsmith.builder.base.errors import ExportError, Where, unknown
from tritonsmith.builder.base.tensors import Dim, TensorSpec

if TYPE_CHECKING:
    import torch


def input_shapes(
    request: ExportRequest, example: Example, where: Where | None
) -> tuple[list[str], list[tuple[Dim, ...]]]:
    """Example inputs and stated tensors → (ONNX name, shape with dynamic dimensions named) of each input.

    Stated inputs are matched by name; when none of their names is the module's, by position, which renames.
    """
    stated = stated_for(request.inputs, example.names, where, "input")
    names, shapes = [], []
    for original in example.names:
        tensor = example.tensors[original]
        spec = stated.get(original)
        name = spec.name if spec else original
        dtype = dtype_from_torch(name, tensor)
        if spec and (spec.dtype != dtype or len(spec.shape) != tensor.dim()):
            raise _disagrees(spec, f"{dtype.config} {list(tensor.shape)}", where)
        shape = list(spec.shape) if spec else list(tensor.shape)
        if request.max_batch_size > 0:
            if not shape:
                with_batch_dimension(
                    [TensorSpec(name, dtype, ())], request.max_batch_size, where, "give it a batch dimension"
                )
            if not spec or shape[0] == -1:
                shape[0] = BATCH
        for axis, dim in enumerate(shape):
            if dim == -1:
                shape[axis] = f"{name}_dim{axis}"
            elif isinstance(dim, int) and dim != tensor.shape[axis]:
                assert spec is not None
                raise _disagrees(spec, f"{dtype.config} {list(tensor.shape)}", where)
        names.append(name)
        shapes.append(tuple(shape))
    used = {dim for shape in shapes for dim in shape if isinstance(dim, str)}
    used |= {name for text in request.dim_relations.values() for name in relation_from_text(text).names}
    for name in request.dynamic_dims.keys() - used - {BATCH}:
        raise ExportError(
            f"dynamic_dims names {name}, but no input's shape does",
            code="unknown_dim",
            where=where,
            **unknown(name, used, f"state the inputs in the spec, with {name} in its place in their dims"),
        )
    return names, shapes


def stated_for(
    stated: Sequence[TensorSpec], names: Sequence[str], where: Where | None, role: str
) -> dict[str, TensorSpec]:
    """The source's name → what the spec states of it, by name or, when it knows none of the names, by position."""
    others = [tensor.name for tensor in stated if tensor.name not in names]
    if not others:
        return {tensor.name: tensor for tensor in stated}
    if len(others) == len(stated) == len(names):
        return dict(zip(names, stated, strict=True))
    raise ExportError(
        f"the source has no {role} {others[0]}",
        code="stated_tensor",
        where=where,
        **unknown(
            others[0], names, f"state every {role} to rename them by position, or use the source's names"
        ),
    )


def _disagrees(spec: TensorSpec, found: str, where: Where | None) -> ExportError:
    return ExportError(
        f"{spec.name} is not stated as the source's example has it",
        code="stated_tensor",
        where=where,
        seen=f"{spec.dtype.config} {list(spec.shape)}",
        valid=[found],
        fix="write a dynamic dimension as -1 or a name, and a fixed one with the example's size",
    )


def grown(
    tensors: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[Dim, ...]],
    request: ExportRequest,
    where: Where | None,
) -> dict[str, torch.Tensor]:
    """The example, dynamic dimensions of size 1 repeated to 2, since torch.export specialises on 0 and 1.

    Dimensions that follow from others keep to it. ExportError example_inputs when one name has two sizes, a size is
    outside the spec's range, or is not what the spec's relation says.
    """
    sizes = _example_sizes(tensors, shapes, where)
    _refuse_example(sizes, request, where)
    wanted = {
        dim: 2 if size == 1 and request.dynamic_dims.get(dim, (1, 2, 2))[2] > 1 else size
        for dim, size in sizes.items()
    }
    if wanted != sizes:
        wanted = sizes_with_relations(wanted, request.dim_relations, sizes)
    out = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        for axis, dim in enumerate(shape):
            if isinstance(dim, str) and wanted[dim] != sizes[dim]:
                tensor = _resized(tensor, axis, wanted[dim])
        out[name] = tensor
    return out


def _resized(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Its places in that dimension repeated one after another, or cut."""
    import torch

    have = max(1, tensor.shape[axis])
    return tensor.index_select(axis, torch.arange(size) * have // max(size, have))


def _example_sizes(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[Dim, ...]], where: Where | None
) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        for axis, dim in enumerate(shape):
            if isinstance(dim, str):
                size = tensors[name].shape[axis]
                if sizes.setdefault(dim, size) != size:
                    raise ExportError(
                        f"example inputs disagree on the size of {dim}",
                        code="example_inputs",
                        where=where,
                        seen=f"{sizes[dim]} and {size} ({name})",
                        fix="give dimensions that may differ names of their own, and say in dynamic_dims how they depend "
                        "on each other: {total: past + new}",
                    )
    return sizes


def _refuse_example(sizes: Mapping[str, int], request: ExportRequest, where: Where | None) -> None:
    wanted = wanted_ranges(request)
    for dim, size in sizes.items():
        low, high = wanted.get(dim, (1, size))
        if dim in request.dynamic_dims and not low <= size <= high:
            raise ExportError(
                f"the example's size of {dim} is outside the range the spec promises",
                code="example_inputs",
                where=where,
                seen=size,
                valid=[f"{low} to {high}"],
            )
        if dim in request.dim_relations:
            stated = relation_from_text(request.dim_relations[dim]).nearest(size, sizes)
            if stated != size:
                raise ExportError(
                    f"the example's size of {dim} is not {request.dim_relations[dim]}, as dynamic_dims states",
                    code="dim_relation",
                    where=where,
                    seen=f"{dim} {size}, for "
                    + ", ".join(f"{other} {known}" for other, known in sizes.items() if other != dim),
                    valid=[stated],
                )


def wanted_ranges(request: ExportRequest) -> dict[str, tuple[int, int]]:
    """Name → (smallest, largest) size that the spec promises to take."""
    wanted = {name: (low, high) for name, (low, _, high) in request.dynamic_dims.items()}
    if request.max_batch_size > 0:
        wanted.setdefault(BATCH, (1, request.max_batch_size))
    return wanted


def dim_hint(dim: Dim, request: ExportRequest) -> Any:
    """What torch.export is told of a dimension: nothing of relations, which it finds by itself."""
    from torch.export import Dim as TorchDim

    if not isinstance(dim, str):
        return TorchDim.STATIC
    if dim not in request.dynamic_dims:
        return TorchDim.DYNAMIC
    low, _, high = request.dynamic_dims[dim]
    if low == high:
        return TorchDim.STATIC
    return TorchDim.DYNAMIC(min=low, max=high)


@dataclass(frozen=True, slots=True)
class Dims:
    """What torch.export found of the named dimensions.

    ranges:    name → (smallest, largest) size that the module takes; None: no bound.
    relations: name → what it follows from: `past + new`, `32*k` (k is no dimension); beside what the spec states.
    """

    ranges: Mapping[str, tuple[int, int | None]]
    relations: Mapping[str, str]


def found_dims(
    program: Any, shapes: Sequence[tuple[Dim, ...]], request: ExportRequest, where: Where | None
) -> Dims:
    """ExportError dim_relation when the spec says that a dimension follows from others otherwise than torch found."""
    ranges: dict[str, tuple[int, int | None]] = {}
    expressions: dict[str, list[Any]] = {}
    symbols: dict[Any, str] = {}
    for fake, shape in zip(program_inputs(program).values(), shapes, strict=True):
        for axis, size in enumerate(fake.shape):
            if isinstance(size, int):
                continue
            name, expression = shape[axis], size.node.expr
            assert isinstance(name, str)
            low, high = symbolic_range(program, expression)
            before_low, before_high = ranges.get(name, (low, high))
            highs = [bound for bound in (high, before_high) if bound is not None]
            ranges[name] = (max(low, before_low), min(highs, default=None))
            expressions.setdefault(name, []).append(expression)
            if expression.is_Symbol:
                symbols.setdefault(expression, name)
    own = {symbol: _symbol(name) for symbol, name in symbols.items()}
    for symbol, expression in _assumed(program):
        known = all(s in symbols or str(s).startswith("any_") for s in expression.free_symbols)
        if symbol in symbols and known:
            expressions.setdefault(symbols[symbol], []).append(expression)
    found: dict[str, str] = {}
    for name, each in expressions.items():
        for expression in dict.fromkeys(each):
            if symbols.get(expression) == name:
                continue
            told = expression.xreplace({symbol: _free(symbol, own) for symbol in expression.free_symbols})
            relation = _relation(name, told)
            if not _is_stated(name, told, relation, request, where):
                found = with_found({**request.dim_relations, **found}, relation)
    return Dims(ranges, {name: text for name, text in found.items() if name not in request.dim_relations})


def _assumed(program: Any) -> Iterator[tuple[Any, Any]]:
    """(symbol, what it equals) of the equations that torch.export assumed on its way: `m == n//2`, `n == 4*(n//4)`."""
    import sympy

    fakes = [fake for fake in program_inputs(program).values() if hasattr(fake, "fake_mode")]
    guards = getattr(fakes[0].fake_mode.shape_env, "guards", ()) if fakes else ()
    for guard in guards:
        if not isinstance(guard.expr, sympy.Eq):
            continue
        for one, other in ((guard.expr.lhs, guard.expr.rhs), (guard.expr.rhs, guard.expr.lhs)):
            for factor in (1, *(one.free_symbols & other.free_symbols)):  # n*batch == 4*batch*(n//4)
                left, right = one / factor, other / factor
                whole = re.fullmatch(r"(\d+)\*\(*(\w+)\)*//(\d+)\)*", str(right).replace(" ", ""))
                if not left.is_Symbol:
                    continue
                if left not in right.free_symbols:
                    yield left, right
                elif whole and whole.group(1) == whole.group(3) and whole.group(2) == str(left):
                    yield left, int(whole.group(1)) * _symbol(f"any_{left}")


def _symbol(name: str) -> Any:
    import sympy

    return sympy.Symbol(name, integer=True, positive=True)


def _free(symbol: Any, own: Mapping[Any, Any]) -> Any:
    """A size that no input has by itself, as in 32*k, is called any_."""
    name = str(symbol)
    return own.get(symbol) or _symbol(name if name.startswith("any_") else f"any_{name}")


def _relation(name: str, told: Any) -> dict[str, str]:
    """`total` and `past + new` → {total: past + new}; solved for another name where it takes sizes away; {} where no
    form of ours says it."""
    own = _symbol(name)
    for left, right in [
        (own, told),
        *((s, _solved(told - own, s)) for s in sorted(told.free_symbols, key=str)),
    ]:
        try:
            text = str(right)
            if not str(left).isidentifier() or str(left) in relation_from_text(text).names:
                continue
            return {str(left): text}
        except ValueError:
            continue
    return {}


def _solved(equation: Any, symbol: Any) -> Any:
    """The symbol by the others; the equation itself, which has the symbol in it, where it is not a sum."""
    import sympy

    factor = equation.coeff(symbol)
    solved = -(equation - factor * symbol) / factor if factor else equation
    return sympy.expand(solved)


def _is_stated(
    name: str, told: Any, relation: Mapping[str, str], request: ExportRequest, where: Where | None
) -> bool:
    """Whether it follows from what the spec states; ExportError dim_relation where the two contradict each other.

    Tried with numbers: what the spec states must make what torch found true, whatever the other sizes are. A dimension
    that the spec says nothing of may follow from others; that is no contradiction.
    """
    stated = request.dim_relations
    names = {name, *map(str, told.free_symbols)}
    if not names & stated.keys() or not {name, *relation} & {*stated, *request.dynamic_dims}:
        return False
    names |= {other for text in stated.values() for other in relation_from_text(text).names}
    rng = random.Random(0)
    for _ in range(8):
        wanted = {n: rng.randint(2, 60) for n in sorted(names)}
        sizes = sizes_with_relations(wanted, stated, stated) | {n: wanted[n] for n in names - stated.keys()}
        if int(told.subs({symbol: sizes[str(symbol)] for symbol in told.free_symbols})) != sizes[name]:
            first = next(iter(sorted(names & stated.keys())))
            raise ExportError(
                f"dynamic_dims states {first}: {stated[first]}, which is not how the model has it",
                code="dim_relation",
                where=where,
                seen=f"torch.export found {name} = {told}",
                fix="dynamic_dims: {" + ", ".join(f"{left}: {text}" for left, text in relation.items()) + "}",
            )
    return True
