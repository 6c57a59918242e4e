"""(a directory that is taken over, its artifact) → what ONNX Runtime's sessions of its files showed, which the server compares
its config with; exports and variants take their tensors from a session when they are made."""

from __future__ import annotations

from collections.abc import Mapping

from tritonsmith.builder.actions.action import Artifact, Subject, place_error
from tritonsmith.builder.actions.export.action import is_exported
from tritonsmith.builder.base.errors import BuildError, TritonsmithError
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.build.model.taken import model_as_taken
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.lint.deep.sessions import Loaded, load_versions
from tritonsmith.builder.model_config.model_config import runs_on_cpus_alone
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def load_taken(
    spec: ModelSpec, artifact: Artifact, repository: RepositorySpec, cache: Cache
) -> Mapping[int, Loaded]:
    """Version → Loaded; empty for what ONNX Runtime does not serve. BuildError onnxruntime_rejects, with the source's line."""
    if is_exported(spec) or not spec.source.row.rows_checked:
        return {}
    model = model_as_taken(spec, artifact, repository)
    if model is None:
        return {}
    where = repository.where(spec.name, "source")
    try:
        with cache.workspace() as scratch:
            loaded = load_versions(model, scratch, Subject(spec, repository).log(cache, ".session"))
    except TritonsmithError as error:
        error.where = None  # the cache's copy, which nobody knows
        raise place_error(error, spec.name, where) from None
    for number, version in loaded.items():
        if version.lacks and runs_on_cpus_alone(model.config):
            raise BuildError(
                f"{spec.name}: version {number} cannot run on a CPU, and its instances are KIND_CPU: {version.lacks}",
                code="onnxruntime_rejects",
                where=where,
                fix="instance_group: [{kind: KIND_GPU}]",
            )
        if version.lacks:
            note(f"warning: {spec.name}: version {number} was not held against ONNX Runtime: {version.lacks}")
    return loaded
