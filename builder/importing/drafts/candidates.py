"""(a source's Surface, a preset) → the fields that its entry may have, best first: batched with open sizes … not batched."""

from __future__ import annotations

import re
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
        "texts are small, so batches are large",
    ),
    "audio": Habits(
        4,
        "1,2,4,8",
        "cost goes by length, so batches are small",
    ),
}
_PLAIN = Habits(DEFAULT_MAX_BATCH_SIZE, "4,8,16,32", "")

_CHANNELS = (1, 2, 3, 4)
_LONGEST: Mapping[str, int] = {"sequence": 512, "length": 16000 * 30}
_USUAL: Mapping[str, int] = {"sequence": 128, "length": 16000, "height": 224, "width": 224}


def habits_of(preset: Preset | None) -> Habits:
    """The preset's; without one what Triton's auto-complete would choose."""
    return _PLAIN if preset is None else PRESETS[preset]


def usual_size(dim: Dim, stated: Mapping[str, int]) -> int:
    """A size to send where a dimension is open."""
    if isinstance(dim, int) and dim >= 0:
        return dim
    return stated.get(str(dim), _USUAL.get(str(dim), 16))


def candidates(surface: Surface, preset: Preset | None, needs_inputs: bool = False) -> list[Fields]:
    """Fields to try one after another: batched first, with open sizes, then with fewer; at last not batched.

    needs_inputs: the source tells none itself, so that every one of them states what the surface has.
    """
    batching: Fields = {"max_batch_size": habits_of(preset).max_batch_size, "dynamic_batching": {}}
    unbatched: Fields = {"max_batch_size": 0}
    found: list[Fields] = []
    if all(tensor.shape and isinstance(tensor.shape[0], str) for tensor in surface.inputs):
        sizes = _open_sizes(surface, preset)
        if sizes:
            names: dict[str, Dim] = {dim: size.name for dim, size in sizes.items()}
            tensors = [_stated(tensor, names) for tensor in surface.inputs]
            found += [
                {**batching, "input": tensors, **({"dynamic_dims": ranges} if ranges else {})}
                for ranges in _ranges(surface, sizes)
            ]
        fixed = [_stated(tensor, surface.sizes) for tensor in surface.inputs]
        found.append({**batching, "input": fixed} if needs_inputs else batching)
    if needs_inputs:
        unbatched["input"] = [_stated(tensor, {}, first="rows") for tensor in surface.inputs]
    found.append(unbatched)
    return [fields for i, fields in enumerate(found) if fields not in found[:i]]


@dataclass(frozen=True, slots=True)
class _Open:
    """An open size: its name in the spec, and what such a size usually is (`sequence`), which decides about its range."""

    name: str
    usual: str | None


def _open_sizes(surface: Surface, preset: Preset | None) -> dict[str, _Open]:
    """The surface's name → what the spec says of it, beside the batch; empty when one follows from others."""
    batches = {tensor.shape[0] for tensor in surface.inputs}
    found: dict[str, _Open] = {}
    for tensor in surface.inputs:
        for axis, dim in enumerate(tensor.shape):
            if not isinstance(dim, str) or axis == 0 or dim in found:
                continue
            if dim in batches or not dim.isidentifier():
                return {}
            usual, placed = _usual_name(tensor, axis, preset), f"{tensor.name}_{axis}"
            base = (usual or placed) if _is_symbol(dim) or dim == placed else dim
            base = "".join(c if c.isalnum() or c == "_" else "_" for c in base)
            taken = {"batch", *(known.name for known in found.values())}
            name = next(
                n for i in range(1, len(taken) + 2) if (n := base if i == 1 else f"{base}_{i}") not in taken
            )
            found[dim] = _Open(name, usual or (dim if dim in _USUAL else None))
    return found


def _is_symbol(dim: str) -> bool:
    """`s77`, `2*s77`: torch's words, which say nothing to a reader."""
    return re.search(r"\b[su]\d+\b", dim) is not None


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


def _ranges(surface: Surface, sizes: Mapping[str, _Open]) -> Iterator[Fields]:
    """Wide ranges, then such that end at what the source was seen to take."""
    wide = {
        size.name: _range(size.usual, surface.sizes.get(dim), surface.largest.get(dim))
        for dim, size in sizes.items()
    }
    yield {name: stated for name, stated in wide.items() if stated}
    if sizes.keys() <= surface.sizes.keys():
        yield {
            size.name: {"min": 1, "opt": seen, "max": seen}
            for dim, size in sizes.items()
            if (seen := surface.sizes[dim])
        }


def _range(usual: str | None, seen: int | None, largest: int | None) -> Fields:
    size = seen if seen is not None else _USUAL.get(usual or "")
    if not size:
        return {}
    high = max(size, _LONGEST.get(usual or "", 2 * size))
    high = high if largest is None else min(high, largest)
    opt = min(max(size, _USUAL[usual]) if usual == "sequence" else size, high)
    low = max(1, size // 2) if usual in ("height", "width") else 1
    return {"min": min(low, opt), "opt": opt, "max": high}
