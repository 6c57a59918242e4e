"""(an ensemble's steps, the configs of the models they name) → the ensemble's ModelConfig, every wire checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.errors import SpecError, Where, unknown
from tritonsmith.builder.spec.model_spec import ModelSpec, Step
from tritonsmith.builder.spec.spec import RepositorySpec


@dataclass(frozen=True, slots=True)
class Wire:
    """One end of an ensemble tensor.

    end:       reader or writer, `model.tensor`, for messages.
    data_type: 0 where it is not known.
    shape:     whole, with -1 first where the model batches; None where it is not known.
    """

    end: str
    data_type: int
    shape: tuple[int, ...] | None
    where: Where


def ensemble_config(model: ModelSpec, configs: Mapping[str, Any], spec: RepositorySpec) -> Any:
    """What the spec states, completed from the steps' own configs.

    configs: model name → its ModelConfig message. max_batch_size left out is the smallest of the steps'.
    Inputs are the tensors no step writes, which are those of `input:` where the spec has it; outputs those no step reads,
    unless the spec states them.
    SpecError names the step's line for a wire that leads nowhere or does not fit.
    """
    from google.protobuf import json_format

    from tritonsmith.builder.base.triton_proto import model_config_pb2

    steps = model.source.steps or ()
    written, read, faults = _wires(model, steps, configs, spec)
    if faults := [*faults, *_type_faults(model, written, read)]:
        raise faults[0]
    stated = model.config.as_proto_json()
    batch_sizes = [configs[step.model].max_batch_size for step in steps]
    max_batch_size = int(stated.get("max_batch_size", min(batch_sizes)))
    _check_batch(model, max_batch_size, steps, batch_sizes, spec)
    if faults := list(_input_faults(model, stated, written, read, spec)):
        raise faults[0]
    inputs = {n: wires[0] for n, wires in read.items() if n not in written}
    outputs = _outputs(model, stated, written, read, spec)
    message = model_config_pb2().ModelConfig()
    config = {
        **stated,
        "name": model.name,
        "platform": "ensemble",
        "max_batch_size": max_batch_size,
        "input": [_tensor(n, w, max_batch_size > 0) for n, w in inputs.items()],
        "output": [_tensor(n, w, max_batch_size > 0) for n, w in outputs.items()],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": step.model,
                    "model_version": str(step.version),
                    "input_map": dict(step.inputs),
                    "output_map": dict(step.outputs),
                }
                for step in steps
            ]
        },
    }
    json_format.ParseDict(config, message)
    return message


def wiring_faults(model: ModelSpec, configs: Mapping[str, Any], spec: RepositorySpec) -> list[SpecError]:
    """All that ensemble_config would refuse of the wires, as far as it is known.

    configs: of the steps whose tensors are known: all inputs, or none, all outputs, or none; a tensor's data_type may be
    unset and its dims empty, where they are not.
    """
    steps = model.source.steps or ()
    written, read, faults = _wires(model, steps, configs, spec, partly=True)
    stated = model.config.as_proto_json()
    faults += _type_faults(model, written, read)
    try:
        faults += _input_faults(model, stated, written, read, spec)
        _outputs(model, stated, written, read, spec)
    except SpecError as error:
        faults.append(error)
    return faults


def check_steps(model: ModelSpec, known: Iterable[str], spec: RepositorySpec) -> None:
    """What can be told before any model is built: every step's model exists, nothing is written twice."""
    names = set(known)
    written: dict[str, str] = {}
    for index, step in enumerate(model.source.steps or ()):
        where = spec.where(model.name, "source", "steps", index)
        if step.model not in names:
            raise SpecError(
                f"{model.name}: there is no model {step.model!r}",
                code="unknown_step_model",
                where=where,
                **unknown(step.model, names),
            )
        for tensor in step.outputs.values():
            if tensor in written:
                raise SpecError(
                    f"{model.name}: tensor {tensor!r} is written by {written[tensor]} and by {step.model}",
                    code="tensor_written_twice",
                    where=where,
                )
            written[tensor] = step.model


