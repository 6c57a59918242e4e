"""Rules about the sequence batcher: its controls and strategies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import type_name

_CORE = "core/src/model_config_utils.cc"
_BATCHER = "core/src/sequence_batch_scheduler/sequence_batch_scheduler.cc"
_LISTS = ("int32_false_true", "fp32_false_true", "bool_false_true")
_CORRID_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def _control(text: str) -> str:
    return f"max_batch_size: 8\nsequence_batching {{ {text} }}"


def _start(text: str) -> str:
    return _control(f'control_input {{ name: "START" control {{ kind: CONTROL_SEQUENCE_START {text} }} }}')


@rule(
    "SEQ001",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="name the control's tensor",
    source=f"{_CORE}:529",
    bad=_control("control_input { control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }"),
    good=_start("int32_false_true: [ 0, 1 ]"),
)
def control_without_name(model: Model, context: Context) -> Iterator[Hit]:
    """A control_input has no name."""
    for field, control_input in _control_inputs(model):
        if not control_input.name:
            yield Hit("a control_input has no name", field)


@rule(
    "SEQ002",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="give each control a tensor of its own",
    source=f"{_CORE}:537",
    bad=_control(
        'control_input [ { name: "C" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } },\n'
        '    { name: "C" control { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } } ]'
    ),
    good=_control(
        'control_input [ { name: "S" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } },\n'
        '    { name: "E" control { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } } ]'
    ),
)
def control_tensor_twice(model: Model, context: Context) -> Iterator[Hit]:
    """One tensor stands in two control_inputs."""
    seen: set[str] = set()
    for field, control_input in _control_inputs(model):
        if control_input.name and control_input.name in seen:
            yield Hit(f"'{control_input.name}' controls twice", f"{field}.name", control_input.name)
        seen.add(control_input.name)


@rule(
    "SEQ003",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="keep one control of each kind",
    source=f"{_CORE}:547",
    bad=_control(
        'control_input [ { name: "A" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } },\n'
        '    { name: "B" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } } ]'
    ),
    good=_start("int32_false_true: [ 0, 1 ]"),
)
def control_kind_twice(model: Model, context: Context) -> Iterator[Hit]:
    """A kind of control is given twice."""
    seen: set[int] = set()
    for field, control in _controls(model):
        if control.kind in seen:
            yield Hit(f"{_kind(control)} is given twice", f"{field}.kind", _kind(control))
        seen.add(control.kind)


@rule(
    "SEQ004",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="write int32_false_true, fp32_false_true or bool_false_true: [ 0, 1 ]",
    source=f"{_CORE}:562",
    bad=_start(""),
    good=_start("int32_false_true: [ 0, 1 ]"),
)
def control_without_values(model: Model, context: Context) -> Iterator[Hit]:
    """A START, END or READY control has no *_false_true list."""
    for field, control in _controls(model):
        if not _is_corrid(control) and not _given_lists(control):
            yield Hit(f"{_kind(control)} has no values for false and true", field)


@rule(
    "SEQ005",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="keep one of the lists",
    source=f"{_CORE}:576",
    bad=_start("int32_false_true: [ 0, 1 ] fp32_false_true: [ 0, 1 ]"),
    good=_start("fp32_false_true: [ 0, 1 ]"),
)
def control_with_two_lists(model: Model, context: Context) -> Iterator[Hit]:
    """A START, END or READY control has more than one *_false_true list."""
    for field, control in _controls(model):
        lists = _given_lists(control)
        if not _is_corrid(control) and len(lists) > 1:
            yield Hit(f"{_kind(control)} has {' and '.join(lists)}", f"{field}.{lists[1]}", ", ".join(lists))


@rule(
    "SEQ006",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="write two values: for false, for true",
    source=f"{_CORE}:589",
    bad=_start("int32_false_true: [ 1 ]"),
    good=_start("int32_false_true: [ 0, 1 ]"),
)
def control_values_not_two(model: Model, context: Context) -> Iterator[Hit]:
    """A *_false_true list has other than two entries."""
    for field, control in _controls(model):
        for name in _given_lists(control) if not _is_corrid(control) else ():
            values = list(getattr(control, name))
            if len(values) != 2:
                yield Hit(f"{name} has {len(values)} entries", f"{field}.{name}", values)


@rule(
    "SEQ007",
    "error",
    "poll",
    then="the server does not poll the model",
    fix=f"use one of {', '.join(_CORRID_TYPES)}",
    source=f"{_CORE}:1614",
    bad=_control(
        'control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } }'
    ),
    good=_control(
        'control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }'
    ),
)
def corrid_type(model: Model, context: Context) -> Iterator[Hit]:
    """CORRID has a data_type that no correlation id has."""
    for field, control in _controls(model):
        if _is_corrid(control) and type_name(control.data_type) not in _CORRID_TYPES:
            yield Hit(
                f"CORRID is {type_name(control.data_type)}",
                f"{field}.data_type",
                type_name(control.data_type),
            )


@rule(
    "SEQ008",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop the list: a correlation id is no flag",
    source=f"{_CORE}:717",
    bad=_control(
        'control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64\n'
        "    int32_false_true: [ 0, 1 ] } }"
    ),
    good=_control(
        'control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }'
    ),
)
def corrid_with_values(model: Model, context: Context) -> Iterator[Hit]:
    """CORRID has a *_false_true list."""
    for field, control in _controls(model):
        for name in _given_lists(control) if _is_corrid(control) else ():
            yield Hit(f"CORRID has {name}", f"{field}.{name}", list(getattr(control, name)))


@rule(
    "SEQ009",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="use sizes between 1 and max_batch_size",
    source=f"{_CORE}:1639",
    bad=_control("oldest { max_candidate_sequences: 4 preferred_batch_size: [ 16 ] }"),
    good=_control("oldest { max_candidate_sequences: 4 preferred_batch_size: [ 8 ] }"),
)
def oldest_preferred_size(model: Model, context: Context) -> Iterator[Hit]:
    """A preferred_batch_size of the oldest strategy is not within 1 … max_batch_size."""
    limit = model.written.max_batch_size
    for index, size in enumerate(model.written.sequence_batching.oldest.preferred_batch_size):
        if size <= 0 or size > limit:
            yield Hit(
                f"preferred batch size {size}, max_batch_size {limit}",
                f"sequence_batching.oldest.preferred_batch_size[{index}]",
                size,
            )


@rule(
    "SEQ010",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="write a share between 0 and 1",
    source=f"{_CORE}:1655",
    bad=_control("direct { minimum_slot_utilization: 2 }"),
    good=_control("direct { minimum_slot_utilization: 0.5 }"),
)
def slot_utilization(model: Model, context: Context) -> Iterator[Hit]:
    """minimum_slot_utilization is not within 0 … 1."""
    share = model.config.sequence_batching.direct.minimum_slot_utilization
    if not 0.0 <= share <= 1.0:
        yield Hit(
            f"minimum_slot_utilization is {share}", "sequence_batching.direct.minimum_slot_utilization", share
        )


@rule(
    "SEQ011",
    "warning",
    "silent",
    then="the server loads the model and takes max_batch_size as the number of sequences that may be under way",
    fix="write how many sequences may be under way at once",
    source=f"{_BATCHER}, SequenceBatchScheduler::Create; seen live on 2.51.0",
    bad=_control("oldest { }"),
    good=_control("oldest { max_candidate_sequences: 4 }"),
)
def no_candidates(model: Model, context: Context) -> Iterator[Hit]:
    """The oldest strategy has max_candidate_sequences 0."""
    batching = model.config.sequence_batching
    if batching.HasField("oldest") and batching.oldest.max_candidate_sequences <= 0:
        yield Hit(
            "the oldest strategy does not say how many sequences may be under way",
            "sequence_batching.oldest.max_candidate_sequences",
            batching.oldest.max_candidate_sequences,
        )


@rule(
    "SEQ012",
    "warning",
    "silent",
    then="the server loads the model with one slot an instance, so that sequences wait for one another",
    fix="set max_batch_size, or raise the instance count",
    source="seen live on 2.51.0",
    bad="max_batch_size: 0\nsequence_batching { }",
    good="max_batch_size: 8\nsequence_batching { }",
)
def sequence_without_batch(model: Model, context: Context) -> Iterator[Hit]:
    """sequence_batching stands on a model with max_batch_size 0."""
    if model.config.HasField("sequence_batching") and model.config.max_batch_size == 0:
        yield Hit("one sequence an instance: max_batch_size is 0", "sequence_batching", 0)


@rule(
    "SEQ020",
    "error",
    "load",
    then="the onnxruntime backend refuses the model",
    fix="give the graph an input of that name and type, shaped [batch, 1]",
    source="onnxruntime_backend/src/onnxruntime.cc:1549-1631",
    bad='backend: "onnxruntime"  # the graph has no input START\n' + _start("fp32_false_true: [ 0, 1 ]"),
    good='backend: "onnxruntime"  # the graph has START[batch, 1]\n' + _start("fp32_false_true: [ 0, 1 ]"),
    needs="onnx",
)
def control_in_graph(model: Model, context: Context) -> Iterator[Hit]:
    """A control's tensor is absent from the ONNX graph, or not of its shape and type there."""
    skip = 1 if model.config.max_batch_size > 0 else 0
    for number, surface in model.onnx_models:
        for field, control_input in _control_inputs(model):
            for control in control_input.control:
                found = next((t for t in surface.inputs if t.name == control_input.name), None)
                if found is None:
                    yield Hit(
                        f"version {number} has no input '{control_input.name}'", field, control_input.name
                    )
                    continue
                wanted = _control_type(control)
                shape = found.wire_shape
                if shape is not None and shape[skip:] != (1,):
                    yield Hit(
                        f"'{control_input.name}' is {list(found.shape or ())} in version {number}, "
                        f"not {'[batch, 1]' if skip else '[1]'}",
                        field,
                        list(found.shape or ()),
                    )
                elif wanted is not None and found.element != wanted[1]:
                    yield Hit(
                        f"'{control_input.name}' is {wanted[0]} here, another type in version {number}",
                        field,
                        wanted[0],
                    )


