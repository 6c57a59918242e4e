"""An ONNX operator and what is known of its operands → a Node, as the tables of `along` read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BATCHES = (5040, 7560)
"""The two numbers of rows that shapes are inferred for; most numbers divide them, as a Reshape may ask."""

Dim = tuple[int, int] | None
"""A size at each of BATCHES; None where shape inference does not know it."""

Shape = tuple[Dim, ...] | None


def varies(dim: Dim) -> bool:
    """Whether the size is known to follow the number of rows."""
    return dim is not None and dim[0] != dim[1]


def is_whole(dim: Dim) -> bool:
    """Whether the size is a number of whole batches, as that of batches laid one after another, or of rows times columns."""
    return dim is not None and all(size % rows == 0 for size, rows in zip(dim, BATCHES, strict=True))


def is_cut(dim: Dim) -> bool:
    """Whether the size is known to be of no whole number of batches."""
    return dim is not None and not is_whole(dim)


@dataclass(frozen=True, slots=True)
class Node:
    """An operator as the tables read it.

    inputs: their names, "" for one that is left out. shapes, results: of its inputs and outputs. constants: integers of
    its inputs, None for an input that has none.
    picks: inputs whose values, taken as places, are any rows: constants, or made of the model's inputs, and not counted
    along a size, as the places are by which each row finds its own element.
    """

    op: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    results: tuple[Shape, ...]
    constants: tuple[tuple[int, ...] | None, ...]
    picks: frozenset[int] = frozenset()

    def has(self, index: int) -> bool:
        """Whether the optional input is there."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def constant(self, index: int) -> tuple[int, ...] | None:
        """An input's integers."""
        return self.constants[index] if self.has(index) else None

    def rank(self, operand: int = 0) -> int | None:
        """Number of an input's axes."""
        shape = self.shapes[operand] if operand < len(self.shapes) else None
        return None if shape is None else len(shape)

    def from_start(self, axis: int, operand: int = 0) -> int:
        """The axis counted from the first; still negative where the rank is not known."""
        return axis + (self.rank(operand) or 0) if axis < 0 else axis

    def dim(self, axis: int, operand: int = 0) -> Dim:
        """Size of an input's axis."""
        shape = self.shapes[operand] if operand < len(self.shapes) else None
        return shape[axis] if shape is not None and axis < len(shape) else None

    def result(self, axis: int, output: int = 0) -> Dim:
        """Size of an output's axis."""
        shape = self.results[output] if output < len(self.results) else None
        return shape[axis] if shape is not None and axis < len(shape) else None
