"""The rule table: every Rule of the family modules, by id."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from builder.lint.rule import Rule
from builder.lint.rules import (
    backend,
    batch,
    batch_rows,
    cache,
    ensemble,
    ensemble_models,
    instance,
    io,
    metrics,
    model_file,
    onnx,
    optimization,
    repo,
    sequence,
    sequence_state,
    tensorrt,
    warmup,
)

FAMILIES: tuple[ModuleType, ...] = (
    repo,
    backend,
    batch,
    batch_rows,
    io,
    model_file,
    instance,
    sequence,
    sequence_state,
    ensemble,
    ensemble_models,
    warmup,
    cache,
    metrics,
    optimization,
    tensorrt,
    onnx,
)


def _collect() -> Mapping[str, Rule]:
    rules = [value for family in FAMILIES for value in vars(family).values() if isinstance(value, Rule)]
    table = {rule.id: rule for rule in rules}
    assert len(table) == len(rules), "two rules have one id"
    order = list(dict.fromkeys(rule.family for rule in rules))
    return {rule.id: rule for rule in sorted(rules, key=lambda r: (order.index(r.family), r.id))}


RULES: Mapping[str, Rule] = _collect()