def _control_inputs(model: Model) -> Iterator[tuple[str, Any]]:
    for index, control_input in enumerate(model.config.sequence_batching.control_input):
        yield f"sequence_batching.control_input[{index}]", control_input


def _controls(model: Model) -> Iterator[tuple[str, Any]]:
    for field, control_input in _control_inputs(model):
        for index, control in enumerate(control_input.control):
            yield f"{field}.control[{index}]", control


def _is_corrid(control: Any) -> bool:
    return bool(control.kind == control.CONTROL_SEQUENCE_CORRID)


def _kind(control: Any) -> str:
    names = type(control).DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number
    return names[control.kind].name if control.kind in names else str(control.kind)


def _given_lists(control: Any) -> list[str]:
    return [name for name in _LISTS if len(getattr(control, name))]


def _control_type(control: Any) -> tuple[str, int] | None:
    """(Triton type, ONNX element type) that a control's tensor has."""
    from tritonsmith.builder.base.tensors import dtype_from_config

    lists = _given_lists(control)
    if _is_corrid(control):
        name = type_name(control.data_type)
    elif lists:
        name = {"int32": "TYPE_INT32", "fp32": "TYPE_FP32", "bool": "TYPE_BOOL"}[lists[0].split("_")[0]]
    else:
        return None
    try:
        return name, dtype_from_config(name).onnx
    except KeyError:
        return None
