"""A server's words on a model → what it takes and gives, and whether names, shapes and batches fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from tritonsmith.builder.actions.accuracy.samples import Sample
from tritonsmith.builder.base.errors import UsageError, unknown
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve, fits

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ModelInterface:
    """What a model takes and gives, as its server says.

    inputs, outputs: shapes with -1 for what varies; the batch dimension is left out when the model batches.
    max_batch_size:  0 when it does not batch.
    optional:        inputs that a request may leave out.
    decoupled:       a request may get any number of responses.
    sequence_ids:    how the model tells sequences apart: "" when it keeps none, else `number` or `text`.
    composing:       of an ensemble, the models of its steps, each once; empty of another.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    optional: frozenset[str] = frozenset()
    version: str = ""
    decoupled: bool = False
    sequence_ids: Literal["", "number", "text"] = ""
    composing: tuple[str, ...] = ()


def interface_from_metadata(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> ModelInterface:
    """The answers to `GET /v2/models/M` and `/v2/models/M/config` → ModelInterface."""
    batches = int(config.get("max_batch_size", 0))

    def spec(tensor: Mapping[str, Any]) -> TensorSpec:
        shape = tuple(int(d) for d in tensor["shape"])
        return TensorSpec(
            tensor["name"], dtype_from_kserve(tensor["datatype"]), shape[1:] if batches else shape
        )

    return ModelInterface(
        name=metadata["name"],
        inputs=tuple(spec(t) for t in metadata["inputs"]),
        outputs=tuple(spec(t) for t in metadata["outputs"]),
        max_batch_size=batches,
        optional=frozenset(i["name"] for i in config.get("input", []) if i.get("optional")),
        decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled", False)),
        sequence_ids=_sequence_ids(config),
        composing=composing_models(config),
    )


def composing_models(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that an ensemble's steps name, each once, in order; none of another model."""
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return tuple(dict.fromkeys(str(step["model_name"]) for step in steps if step.get("model_name")))


def _sequence_ids(config: Mapping[str, Any]) -> Literal["", "number", "text"]:
    if "sequence_batching" not in config:
        return ""
    controls = [c for i in config["sequence_batching"].get("control_input", []) for c in i.get("control", [])]
    text = any(
        c.get("kind") == "CONTROL_SEQUENCE_CORRID" and c.get("data_type") == "TYPE_STRING" for c in controls
    )
    return "text" if text else "number"


# Checks.


def check_names(model: ModelInterface, names: Sequence[str]) -> None:
    """UsageError when one is not an input."""
    known = [spec.name for spec in model.inputs]
    for name in names:
        if name not in known:
            message = f"`{model.name}` has no input `{name}`"
            raise UsageError(message, code="unknown_input", **unknown(name, known))


def check_batch(model: ModelInterface, batch_size: int | None) -> None:
    """UsageError when the model does not take so many rows."""
    if batch_size is not None and not 1 <= batch_size <= max(1, model.max_batch_size):
        raise UsageError(
            f"`{model.name}` does not take this batch size",
            code="bad_batch_size",
            seen=batch_size,
            valid=[f"1..{max(1, model.max_batch_size)}"],
        )


def check_sample(model: ModelInterface, sample: Sample) -> int:
    """A sample's rows, 1 when the model does not batch; UsageError when its inputs are not the model's."""
    known = {spec.name: spec for spec in model.inputs}
    check_names(model, list(sample.inputs))
    missing = [name for name in known if name not in sample.inputs and name not in model.optional]
    if missing:
        raise UsageError(
            f"the data for `{model.name}` lack input `{missing[0]}`",
            code="missing_input",
            seen=", ".join(sample.inputs) or "no array",
            valid=list(known),
        )
    for name, array in sample.inputs.items():
        _check_shape(model, known[name], array)
    rows = {name: array.shape[0] for name, array in sample.inputs.items()} if model.max_batch_size else {}
    if len(set(rows.values())) > 1:
        raise UsageError(
            "the inputs of a request have different numbers of rows",
            code="bad_shape",
            seen=", ".join(f"{name}: {n}" for name, n in rows.items()),
        )
    return next(iter(rows.values()), 1)


def _check_shape(model: ModelInterface, spec: TensorSpec, array: Array) -> None:
    want = (-1, *spec.wire_shape) if model.max_batch_size else spec.wire_shape
    if not fits(array.shape, want):
        batch = bool(model.max_batch_size) and fits(array.shape, spec.wire_shape)
        raise UsageError(
            f"the data for input `{spec.name}` have a shape that `{model.name}` does not take",
            code="bad_shape",
            seen=list(array.shape),
            valid=[list(want)],
            fix="the first dimension is the batch: give the arrays one more" if batch else None,
        )


def check_rows(model: ModelInterface, rows: int) -> None:
    """UsageError when a request has more rows than the model takes at once."""
    if model.max_batch_size and rows > model.max_batch_size:
        raise UsageError(
            f"the data have more rows than max_batch_size of `{model.name}`",
            code="bad_batch_size",
            seen=rows,
            valid=[f"1..{model.max_batch_size}"],
            fix=f"--batch-size {model.max_batch_size}",
        )
