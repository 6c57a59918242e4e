"""Rules about batch_input and batch_output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import type_name

_CORE = "core/src/model_config_utils.cc"


@rule(
    "IO023",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="name one of the declared inputs",
    source=f"{_CORE}:1385; seen live on 2.51.0",
    bad='batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "z" }',
    good='batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" }',
)
def batch_source_unknown(model: Model, context: Context) -> Iterator[Hit]:
    """source_input of a batch_input or batch_output names no declared input."""
    names = {tensor.name for tensor in model.config.input}
    for field, batch_io in _batch_ios(model):
        for name in batch_io.source_input:
            if name not in names:
                yield Hit(f"'{name}' is no declared input", f"{field}.source_input", name)


@rule(
    "IO024",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="use TYPE_INT32 or TYPE_FP32",
    source=f"{_CORE}:1379",
    bad='batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT64 source_input: "x" }',
    good='batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT32 source_input: "x" }',
)
def batch_input_type(model: Model, context: Context) -> Iterator[Hit]:
    """A batch_input has another data_type than INT32 or FP32."""
    for index, batch_input in enumerate(model.config.batch_input):
        name = type_name(batch_input.data_type)
        if name not in ("TYPE_INT32", "TYPE_FP32"):
            yield Hit(f"a batch_input is {name}", f"batch_input[{index}].data_type", name)


@rule(
    "IO025",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="name exactly one source_input",
    source=f"{_CORE}:1364",
    bad='batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 }',
    good='batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" }',
)
def batch_source_count(model: Model, context: Context) -> Iterator[Hit]:
    """A batch_input or batch_output has other than one source_input."""
    for field, batch_io in _batch_ios(model):
        if len(batch_io.source_input) != 1:
            yield Hit(
                f"{len(batch_io.source_input)} source inputs instead of one",
                field,
                list(batch_io.source_input),
            )


@rule(
    "IO026",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="name a declared output",
    source=f"{_CORE}:1421",
    bad='batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "absent" source_input: "x" }',
    good='batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" source_input: "x" }',
)
def batch_target_unknown(model: Model, context: Context) -> Iterator[Hit]:
    """target_name of a batch_output names no declared output."""
    names = {tensor.name for tensor in model.config.output}
    for index, batch_output in enumerate(model.config.batch_output):
        for name in batch_output.target_name:
            if name not in names:
                yield Hit(f"'{name}' is no declared output", f"batch_output[{index}].target_name", name)


@rule(
    "IO027",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="name it once",
    source=f"{_CORE}:1426",
    bad='batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: [ "y", "y" ] source_input: "x" }',
    good='batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: [ "y" ] source_input: "x" }',
)
def batch_target_twice(model: Model, context: Context) -> Iterator[Hit]:
    """A batch_output names an output twice."""
    for index, batch_output in enumerate(model.config.batch_output):
        for name, count in Counter(batch_output.target_name).items():
            if count > 1:
                yield Hit(f"'{name}' is named {count} times", f"batch_output[{index}].target_name", name)


def _batch_ios(model: Model) -> Iterator[tuple[str, Any]]:
    for kind in ("batch_input", "batch_output"):
        for index, batch_io in enumerate(getattr(model.config, kind)):
            yield f"{kind}[{index}]", batch_io
