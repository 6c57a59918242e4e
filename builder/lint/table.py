"""The rule table: every Rule of the family modules, by id."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from tritonsmith.builder.base.rows import table_of
from tritonsmith.builder.lint.rule import Rule
from tritonsmith.builder.lint.rules import (
    backend,
    cache,
    instance,
    io,
    metrics,
    optimization,
    rate_limiter,
    warmup,
)
from tritonsmith.builder.lint.rules.batching import batch, batch_io, batch_rows, sequence, sequence_state
from tritonsmith.builder.lint.rules.ensembles import ensemble, ensemble_models
from tritonsmith.builder.lint.rules.files import (
    model_file,
    onnx,
    repo,
    tensorrt,
    tensorrtllm,
    trtllm_engines,
    trtllm_llmapi,
    vllm,
    vllm_config,
    vllm_gpus,
)

FAMILIES: tuple[ModuleType, ...] = (
    repo,
    backend,
    batch,
    batch_rows,
    io,
    batch_io,
    model_file,
    instance,
    rate_limiter,
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
    vllm,
    vllm_gpus,
    vllm_config,
    tensorrtllm,
    trtllm_engines,
    trtllm_llmapi,
)


def _collect() -> Mapping[str, Rule]:
    rules = [value for family in FAMILIES for value in vars(family).values() if isinstance(value, Rule)]
    table = {rule.id: rule for rule in rules}
    assert len(table) == len(rules), "two rules have one id"
    order = list(dict.fromkeys(rule.family for rule in rules))
    return {rule.id: rule for rule in sorted(rules, key=lambda r: (order.index(r.family), r.id))}


RULES: Mapping[str, Rule] = table_of("tritonsmith.rules", Rule, _collect().values(), lambda rule: rule.id)
"""Ours, and those that other packages name in the group of entry points `tritonsmith.rules`, as `module:RULE`."""
