"""A lint rule of the house: large batches need somebody's word."""

from __future__ import annotations

from collections.abc import Iterator

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule


@rule(
    "ACME001",
    "warning",
    "silent",
    then="the model is served with batches that nobody has measured",
    fix="max_batch_size: 64",
    source="the house's own rules",
    bad="max_batch_size: 128",
    good="max_batch_size: 64",
)
def large_batch(model: Model, context: Context) -> Iterator[Hit]:
    """max_batch_size is above 64."""
    if model.config.max_batch_size > 64:
        yield Hit("the batch is larger than 64", "max_batch_size", model.config.max_batch_size)
