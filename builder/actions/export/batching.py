"""(TensorSpecs, max_batch_size) → the specs with their batch dimension named, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.tensors import TensorSpec

BATCH = "batch"


def with_batch_dimension(
    tensors: Sequence[TensorSpec], max_batch_size: int, where: Where | None, fix_source: str
) -> tuple[TensorSpec, ...]:
    """With max_batch_size > 0 each first dimension must be dynamic; a nameless one is called `batch`.

    fix_source: how this kind of source is made to have one. ExportError fixed_batch, no_batch_dimension.
    """
    if max_batch_size == 0:
        return tuple(tensors)
    named = []
    for tensor in tensors:
        fix = f"max_batch_size: 0, or {fix_source}"
        if not tensor.shape:
            raise ExportError(
                f"{tensor.name} is a scalar without batch dimension, but max_batch_size is {max_batch_size}",
                code="no_batch_dimension",
                where=where,
                seen=f"{tensor.name}: shape []",
                fix=fix,
            )
        first = tensor.shape[0]
        if isinstance(first, int) and first >= 0:
            raise ExportError(
                f"{tensor.name} has a fixed first dimension, but max_batch_size is {max_batch_size}",
                code="fixed_batch",
                where=where,
                seen=f"{tensor.name}: shape {list(tensor.shape)}",
                valid=["a dynamic first dimension"],
                fix=fix,
            )
        named.append(replace(tensor, shape=(BATCH, *tensor.shape[1:])) if first == -1 else tensor)
    return tuple(named)
