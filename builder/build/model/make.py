"""(a model of the spec, its planned actions, the cache) → Made: its artifacts in the cache, nothing laid out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tritonsmith.builder.actions.action import Artifact, Subject
from tritonsmith.builder.actions.batch_rows import RowsReport
from tritonsmith.builder.actions.export.action import export_action, is_exported
from tritonsmith.builder.actions.take_over.action import take_over_action
from tritonsmith.builder.base.processes.run_policy import in_one_turn
from tritonsmith.builder.build.model.gate_of_export import judge_export
from tritonsmith.builder.build.model.gate_of_rows import judge_rows, rows_of
from tritonsmith.builder.build.model.gate_of_session import load_taken
from tritonsmith.builder.build.model.variants import BuiltVariant, build_variants
from tritonsmith.builder.cache.actions import fetched, run
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.lint.deep.sessions import Loaded
from tritonsmith.builder.plan.plan import Action
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


@dataclass(frozen=True, slots=True)
class Made:
    """What laying out needs of one model; action: from cache, exported or taken over; rows: None where none batch.

    loaded: version → what ONNX Runtime's session of a taken-over file showed.
    """

    model: str
    base: Artifact
    action: str
    seconds: float
    variants: tuple[BuiltVariant, ...] = ()
    rows: RowsReport | None = None
    loaded: Mapping[int, Loaded] = field(default_factory=dict)


def make_model(spec: ModelSpec, planned: Sequence[Action], repository: RepositorySpec, cache: Cache) -> Made:
    """Does what the plan says of the model: fetches what it found in the cache, runs the rest in child processes.

    GateError when the export does not answer like its source, or its rows not alone as in a batch; what an export or
    a taken-over file raises.
    A variant that fails keeps its error.
    """
    started = time.monotonic()
    exported = is_exported(spec)
    source = (export_action if exported else take_over_action)(Subject(spec, repository))
    key = next(action.key for action in planned if action.kind == "export")
    artifact, action = fetched(source, key, cache), "from cache"
    with in_one_turn():
        if artifact is None:
            artifact, action = run(source, repository.root, cache), "exported" if exported else "taken over"
        judge_export(spec, artifact.record["accuracy"], repository)
        loaded = load_taken(spec, artifact, repository, cache)
        rows = rows_of(spec, artifact, repository, cache)
    judge_rows(spec, rows, repository)
    # The keys of graphs are those of this very export's.
    known = [a if artifact.key == key else replace(a, key=None) for a in planned]
    variants = build_variants(spec, artifact, known, repository, cache)
    return Made(spec.name, artifact, action, time.monotonic() - started, variants, rows, loaded)
