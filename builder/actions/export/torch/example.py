"""What a source's callable returned → a module and its example inputs, one name a tensor; and what it gave, named by path."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.torch.structure import Path, leaves_of, replaced
from tritonsmith.builder.base.errors import ExportError, unknown
from tritonsmith.builder.base.files.untrusted import fault_of_text
from tritonsmith.builder.base.tensors import Dtype, dtype_from_numpy

if TYPE_CHECKING:
    import torch

_SHAPE_OF_RETURN = (
    "(module, example): example a tensor, a tuple of forward's arguments, or a dict of forward's argument → value; "
    "tensors may stand in lists, dicts, dataclasses and caches"
)


@dataclass(frozen=True, slots=True)
class Example:
    """A module with inputs that it accepts.

    names:   one for each tensor, in the order in which they stand in the arguments.
    tensors: by name.
    args, kwargs: of forward, with everything that is no tensor; the tensors in them are only places.
    fixed:   `use_cache=False`: what is no tensor, and becomes part of the model.
    """

    module: torch.nn.Module
    names: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    fixed: tuple[str, ...] = ()

    def arguments(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Tensors in the order of names → (args, kwargs) of the module's forward."""
        import torch

        given = iter(tensors)
        args, kwargs = replaced(
            (self.args, dict(self.kwargs)),
            lambda leaf: next(given) if isinstance(leaf, torch.Tensor) else leaf,
        )
        return tuple(args), dict(kwargs)

    def leaves(self, tensors: Sequence[Any]) -> list[tuple[Path, Any]]:
        """What forward gives for the tensors, leaf by leaf."""
        args, kwargs = self.arguments(tensors)
        return list(leaves_of(self.module(*args, **kwargs)))


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Without gradients and in evaluation mode, which is given back as it was, module by module."""
    import torch

    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def example_from_returned(returned: Any, reference: str) -> Example:
    """Checks the pair and names its tensors; ExportError source_returned, example_inputs, script_module, no_weights."""
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
    module = _on_the_cpu(getattr(module, "_orig_mod", module), reference)  # torch.compile wraps it
    if isinstance(example, torch.Tensor):
        example = (example,)
    if isinstance(example, (Mapping, tuple, list)) and len(example) == 0:
        raise ExportError(
            f"source {reference} returned no example inputs", code="example_inputs", valid=[_SHAPE_OF_RETURN]
        )
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        named = kwargs = _named(module, example)
    elif isinstance(example, (tuple, list)):
        args = tuple(example)
        named = _positional(module, example)
    else:
        raise _wrong_return(reference, returned)
    return _example(module, named, args, kwargs)


def _on_the_cpu(module: torch.nn.Module, reference: str) -> torch.nn.Module:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ExportError(
                f"source {reference} returned a module without weights: {name} is on the meta device",
                code="no_weights",
                seen=name,
                fix="load the weights before it is returned; not under torch.device('meta')",
            )
    return module.cpu()


def _example(
    module: torch.nn.Module, named: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Example:
    """named: forward's argument → value, in the order in which args and kwargs hold them."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    fixed = []
    for argument, value in named.items():
        for path, leaf in leaves_of(value):
            name = ".".join(str(part) for part in (argument, *path))
            if isinstance(leaf, (bool, str)):
                fixed.append(f"{name}={leaf!r}")
            elif not isinstance(leaf, torch.Tensor):
                raise ExportError(
                    f"example input {name} is not a tensor",
                    code="example_inputs",
                    seen=type(leaf).__name__,
                    fix=f"give it as torch.tensor({leaf!r:.40}), or bind it inside the module, where it stays as it is",
                )
            elif leaf.layout is not torch.strided or leaf.is_quantized:
                raise ExportError(
                    f"example input {name} is a sparse or quantised tensor, which ONNX cannot hold",
                    code="unsupported_tensor",
                    seen=f"{leaf.layout}, {leaf.dtype}",
                    fix="take an ordinary tensor, and make the other one inside forward",
                )
            else:
                tensors[_distinct(name, tensors)] = leaf.detach().cpu()
    if not tensors:
        raise ExportError(
            "there is no tensor among the example inputs",
            code="example_inputs",
            seen=", ".join(fixed) or "None",
            valid=[_SHAPE_OF_RETURN],
        )
    return Example(module, tuple(tensors), tensors, args, dict(kwargs), tuple(fixed))


def _wrong_return(reference: str, returned: Any) -> ExportError:
    seen = type(returned).__name__
    if isinstance(returned, (tuple, list)):
        seen += f" of {len(returned)}: " + ", ".join(type(item).__name__ for item in returned[:4])
    fix = None
    if callable(getattr(returned, "forward", None)):
        taken = ", ".join(inspect.signature(returned.forward).parameters)
        fix = f"return the module and a tensor for each of {taken}: return module, (torch.zeros(1, …),)"
    return ExportError(
        f"source {reference} returned something else than (module, example inputs)",
        code="source_returned",
        seen=seen,
        valid=[_SHAPE_OF_RETURN],
        fix=fix,
    )


def _named(module: Any, example: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments in the order of forward's signature; None stands for "not given"."""
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {str(name): value for name, value in example.items() if value is not None}
    for name in given:
        if name not in parameters and not takes_any:
            raise ExportError(
                f"example input {name} is no argument of {type(module).__name__}.forward",
                code="example_inputs",
                **unknown(name, parameters),
            )
    ordered = [name for name in parameters if name in given] + [
        name for name in given if name not in parameters
    ]
    return {name: given[name] for name in ordered}


def _positional(module: Any, example: Sequence[Any]) -> dict[str, Any]:
    """What forward calls the values; those of *args are numbered."""
    try:
        bound = inspect.signature(module.forward).bind(*example)
    except TypeError as error:
        raise ExportError(
            f"{type(module).__name__}.forward does not take the {len(example)} example inputs",
            code="example_inputs",
            seen=str(error),
            valid=list(inspect.signature(module.forward).parameters),
            fix="give arguments that forward takes by keyword only as a dict: {argument: tensor}",
        ) from error
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}_{index}": item for index, item in enumerate(value)}
        else:
            named[name] = value
    return named


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
            fix="take and return torch.view_as_real of it, whose last dimension is (real, imaginary)"
            if tensor.is_complex()
            else "take and return float32 (or float16) and cast inside the module",
        ) from None


def names_by_path(paths: Sequence[Path], taken: Sequence[str]) -> list[str]:
    """Paths in what forward returns → a name each, all different from one another and from those taken.

    `output` for what stands alone, `output_1` in a tuple, `logits`, `hidden_states.0`, `past_key_values.0.key`. An ONNX
    file has one tensor of a name: an output called like an input gets `_out` behind it.
    """
    names: list[str] = []
    alone = len(paths) == 1 and not any(isinstance(part, str) for part in paths[0])
    for position, path in enumerate(paths):
        first, *rest = path or ("",)
        head = first if isinstance(first, str) else f"output_{first}"
        name = ".".join([head, *map(str, rest)])
        if alone:
            name = "output"
        elif not name.strip() or fault_of_text(name) or len(name) > _LONGEST_NAME:
            name = f"output_{position}"
        names.append(_distinct(f"{name}_out" if name in taken else name, (*taken, *names)))
    return names


_LONGEST_NAME = 200


def _distinct(name: str, taken: Collection[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found
