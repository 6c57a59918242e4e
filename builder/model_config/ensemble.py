"""(an ensemble's steps, the configs of the models they name) → the ensemble's ModelConfig, every wire checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.errors import SpecError, Where, unknown
from tritonsmith.builder.spec.model_spec import ModelSpec, Step
from tritonsmith.builder.spec.spec import RepositorySpec


@dataclass(frozen=True, slots=True)
class Wire:
    """One end of an ensemble tensor.

    shape: whole, with -1 first where the model batches; reader or writer: `model.tensor`, for messages.
    """

    end: str
    data_type: int
    shape: tuple[int, ...]
    where: Where


def ensemble_config(model: ModelSpec, configs: Mapping[str, Any], spec: RepositorySpec) -> Any:
    """What the spec states, completed from the steps' own configs.

    configs: model name → its ModelConfig message. max_batch_size left out is the smallest of the steps'.
    Inputs are the tensors no step writes, outputs those no step reads, unless the spec states them.
    SpecError names the step's line for a wire that leads nowhere or does not fit.
    """
    from google.protobuf import json_format

    from tritonsmith.builder.base.triton_proto import model_config_pb2

    steps = model.source.steps or ()
    written, read = _wires(model, steps, configs, spec)
    _check_types(model, written, read)
    stated = model.config.as_proto_json()
    batch_sizes = [configs[step.model].max_batch_size for step in steps]
    max_batch_size = int(stated.get("max_batch_size", min(batch_sizes)))
    _check_batch(model, max_batch_size, steps, batch_sizes, spec)
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
    model: ModelSpec, steps: Sequence[Step], configs: Mapping[str, Any], spec: RepositorySpec
) -> tuple[dict[str, Wire], dict[str, list[Wire]]]:
    """Ensemble tensor → who writes it; ensemble tensor → who reads it."""
    written: dict[str, Wire] = {}
    read: dict[str, list[Wire]] = {}
    for index, step in enumerate(steps):
        config = configs[step.model]
        where = spec.where(model.name, "source", "steps", index)
        inputs = {t.name: t for t in config.input}
        outputs = {t.name: t for t in config.output}
        _check_names(model, step, "from", step.inputs, inputs, where)
        _check_names(model, step, "to", step.outputs, outputs, where)
        missing = [n for n, t in inputs.items() if n not in step.inputs and not t.optional]
        if missing:
            raise SpecError(
                f"{model.name}: step {step.model!r} is not given its input {missing[0]!r}",
                code="input_not_wired",
                where=where,
                fix=f"from: {{{missing[0]}: …}}",
            )
        for name, tensor in step.inputs.items():
            read.setdefault(tensor, []).append(_wire(config, inputs[name], where))
        for name, tensor in step.outputs.items():
            written[tensor] = _wire(config, outputs[name], where)
    return written, read


def _wire(config: Any, tensor: Any, where: Where) -> Wire:
    dims = tuple(tensor.dims)
    return Wire(
        f"{config.name}.{tensor.name}",
        tensor.data_type,
        (-1, *dims) if config.max_batch_size > 0 else dims,
        where,
    )


def _check_names(
    model: ModelSpec, step: Step, key: str, names: Mapping[str, str], known: Mapping[str, Any], where: Where
) -> None:
    for name in names:
        if name not in known:
            kind = "input" if key == "from" else "output"
            raise SpecError(
                f"{model.name}: {step.model!r} has no {kind} {name!r} ({key}: maps the model's {kind} to a tensor)",
                code="unknown_step_tensor",
                where=where,
                **unknown(name, sorted(known)),
            )


def _check_types(model: ModelSpec, written: Mapping[str, Wire], read: Mapping[str, Sequence[Wire]]) -> None:
    from tritonsmith.builder.base.triton_proto import model_config_pb2

    type_name = model_config_pb2().DataType.Name
    for tensor, readers in read.items():
        source = written.get(tensor, readers[0])
        for reader in readers:
            if reader.data_type != source.data_type:
                raise SpecError(
                    f"{model.name}: tensor {tensor!r} is {type_name(source.data_type)} at {source.end}, "
                    f"but {type_name(reader.data_type)} at {reader.end}",
                    code="step_dtype_mismatch",
                    where=reader.where,
                )
            if not _fits(source.shape, reader.shape):
                raise SpecError(
                    f"{model.name}: tensor {tensor!r} is {list(source.shape)} at {source.end}, "
                    f"but {list(reader.shape)} at {reader.end}",
                    code="step_shape_mismatch",
                    where=reader.where,
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


def _outputs(
    model: ModelSpec,
    stated: Mapping[str, Any],
    written: Mapping[str, Wire],
    read: Mapping[str, Sequence[Wire]],
    spec: RepositorySpec,
) -> dict[str, Wire]:
    wanted = [t["name"] for t in stated.get("output", ())] or [n for n in written if n not in read]
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
    dims = wire.shape[1:] if batched else wire.shape
    return {"name": name, "data_type": wire.data_type, "dims": list(dims)}
