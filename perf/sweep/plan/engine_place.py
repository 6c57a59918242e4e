"""`engine.max_num_seqs` → the Place of an argument of a language model's engine, typed by the tables of builder.llm; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.llm.arguments import arguments, nearest_argument
from tritonsmith.perf.sweep.plan.config_path import ENGINE, Place, segments_of

# A field of Triton's proto that holds the same kind of value, by the argument's types, the widest first.
_KINDS = (
    ("str", "ModelConfig", "backend"),
    ("float", "ModelSequenceBatching.StrategyDirect", "minimum_slot_utilization"),
    ("int", "ModelInput", "dims"),
    ("bool", "ModelInput", "optional"),
)
_FIXED = ("model", "tokenizer")


def engine_place(path: str) -> Place:
    """UsageError `unknown_field` for what no vLLM has, `no_setting` for what cannot vary from arm to arm."""
    names = [name for name, _ in segments_of(path)]
    known = arguments("vllm", None)
    if len(names) != 2 or names[1] not in known:
        near = nearest_argument("vllm", None, ".".join(names[1:]))
        raise UsageError(
            f"vLLM has no engine argument '{'.'.join(names[1:])}'",
            code="unknown_field",
            seen=path,
            valid=() if near else [f"{ENGINE}.max_num_seqs", f"{ENGINE}.enable_prefix_caching"],
            fix=f"{ENGINE}.{near}" if near else None,
        )
    argument = known[names[1]]
    if names[1] in _FIXED:
        why = f"{path} is no setting of a sweep: it says which model this is"
        raise UsageError(why, code="no_setting", seen=path, fix="--variant NAME=DIR")
    field = next((_field(where, name) for kind, where, name in _KINDS if kind in argument.types), None)
    if field is None:
        raise UsageError(
            f"{path} holds {argument.type}: only numbers, truth values and words are swept",
            code="no_setting",
            seen=path,
            fix="--variant NAME=DIR of a model directory that has it",
        )
    return Place(path, field, False)


def check_choices(place: Place, values: Sequence[Any]) -> None:
    """UsageError for a word that the argument does not take."""
    argument = arguments("vllm", None)[segments_of(place.path)[1][0]]
    for value in values:
        if argument.choices and value is not None and value not in argument.choices:
            raise UsageError(
                f"{place.path} takes one of its words", code="bad_value", seen=value, valid=argument.choices
            )


def _field(message: str, name: str) -> Any:
    descriptor = model_config_pb2().DESCRIPTOR.message_types_by_name[message.partition(".")[0]]
    for nested in message.split(".")[1:]:
        descriptor = descriptor.nested_types_by_name[nested]
    return descriptor.fields_by_name[name]
