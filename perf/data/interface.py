"""A server's words on a model → what it takes and gives, and whether names, shapes and batches fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from builder.errors import UsageError, nearest
from builder.tensors import TensorSpec, dtype_from_kserve

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ModelInterface:
    """What a model takes and gives, as its server says.

    inputs, outputs: shapes with -1 for what varies; the batch dimension is left out when the model batches.
    max_batch_size:  0 when it does not batch.
    optional:        inputs that a request may leave out.
    decoupled:       a request may get any number of responses.
    sequence_ids:    how the model tells sequences apart: "" when it keeps none, else `number` or `text`.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    optional: frozenset[str] = frozenset()
    version: str = ""
    decoupled: bool = False
    sequence_ids: Literal["", "number", "text"] = ""


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
    )


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
            close = nearest(name, known)
            raise UsageError(
                f"`{model.name}` has no input `{name}`",
                code="unknown_input",
                seen=name,
                valid=known,
                fix=f"did you mean `{close}`?" if close else None,
            )


def check_batch(model: ModelInterface, batch_size: int | None) -> None:
    """UsageError when the model does not take so many rows."""
    if batch_size is not None and not 1 <= batch_size <= max(1, model.max_batch_size):
        raise UsageError(
            f"`{model.name}` does not take this batch size",
            code="bad_batch_size",
            seen=batch_size,
            valid=[f"1..{max(1, model.max_batch_size)}"],
        )


def check_shape(model: ModelInterface, spec: TensorSpec, array: Array) -> None:
    """UsageError when the array, batch included, is not one that the input takes."""
    want = (-1, *spec.wire_shape) if model.max_batch_size else spec.wire_shape
    if not fits(array.shape, want):
        raise UsageError(
            f"the data for input `{spec.name}` have a shape that `{model.name}` does not take",
            code="bad_shape",
            seen=list(array.shape),
            valid=[list(want)],
        )
    if model.max_batch_size and array.shape[0] > model.max_batch_size:
        raise UsageError(
            f"the data for input `{spec.name}` have more rows than max_batch_size",
            code="bad_batch_size",
            seen=array.shape[0],
            valid=[f"1..{model.max_batch_size}"],
            fix=f"--batch-size {model.max_batch_size}",
        )


def fits(shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Whether a shape is the wanted one, -1 standing for any size."""
    return len(shape) == len(want) and all(w in (-1, s) for s, w in zip(shape, want, strict=True))
