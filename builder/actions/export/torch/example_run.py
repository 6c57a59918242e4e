"""(module, example inputs) → what forward returns, or that it answers otherwise each time; and what it did beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.sources.callables import run_users_code, users_place_now
from tritonsmith.builder.actions.export.torch.example import Example, evaluating
from tritonsmith.builder.actions.export.torch.structure import Path
from tritonsmith.builder.base.errors import ExportError, Where

if TYPE_CHECKING:
    import torch

Leaves = list[tuple[Path, Any]]

_CLOSE = 1e-3
"""Relative; threads add floats in another order from run to run, which changes far less."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What one run of forward did beside answering, each with the user's line.

    random: operators that draw numbers. reads: where Python looked at a tensor's value (`.item()`, `if x.sum() > 0`).
    """

    random: tuple[tuple[str, Where | None], ...]
    reads: tuple[Where | None, ...]


def run_example(example: Example, tensors: Mapping[str, torch.Tensor], seed: int) -> Leaves:
    """What forward returns; it is run twice on the same inputs, with other random numbers.

    ExportError: forward_failed at the user's line, not_deterministic or stateful when the answers differ.
    """
    import torch

    who = f"{type(example.module).__name__}.forward"

    def failed(error: str) -> ExportError:
        return ExportError(
            f"{who} raised {error}",
            code="forward_failed",
            seen=", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in tensors.items()),
            fix=_fix_of_failure(error, example, tensors),
        )

    state = _state(example.module)
    first: Leaves = run_users_code(lambda: _run(example, tensors), failed)
    changed = _changed(state, _state(example.module))
    torch.manual_seed(seed + 1)
    second = run_users_code(lambda: _run(example, tensors), failed)
    differing = _differing(first, second)
    if differing:
        watched = watched_run(example, tensors)
        raise _differs(who, differing, changed, () if watched is None else watched.random)
    return first


def watched_run(example: Example, tensors: Mapping[str, torch.Tensor]) -> Watched | None:
    """One more run, with every operator seen; None for a module that does not run under a mode of torch's dispatcher."""
    watch = _watch()
    try:
        with watch:
            _run(example, tensors)
    except Exception:
        return None
    return Watched(tuple(watch.random), tuple(watch.reads))


def _run(example: Example, tensors: Mapping[str, torch.Tensor]) -> Leaves:
    """On copies, and giving copies: forward may write into its inputs and give out its own buffers."""
    import torch

    with evaluating(example.module):
        leaves = example.leaves([tensor.clone() for tensor in tensors.values()])
        return [(path, leaf.clone() if isinstance(leaf, torch.Tensor) else leaf) for path, leaf in leaves]


def _fix_of_failure(error: str, example: Example, tensors: Mapping[str, torch.Tensor]) -> str:
    if "device" in error and ("same device" in error or "cuda" in error or "meta" in error):
        return "the model is exported on the CPU: register_buffer() what forward needs, and name no device in forward"
    repeated = [
        f"{name}: {list(example.tensors[name].shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != example.tensors[name].shape
    ]
    if repeated:
        return (
            f"forward must accept the example with dynamic dimensions of 2 where it has 1 ({', '.join(repeated)}); give an "
            "example whose dynamic dimensions are 2 or more, and say in dynamic_dims which follow from others: "
            "{total: past + new}"
        )
    return "forward must accept the example at any size of its dynamic dimensions"


def _state(module: torch.nn.Module) -> dict[str, tuple[Any, int]]:
    """What a run may change: tensors, each with the counter that torch raises with every write, and plain attributes."""
    import torch

    found: dict[str, tuple[Any, int]] = {}
    for prefix, part in module.named_modules():
        own = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        for name, value in {**own, **part._parameters, **part._buffers}.items():
            if isinstance(value, torch.Tensor):
                found[f"{prefix}.{name}".lstrip(".")] = (value, value._version)
            elif isinstance(value, (bool, int, float, str)) and name != "training":
                found[f"{prefix}.{name}".lstrip(".")] = (value, 0)
    return found


def _changed(before: Mapping[str, tuple[Any, int]], after: Mapping[str, tuple[Any, int]]) -> list[str]:
    import torch

    def same(one: tuple[Any, int], other: tuple[Any, int]) -> bool:
        if isinstance(one[0], torch.Tensor) or isinstance(other[0], torch.Tensor):
            return one[0] is other[0] and one[1] == other[1]
        return bool(one[0] == other[0])

    return sorted(
        name for name, value in after.items() if name not in before or not same(before[name], value)
    )


def _differing(first: Leaves, second: Leaves) -> list[str]:
    """Paths of the outputs that are not the same."""
    if len(first) != len(second):
        return ["the number of outputs"]
    return [
        ".".join(map(str, path)) or "output"
        for (path, one), (_, other) in zip(first, second, strict=True)
        if not _alike(one, other)
    ]


def _differs(
    who: str, differing: Sequence[str], changed: Sequence[str], random: Sequence[tuple[str, Where | None]]
) -> ExportError:
    seen = f"differs: {', '.join(differing)}"
    if random:
        operator, where = random[0]
        return ExportError(
            f"{who} draws random numbers ({operator}), so that it gives another answer to the same input each time; "
            "no served answer could be compared with it",
            code="not_deterministic",
            where=where,
            seen=seen,
            fix="take the random numbers as an input, or leave them out in evaluation: F.dropout(x, p, self.training)",
        )
    if changed:
        return ExportError(
            f"{who} keeps state from call to call, and gives another answer to the same input the second time; "
            "an exported model keeps none",
            code="stateful",
            seen=f"changed by a call: {', '.join(changed[:5])}; {seen}",
            fix="take the state as an input and return the new one as an output; Triton's sequence_batching keeps it",
        )
    return ExportError(
        f"{who} gives another answer to the same input the second time; no random operator of torch was seen",
        code="not_deterministic",
        seen=seen,
        fix="look for NumPy's or Python's random numbers, the time, and Python objects that forward changes",
    )


def _alike(one: Any, other: Any) -> bool:
    import torch

    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return bool(type(one) is type(other))
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return bool(torch.equal(one, other))
    size = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return bool(torch.allclose(one, other, rtol=_CLOSE, atol=_CLOSE * size, equal_nan=True))


def _watch() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        """Sees every operator that runs."""

        supports_higher_order_operators = True

        def __init__(self) -> None:
            super().__init__()
            self.random: list[tuple[str, Where | None]] = []
            self.reads: list[Where | None] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()) and "attention" not in str(
                func
            ):
                self.random.append((str(func).removesuffix(".default"), users_place_now()))
            if func is torch.ops.aten._local_scalar_dense.default:
                self.reads.append(users_place_now())
            return func(*args, **(kwargs or {}))

    return Watch()