def _wires(
    model: ModelSpec,
    steps: Sequence[Step],
    configs: Mapping[str, Any],
    spec: RepositorySpec,
    partly: bool = False,
) -> tuple[dict[str, Wire], dict[str, list[Wire]], list[SpecError]]:
    """(ensemble tensor → who writes it, ensemble tensor → who reads it, names that lead nowhere)

    partly: inputs or outputs of which a config has none are not known.
    """
    written: dict[str, Wire] = {}
    read: dict[str, list[Wire]] = {}
    faults: list[SpecError] = []
    for index, step in enumerate(steps):
        config = configs.get(step.model)
        at = ("source", "steps", index)
        known: dict[str, dict[str, Any]] = {"from": {}, "to": {}}
        if config is not None:
            known = {"from": {t.name: t for t in config.input}, "to": {t.name: t for t in config.output}}
            faults += _name_faults(model, step, known, index, spec, partly)
        for name, tensor in step.inputs.items():
            where = spec.where(model.name, *at, "from", name)
            read.setdefault(tensor, []).append(_wire(step, config, name, known["from"].get(name), where))
        for name, tensor in step.outputs.items():
            where = spec.where(model.name, *at, "to", name)
            written[tensor] = _wire(step, config, name, known["to"].get(name), where)
    return written, read, faults


def _wire(step: Step, config: Any, name: str, tensor: Any, where: Where) -> Wire:
    end = f"{step.model}.{name}"
    if tensor is None:
        return Wire(end, 0, None, where)
    dims = tuple(tensor.dims)
    shape = (-1, *dims) if config.max_batch_size > 0 else dims
    return Wire(end, tensor.data_type, shape if dims else None, where)


def _name_faults(
    model: ModelSpec,
    step: Step,
    known: Mapping[str, Mapping[str, Any]],
    index: int,
    spec: RepositorySpec,
    partly: bool,
) -> Iterator[SpecError]:
    for key, names in (("from", step.inputs), ("to", step.outputs)):
        kind = "input" if key == "from" else "output"
        for name in names:
            if name not in known[key] and (known[key] or not partly):
                yield SpecError(
                    f"{model.name}: {step.model!r} has no {kind} {name!r} ({key}: maps the model's {kind} to a tensor)",
                    code="unknown_step_tensor",
                    where=spec.where(model.name, "source", "steps", index, key, name),
                    **unknown(name, sorted(known[key])),
                )
    for name, tensor in known["from"].items():
        if name not in step.inputs and not tensor.optional:
            yield SpecError(
                f"{model.name}: step {step.model!r} is not given its input {name!r}",
                code="input_not_wired",
                where=spec.where(model.name, "source", "steps", index),
                fix=f"from: {{{name}: …}}",
            )


def _type_faults(
    model: ModelSpec, written: Mapping[str, Wire], read: Mapping[str, Sequence[Wire]]
) -> Iterator[SpecError]:
    """The first reader of each tensor that differs from who writes it, or from who reads it first."""
    from tritonsmith.builder.base.triton_proto import model_config_pb2

    type_name = model_config_pb2().DataType.Name
    for tensor, readers in read.items():
        ends = [written[tensor], *readers] if tensor in written else [*readers]
        typed = [end for end in ends if end.data_type]
        other = next((end for end in typed if end.data_type != typed[0].data_type), None)
        if other is not None:
            yield SpecError(
                f"{model.name}: tensor {tensor!r} is {type_name(typed[0].data_type)} at {typed[0].end}, "
                f"but {type_name(other.data_type)} at {other.end}",
                code="step_dtype_mismatch",
                where=other.where,
            )
        shaped = [(end, end.shape) for end in ends if end.shape is not None]
        unfit = next(((end, shape) for end, shape in shaped if not _fits(shaped[0][1], shape)), None)
        if unfit is not None:
            yield SpecError(
                f"{model.name}: tensor {tensor!r} is {list(shaped[0][1])} at {shaped[0][0].end}, "
                f"but {list(unfit[1])} at {unfit[0].end}",
                code="step_shape_mismatch",
                where=unfit[0].where,
                fix="give both the same dims; a reshape in one of the two may do it",
            )


