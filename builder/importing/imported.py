"""What an import found: models for models.yaml, and what could not be carried over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tritonsmith.builder.base.errors import TritonsmithError, Where


@dataclass(frozen=True, slots=True)
class Note:
    """Something a reader of the new spec has to know, such as a comment that is lost."""

    message: str
    where: Where | None = None

    def __str__(self) -> str:
        return self.message if self.where is None else f"{self.where}: {self.message}"


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """One model of the new spec.

    source:      our `source:`; fields: Triton's own fields, as models.yaml has them.
    model_files: our `model_files:`.
    remarks:     lines for a comment above the model.
    shapes:      an input whose sizes vary → one that it takes, without the batch, for a load test.
    """

    name: str
    source: Mapping[str, Any]
    fields: Mapping[str, Any]
    model_files: Mapping[str, str]
    remarks: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Imported:
    """All models, in the order they are written, and the notes; failures: of models that are not in it for them."""

    models: tuple[ImportedModel, ...]
    notes: tuple[Note, ...] = ()
    failures: tuple[TritonsmithError, ...] = ()
