"""(a source's Surface, a preset) → the fields that its entry may have, best first: batched with open sizes … not batched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.tensors import Dim, TensorSpec
from tritonsmith.builder.importing.drafts.asked import Preset
from tritonsmith.builder.importing.drafts.surface import Surface
from tritonsmith.builder.lint.read.autofill import DEFAULT_MAX_BATCH_SIZE

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Habits:
    """What is usual of a kind of data.

    max_batch_size: to start from; tried: those that a sweep should try.
    note: why, and what to watch.
    """

    max_batch_size: int
    tried: str
    note: str


PRESETS: Mapping[Preset, Habits] = {
    "image": Habits(8, "4,8,16,32", "images are large, so batches are small"),
    "text": Habits(
        32,
        "8,16,32,64",
        "texts are small, so batches are large; requests join one batch when padded to one length",
    ),
    "audio": Habits(
        4,
        "1,2,4,8",
        "cost goes by length, so batches are small; requests join one batch when padded to one length",
    ),
}
_PLAIN = Habits(DEFAULT_MAX_BATCH_SIZE, "4,8,16,32", "")

_CHANNELS = (1, 2, 3, 4)
_LONGEST = {"sequence": 512, "length": 16000 * 30}
_USUAL = {"sequence": 128, "length": 16000, "height": 224, "width": 224}


def habits_of(preset: Preset | None) -> Habits:
    """The preset's; without one what Triton's auto-complete would choose."""
    return _PLAIN if preset is None else PRESETS[preset]


def candidates(surface: Surface, preset: Preset | None, needs_inputs: bool = False) -> list[Fields]:
    """Fields to try one after another: batched first, with open sizes, then with fewer; at last not batched.

    needs_inputs: the source tells none itself, so that every one of them states what the surface has.
    """
    batching: Fields = {"max_batch_size": habits_of(preset).max_batch_size, "dynamic_batching": {}}
    unbatched: Fields = {"max_batch_size": 0}
    found: list[Fields] = []
    if all(tensor.shape and isinstance(tensor.shape[0], str) for tensor in surface.inputs):
        names = _names(surface, preset)
        if names:
            tensors = [_stated(tensor, names) for tensor in surface.inputs]
            found += [
                {**batching, "input": tensors, **({"dynamic_dims": ranges} if ranges else {})}
                for ranges in _ranges(surface, names)
            ]
        fixed = [_stated(tensor, surface.sizes) for tensor in surface.inputs]
        found.append({**batching, "input": fixed} if needs_inputs else batching)
    if needs_inputs:
        unbatched["input"] = [_stated(tensor, {}, first="rows") for tensor in surface.inputs]
    found.append(unbatched)
    return [fields for i, fields in enumerate(found) if fields not in found[:i]]


def _names(surface: Surface, preset: Preset | None) -> dict[str, str]:
    """The surface's name → ours, of open sizes beside the batch; empty when one follows from others."""
    batches = {tensor.shape[0] for tensor in surface.inputs}
    names: dict[str, str] = {}
    for tensor in surface.inputs:
        for axis, dim in enumerate(tensor.shape):
            if not isinstance(dim, str) or axis == 0 or dim in names:
                continue
            if not dim.isidentifier() or dim in batches:
                return {}
            name = _usual_name(tensor, axis, preset) or (f"{tensor.name}_{axis}" if _is_symbol(dim) else dim)
            name = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
            taken, number, base = {*names.values(), "batch"}, 2, name
            while name in taken:
                name, number = f"{base}_{number}", number + 1
            names[dim] = name
    return names


def _is_symbol(dim: str) -> bool:
    """`s77`: torch's name, which says nothing."""
    return dim[:1] in "su" and dim[1:].isdigit()


def _usual_name(tensor: TensorSpec, axis: int, preset: Preset | None) -> str | None:
    """What such a size is called, by the preset, else by the tensor's type and rank."""
    rank, integer = len(tensor.shape), tensor.dtype.kserve in ("INT32", "INT64")
    if rank == 4 and preset in (None, "image"):
        last = tensor.shape[3] in _CHANNELS
        return {1: "height", 2: "width"}.get(axis) if last else {2: "height", 3: "width"}.get(axis)
    if preset == "audio":
        return "length" if axis == rank - 1 or (rank == 3 and axis == 1) else None
    if axis == 1 and (preset == "text" or (preset is None and integer and rank == 2)):
        return "sequence"
    return None


def _stated(tensor: TensorSpec, names: Mapping[str, Dim], first: str | None = None) -> Fields:
    """As the spec has it. names: the surface's name → what stands for it. first: the name of the first dimension, where it
    is not the batch."""
    dims: list[Dim] = [names.get(d, d) if isinstance(d, str) else d for d in tensor.shape[1:]]
    if first is not None:
        dims = [first, *dims] if tensor.shape[:1] == ("batch",) else [*tensor.shape]
    return {"name": tensor.name, "data_type": tensor.dtype.config, "dims": dims}


def _ranges(surface: Surface, names: Mapping[str, str]) -> Iterator[Fields]:
    """Wide ranges, then such that end at what the source was seen to take."""
    seen = {name: size for name, size in surface.sizes.items() if name in names}
    usual = {n: _USUAL.get(_base(ours)) for n, ours in names.items()}
    wide = {
        ours: _range(_base(ours), seen.get(name) or usual[name], surface.largest.get(name))
        for name, ours in names.items()
    }
    yield {name: sizes for name, sizes in wide.items() if sizes}
    if len(seen) == len(names):
        yield {names[n]: {"min": 1, "opt": size, "max": size} for n, size in seen.items()}


def _base(name: str) -> str:
    return name.rstrip("0123456789").rstrip("_")


def _range(name: str, size: int | None, largest: int | None) -> Fields:
    if size is None:
        return {}
    low, high = (1, 2 * size) if name not in ("height", "width") else (max(1, size // 2), 2 * size)
    high = max(size, _LONGEST.get(name, high)) if name in _LONGEST else high
    high = high if largest is None else min(high, largest)
    opt = min(max(size, 1), high)
    if name == "sequence":
        opt = min(max(opt, _USUAL[name]), high)
    return {"min": min(low, opt), "opt": opt, "max": high}