def _fits(left: Sequence[int], right: Sequence[int]) -> bool:
    return len(left) == len(right) and all(a == b or -1 in (a, b) for a, b in zip(left, right, strict=True))


def _check_batch(
    model: ModelSpec, largest: int, steps: Sequence[Step], sizes: Sequence[int], spec: RepositorySpec
) -> None:
    for step, size in zip(steps, sizes, strict=True):
        if largest > 0 and size < largest:
            raise SpecError(
                f"{model.name}: max_batch_size is {largest}, but its step {step.model!r} takes {size}",
                code="step_batch",
                where=spec.where(model.name, "max_batch_size"),
                fix=f"max_batch_size: {min(sizes)}, or leave it out",
            )


def _stated_names(model: ModelSpec, stated: Mapping[str, Any], kind: str, spec: RepositorySpec) -> list[str]:
    tensors = stated.get(kind, ())
    for index, tensor in enumerate(tensors):
        if "name" not in tensor:
            raise SpecError(
                f"{model.name}: an {kind} without a name",
                code="nameless_tensor",
                where=spec.where(model.name, kind, index),
                fix=f"{kind}: [{{name: …}}]",
            )
    return [tensor["name"] for tensor in tensors]


def _input_faults(
    model: ModelSpec,
    stated: Mapping[str, Any],
    written: Mapping[str, Wire],
    read: Mapping[str, Sequence[Wire]],
    spec: RepositorySpec,
) -> Iterator[SpecError]:
    """Where `input:` is stated, a tensor comes from it or from a step, and each of it is read."""
    names = _stated_names(model, stated, "input", spec)
    if not names:
        return
    for tensor, readers in read.items():
        if tensor not in written and tensor not in names:
            yield SpecError(
                f"{model.name}: {readers[0].end} reads tensor {tensor!r}, which is no input of the ensemble, and which no step "
                "writes",
                code="unknown_tensor",
                where=readers[0].where,
                **unknown(tensor, [*names, *written]),
            )
    for index, name in enumerate(names):
        if name in written:
            yield SpecError(
                f"{model.name}: tensor {name!r} is an input of the ensemble, and written by {written[name].end}",
                code="tensor_written_twice",
                where=written[name].where,
            )
        elif name not in read:
            yield SpecError(
                f"{model.name}: no step reads the input {name!r}",
                code="input_not_read",
                where=spec.where(model.name, "input", index),
                **unknown(name, [tensor for tensor in read if tensor not in written]),
            )


def _outputs(
    model: ModelSpec,
    stated: Mapping[str, Any],
    written: Mapping[str, Wire],
    read: Mapping[str, Sequence[Wire]],
    spec: RepositorySpec,
) -> dict[str, Wire]:
    wanted = _stated_names(model, stated, "output", spec) or [n for n in written if n not in read]
    for name in wanted:
        if name not in written:
            raise SpecError(
                f"{model.name}: no step writes the output {name!r}",
                code="output_not_wired",
                where=spec.where(model.name, "output"),
                valid=sorted(written),
            )
    unused = [n for n in written if n not in read and n not in wanted]
    if unused or not wanted:
        name = (unused or ["(none)"])[0]
        raise SpecError(
            f"{model.name}: nobody reads tensor {name!r}, and it is no output",
            code="tensor_unused",
            where=spec.where(model.name, "source", "steps"),
            fix="leave it out of `to:`, or add it to output:",
        )
    return {n: written[n] for n in wanted}


def _tensor(name: str, wire: Wire, batched: bool) -> dict[str, Any]:
    assert wire.shape is not None, wire.end
    dims = wire.shape[1:] if batched else wire.shape
    return {"name": name, "data_type": wire.data_type, "dims": list(dims)}
