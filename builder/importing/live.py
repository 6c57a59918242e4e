"""Configs that a live Triton tells → the models of a spec, their files left to be named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.importing.fields import fields_from_message
from tritonsmith.builder.importing.imported import Imported, ImportedModel, Note
from tritonsmith.builder.lint.read.server_defaults import without_server_defaults

TODO = "TODO"


def imported_configs(configs: Sequence[Mapping[str, Any]], notes: Sequence[Note] = ()) -> Imported:
    """One model a config (Triton's JSON, as GET /v2/models/NAME/config answers).

    A server hands no files out, so every source but an ensemble's is a path that starts with TODO.
    """
    more = list(notes)
    models = tuple(_model(config, more) for config in configs)
    return Imported(models, tuple(more))


def _model(config: Mapping[str, Any], notes: list[Note]) -> ImportedModel:
    message = without_server_defaults(_message(config, notes))
    fields = fields_from_message(message)
    name = message.name
    if message.HasField("ensemble_scheduling"):
        return _ensemble(message, fields, notes)
    files = [*_label_files(message), *_warmup_files(message)]
    if message.backend == "onnxruntime" and not message.default_model_filename and _one_version(message):
        remark = f"TODO: a server hands no files out; name {name}'s ONNX file"
        source = {"onnx": f"{TODO}/{name}.onnx"}
        placed = {file: f"{TODO}/{name}/{file}" for file in files}
    else:
        remark = f"TODO: a server hands no files out; name {name}'s directory, with its versions"
        source, placed = {"directory": f"{TODO}/{name}"}, {}
    return ImportedModel(name, source, fields, placed, (remark,))


def _message(config: Mapping[str, Any], notes: list[Note]) -> Any:
    from google.protobuf import json_format

    try:
        message = json_format.ParseDict(
            dict(config), model_config_pb2().ModelConfig(), ignore_unknown_fields=True
        )
    except json_format.ParseError as error:
        raise ServerError(
            f"the server's answer is no model config: {error}", code="not_a_config", seen=config.get("name")
        ) from None
    known = message.DESCRIPTOR.fields_by_name
    unknown = sorted(key for key in config if key not in known)
    if unknown:
        notes.append(
            Note(f"{message.name}: not carried over, this tritonclient does not know: {', '.join(unknown)}")
        )
    return message


def _one_version(message: Any) -> bool:
    return not message.HasField("version_policy")


def _label_files(message: Any) -> list[str]:
    return list(dict.fromkeys(t.label_filename for t in message.output if t.label_filename))


def _warmup_files(message: Any) -> list[str]:
    inputs = [i for warmup in message.model_warmup for i in warmup.inputs.values()]
    states = [s for state in message.sequence_batching.state for s in state.initial_state]
    files = [f"warmup/{i.input_data_file}" for i in inputs if i.input_data_file]
    return list(dict.fromkeys([*files, *(f"initial_state/{s.data_file}" for s in states if s.data_file)]))


def _ensemble(message: Any, fields: Mapping[str, Any], notes: list[Note]) -> ImportedModel:
    """An ensemble needs no file: its steps are its source."""
    scheduling = message.ensemble_scheduling
    steps = []
    for step in scheduling.step:
        entry: dict[str, Any] = {"model": step.model_name}
        if step.model_version > 0:
            entry["version"] = step.model_version
        entry |= {"from": dict(sorted(step.input_map.items())), "to": dict(sorted(step.output_map.items()))}
        steps.append(entry)
        if step.model_namespace:
            notes.append(
                Note(f"{message.name}: the namespace of step {step.model_name!r} is not carried over")
            )
    if getattr(scheduling, "max_inflight_requests", 0):  # a field that older tritonclients do not know
        notes.append(Note(f"{message.name}: ensemble_scheduling.max_inflight_requests is not carried over"))
    left = ("platform", "ensemble_scheduling", "input", "output")
    kept = {k: v for k, v in fields.items() if k not in left}
    read = {tensor for step in scheduling.step for tensor in step.input_map.values()}
    if any(t.name in read for t in message.output):
        # Without a word from the spec, a tensor that a step reads is no output.
        kept["output"] = [{"name": t.name} for t in message.output]
    return ImportedModel(message.name, {"steps": steps}, kept, {})
