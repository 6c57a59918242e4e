"""Rules about the sequence batcher's states, which the server keeps between the requests of a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonsmith.builder.lint.read.files import is_file, size_bytes
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import bytes_of, escapes, type_name

_BATCHER = "core/src/sequence_batch_scheduler/sequence_batch_scheduler.cc"


def _state(text: str) -> str:
    return (
        'max_batch_size: 8\nsequence_batching { state { input_name: "in" output_name: "out" '
        f"data_type: TYPE_FP32 dims: [ 2 ]\n    {text} }} }}"
    )


@rule(
    "SEQ013",
    "error",
    "load",
    then="the server refuses the state and the model does not load",
    fix="write the state's data_type",
    source=f"{_BATCHER}:340",
    bad=_state('initial_state { name: "s" data_type: TYPE_INT32 dims: [ 2 ] zero_data: true }'),
    good=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }'),
)
def state_type(model: Model, context: Context) -> Iterator[Hit]:
    """An initial_state has another data_type than its state."""
    for field, state, initial in _initial_states(model):
        if initial.data_type != state.data_type:
            yield Hit(
                f"the state is {type_name(state.data_type)}, initially {type_name(initial.data_type)}",
                f"{field}.data_type",
                type_name(initial.data_type),
            )


@rule(
    "SEQ014",
    "error",
    "load",
    then="the server refuses the state and the model does not load",
    fix="give it a name",
    source=f"{_BATCHER}:347",
    bad=_state("initial_state { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }"),
    good=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }'),
)
def state_without_name(model: Model, context: Context) -> Iterator[Hit]:
    """An initial_state has no name."""
    for field, _, initial in _initial_states(model):
        if not initial.name:
            yield Hit("an initial_state has no name", field)


@rule(
    "SEQ015",
    "error",
    "load",
    then="the server refuses the state and the model does not load",
    fix="write the state's dims, with a size for each dynamic one",
    source=f"{_BATCHER}:363,395",
    bad=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 3 ] zero_data: true }'),
    good=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }'),
)
def state_dims(model: Model, context: Context) -> Iterator[Hit]:
    """An initial_state's dims do not fit its state's."""
    for field, state, initial in _initial_states(model):
        dims, want = list(initial.dims), list(state.dims)
        if len(dims) != len(want) or any(
            w not in (-1, d) for d, w in zip(dims, want, strict=True) if d != -1
        ):
            yield Hit(f"the state is {want}, its initial state {dims}", f"{field}.dims", dims)


@rule(
    "SEQ016",
    "error",
    "load",
    then="the server refuses the state and the model does not load",
    fix="write a size for each dim",
    source=f"{_BATCHER}:388",
    bad=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ -1 ] zero_data: true }'),
    good=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }'),
)
def state_dynamic_dims(model: Model, context: Context) -> Iterator[Hit]:
    """An initial_state has dynamic dims."""
    for field, _, initial in _initial_states(model):
        if any(dim < 0 for dim in initial.dims):
            yield Hit(f"an initial state of dims {list(initial.dims)}", f"{field}.dims", list(initial.dims))


@rule(
    "SEQ017",
    "error",
    "load",
    then="the server refuses the state and the model does not load",
    fix="write zero_data: true, or name a data_file",
    source=f"{_BATCHER}:461",
    bad=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] }'),
    good=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }'),
)
def state_without_data(model: Model, context: Context) -> Iterator[Hit]:
    """An initial_state has neither zero_data nor data_file."""
    for field, _, initial in _initial_states(model):
        if initial.WhichOneof("state_data") is None:
            yield Hit("an initial_state says no data", field)


@rule(
    "SEQ018",
    "error",
    "load",
    then="the server cannot read the data and the model does not load",
    fix="put the file into initial_state/ of the model's directory, as long as dtype × dims",
    source=f"{_BATCHER}:439",
    bad=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] data_file: "absent" }'),
    good=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] data_file: "present" }'),
    needs="files",
)
def state_file(model: Model, context: Context) -> Iterator[Hit]:
    """An initial_state's data_file is absent from initial_state/ of the model, or too short."""
    for field, _, initial in _initial_states(model):
        if initial.WhichOneof("state_data") != "data_file":
            continue
        path = model.path / "initial_state" / initial.data_file
        size = bytes_of(initial.data_type, list(initial.dims))
        if escapes(initial.data_file) or not is_file(path):
            yield Hit(
                f"there is no initial_state/{initial.data_file}", f"{field}.data_file", initial.data_file
            )
        elif size is not None and size_bytes(path) < size:
            yield Hit(
                f"initial_state/{initial.data_file} has {size_bytes(path)} bytes of {size}",
                f"{field}.data_file",
                size_bytes(path),
            )


@rule(
    "SEQ019",
    "error",
    "load",
    then="the server refuses the states and the model does not load",
    fix="use each input_name once, with one initial_state",
    source=f"{_BATCHER}:143,356",
    bad=_state(2 * 'initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }\n    '),
    good=_state('initial_state { name: "s" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }'),
)
def state_twice(model: Model, context: Context) -> Iterator[Hit]:
    """Two states have one input_name, or a state has more than one initial_state."""
    seen: dict[str, int] = {}
    for index, state in enumerate(model.config.sequence_batching.state):
        field = f"sequence_batching.state[{index}]"
        if state.input_name in seen:
            # The core notices only when it has an initial state to file under the name.
            both = len(state.initial_state) and seen[state.input_name]
            yield Hit(
                f"'{state.input_name}' is a state twice",
                f"{field}.input_name",
                state.input_name,
                severity=None if both else "warning",
            )
        seen[state.input_name] = len(state.initial_state)
        if len(state.initial_state) > 1:
            yield Hit(
                f"'{state.input_name}' has {len(state.initial_state)} initial states",
                f"{field}.initial_state[1]",
                len(state.initial_state),
            )


def _initial_states(model: Model) -> Iterator[tuple[str, Any, Any]]:
    for index, state in enumerate(model.config.sequence_batching.state):
        for number, initial in enumerate(state.initial_state):
            yield f"sequence_batching.state[{index}].initial_state[{number}]", state, initial
