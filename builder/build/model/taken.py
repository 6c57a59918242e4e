"""(a directory that is taken over, its artifact) → the Model that Triton will have."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.actions.action import Artifact
from tritonsmith.builder.lint.read.model import Model, read_model
from tritonsmith.builder.model_config.model_config import model_config_as_stated
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def model_as_taken(spec: ModelSpec, artifact: Artifact, repository: RepositorySpec) -> Model | None:
    """A taken-over directory as Triton will have it, its config as the spec states it; None when it has no files."""
    if not artifact.served:
        return None
    name, file = next(iter(artifact.served.items()))
    root = file.parents[len(Path(name).parts) - 1]
    return read_model(root, stated=model_config_as_stated(spec, repository))
