"""What a source's callable returned → a module in eval mode and its example inputs, one name a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import ExportError, nearest
from builder.tensors import Dtype, dtype_from_numpy

if TYPE_CHECKING:
    import torch

_SHAPE_OF_RETURN = (
    "(module, example): example a tensor, a tuple of tensors, or a dict of forward's argument → tensor"
)


@dataclass(frozen=True, slots=True)
class Example:
    """A module with inputs that it accepts.

    names:  one for each tensor, in the order in which torch.export lists user inputs.
    tensors: by name.
    positional: how many of them are passed by position; the others are keyword arguments.
    """

    module: torch.nn.Module
    names: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]
    positional: int

    def call_arguments(self, tensors: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Values by name → (args, kwargs) of the module's forward."""
        values = [tensors[name] for name in self.names]
        return tuple(values[: self.positional]), dict(
            zip(self.names[self.positional :], values[self.positional :], strict=True)
        )

    def by_parameter(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by name, nested as forward's signature nests them: torch.export's dynamic_shapes."""
        args, kwargs = self.call_arguments(values)
        return dict(inspect.signature(self.module.forward).bind(*args, **kwargs).arguments)


def example_from_returned(returned: Any, reference: str) -> Example:
    """Checks the pair and names its tensors; ExportError source_returned, example_inputs, script_module."""
    import torch

    if not (isinstance(returned, (tuple, list)) and len(returned) == 2):
        raise _wrong_return(reference, returned)
    module, example = returned
    if isinstance(module, torch.jit.ScriptModule):
        raise ExportError(
            f"source {reference} returned a TorchScript module, which torch.export cannot take",
            code="script_module",
            seen=type(module).__name__,
            fix="return the nn.Module it was made from, with its weights loaded",
        )
    if not isinstance(module, torch.nn.Module):
        raise _wrong_return(reference, returned)
    module = module.eval().cpu()
    if isinstance(example, torch.Tensor):
        example = (example,)
    if isinstance(example, (Mapping, tuple, list)) and len(example) == 0:
        raise ExportError(
            f"source {reference} returned no example inputs", code="example_inputs", valid=[_SHAPE_OF_RETURN]
        )
    if isinstance(example, Mapping):
        names, values, positional = *_named(module, example, reference), 0
    elif isinstance(example, (tuple, list)):
        names, values = _positional(module, example, reference)
        positional = len(names)
    else:
        raise _wrong_return(reference, returned)
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, torch.Tensor):
            raise ExportError(
                f"example input {name} is not a tensor",
                code="example_inputs",
                seen=type(value).__name__,
                fix="bind other arguments inside the module, so that forward takes tensors only",
            )
    tensors = {name: value.detach().cpu() for name, value in zip(names, values, strict=True)}
    return Example(module, tuple(names), tensors, positional)


def _wrong_return(reference: str, returned: Any) -> ExportError:
    seen = type(returned).__name__
    if isinstance(returned, (tuple, list)):
        seen += f" of {len(returned)}: " + ", ".join(type(item).__name__ for item in returned[:4])
    return ExportError(
        f"source {reference} returned something else than (module, example inputs)",
        code="source_returned",
        seen=seen,
        valid=[_SHAPE_OF_RETURN],
    )


def _named(module: Any, example: Mapping[str, Any], reference: str) -> tuple[list[str], list[Any]]:
    """Keyword arguments in the order of forward's signature; None stands for "not given"."""
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {str(name): value for name, value in example.items() if value is not None}
    for name in given:
        if name not in parameters and not takes_any:
            close = nearest(name, parameters)
            raise ExportError(
                f"example input {name} is no argument of {type(module).__name__}.forward",
                code="example_inputs",
                seen=name,
                valid=[close] if close else list(parameters),
            )
    ordered = [name for name in parameters if name in given] + [
        name for name in given if name not in parameters
    ]
    return ordered, [given[name] for name in ordered]


def _positional(module: Any, example: Sequence[Any], reference: str) -> tuple[list[str], list[Any]]:
    values = list(example)
    while values and values[-1] is None:
        values.pop()
    try:
        bound = inspect.signature(module.forward).bind(*values)
    except TypeError as error:
        raise ExportError(
            f"{type(module).__name__}.forward does not take the {len(values)} example inputs",
            code="example_inputs",
            seen=str(error),
            valid=list(inspect.signature(module.forward).parameters),
        ) from error
    names: list[str] = []
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}_{index}" for index in range(len(value))]
        else:
            names.append(name)
    return names, values


def dtype_from_torch(name: str, tensor: torch.Tensor) -> Dtype:
    """A tensor's row of the dtype table; ExportError unsupported_tensor where Triton or NumPy has none."""
    text = str(tensor.dtype).removeprefix("torch.")
    try:
        return dtype_from_numpy(text)
    except KeyError:
        raise ExportError(
            f"{name} has a dtype that cannot cross to NumPy and Triton",
            code="unsupported_tensor",
            seen=text,
            fix="take and return float32 (or float16) and cast inside the module",
        ) from None


def flat_outputs(value: Any) -> Iterator[tuple[str | None, Any]]:
    """Every leaf of forward's return value in torch's pytree order, with its dict key where it has one."""
    from torch.utils import _pytree

    leaves, _ = _pytree.tree_flatten_with_path(value)
    for path, leaf in leaves:
        keys = [str(part.key) for part in path if isinstance(part, _pytree.MappingKey)]
        yield (keys[-1] if keys else None), leaf
