"""What is known of a model, of its variants and their engines before anything runs, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tritonsmith.builder.actions.action import Identity
from tritonsmith.builder.actions.compile.target import EngineTarget


@dataclass(frozen=True, slots=True)
class EngineObservation:
    """What is known of one variant's engine before anything runs."""

    target: EngineTarget
    identity: Identity
    cached_key: str | None


@dataclass(frozen=True, slots=True)
class VariantObservation:
    """What is known of one variant's graph before anything runs; the fields are those of Observation.

    plain:   it is the export itself: nothing is converted.
    engines: what TensorRT compiles of it.
    """

    identity: Identity
    dependencies: Mapping[str, str | None]
    cached_key: str | None
    plain: bool = False
    engines: tuple[EngineObservation, ...] = ()

    @property
    def is_calibrated(self) -> bool:
        """Whether its conversion reads data, which are its dependencies then."""
        return self.identity.parameters["calibration"] is not None


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one model before anything runs.

    parameters:   the export's parameters as the spec has them now.
    tools:        versions of the tools that would run.
    dependencies: current digests of the dependencies in the lock; None for a file that is gone.
    cached_key:   key of a cached artifact that fits the parameters, tools and sources as they are now.
    config:       current digests of what config.pbtxt is rendered from.
    files:        digests of what lies in the model's directory now.
    engine:       of a language model, the arguments that its engine would be given.
    """

    parameters: Mapping[str, Any]
    tools: Mapping[str, str | None]
    dependencies: Mapping[str, str | None]
    cached_key: str | None
    config: Mapping[str, str]
    files: Mapping[str, str]
    variants: Mapping[str, VariantObservation] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
