"""(a built spec, a destination) → the models to publish and what is there of them, all gates passed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from tritonsmith.builder.actions.accuracy.samples import SampleSet
from tritonsmith.builder.base.errors import GateError
from tritonsmith.builder.build.context import BuildOptions, Context, context_of
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.builder.plan.order import in_build_order, step_models
from tritonsmith.builder.publish.candidate import Candidate, candidate_of
from tritonsmith.builder.publish.destinations.destination import Destination
from tritonsmith.builder.publish.destinations.versions import ModelState, manifest
from tritonsmith.builder.publish.gates import accuracy_gate, lint_gate, stale_gate, standing_gate
from tritonsmith.builder.publish.provenance import SpecOrigin, spec_origin
from tritonsmith.builder.publish.smoke import stated_samples
from tritonsmith.builder.spec.spec import ModelSpec

_COMPARED_BYTES = 16 << 20
# States of models are read side by side: of a store, each takes some round trips.
_READERS = 16


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that passed the gates."""

    context: Context
    origin: SpecOrigin
    specs: Sequence[ModelSpec]
    candidates: Mapping[str, Candidate]
    states: Mapping[str, ModelState]
    stated: Mapping[str, SampleSet]
    skipped: frozenset[str] = field(default=frozenset())


def prepare(build: BuildOptions, models: tuple[str, ...], destination: Destination) -> Prepared:
    """GateError when a gate refuses a model that is not there yet."""
    context = context_of(replace(build, models=models))
    chosen = set(models or (m.name for m in context.spec.models))
    specs = [m for m in in_build_order(context.spec.models) if m.name in chosen]
    for failure in context.failures.values():
        raise failure
    stale_gate(context, set(context.observed))
    locked = context.lock.models
    candidates = {s.name: candidate_of(context.repository, s.name, locked[s.name]) for s in specs}
    with ThreadPoolExecutor(_READERS) as pool:
        names = list(candidates)
        states = dict(zip(names, pool.map(destination.state, names), strict=True))
        for state in states.values():
            _refuse_foreign(state, destination)
        same = pool.map(lambda name: _is_current(candidates[name], states[name], destination), names)
        current = frozenset(name for name, is_same in zip(names, same, strict=True) if is_same)
    for spec in specs:
        if spec.name not in current:
            accuracy_gate(context, spec, locked[spec.name])
    stated = {
        spec.name: stated_samples(spec, context.spec, candidates[spec.name].config)
        for spec in specs
        if spec.smoke is not None and spec.name not in current
    }
    _lint(context, candidates, states, current, destination)
    return Prepared(context, spec_origin(context.spec), specs, candidates, states, stated, current)


def _refuse_foreign(state: ModelState, destination: Destination) -> None:
    if state.is_foreign:
        raise GateError(
            f"{state.name} is at {destination.url} already, and `tritonsmith publish` did not put it there",
            code="foreign_model",
            fix="move it away, or give this model another name",
        )


def _is_current(candidate: Candidate, state: ModelState, destination: Destination) -> bool:
    """Whether what is served is this very content, whole."""
    served = state.served
    return (
        bool(served)
        and served[-1] in state.complete
        and state.provenance[served[-1]]["content"] == candidate.content
        and all(_same_root(candidate, name, state, destination) for name in candidate.root)
    )


def _same_root(candidate: Candidate, name: str, state: ModelState, destination: Destination) -> bool:
    """Whether a file at the model's root is the version's own: in a store a switch that was cut off may have left
    another's. A large one is told by its size."""
    size = candidate.root[name].stat().st_size
    if state.files.get(name) != size:
        return False
    return size > _COMPARED_BYTES or destination.digest(state.name, name) == candidate.root_digests[name]


def _lint(
    context: Context,
    candidates: Mapping[str, Candidate],
    states: Mapping[str, ModelState],
    current: Collection[str],
    destination: Destination,
) -> None:
    """Each model that is not there yet is linted among those it will stand with, published now or before."""
    there: dict[str, ModelState] = {}

    def around(names: Collection[str]) -> tuple[dict[str, str], dict[str, Sequence[int]]]:
        configs: dict[str, str] = {}
        served: dict[str, Sequence[int]] = {}
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in configs:
                continue
            if name in candidates:
                number = states[name].next_number
                configs[name], served[name] = manifest(candidates[name].text, [number], "the spec"), [number]
                waiting += candidates[name].steps
                continue
            state = there.setdefault(name, destination.state(name))
            if not state.served or state.config_text is None:
                raise GateError(
                    f"{name} is a step of an ensemble that is published, and {destination.url} does not have it",
                    code="step_not_published",
                    fix=f"tritonsmith publish … {name}, or publish all models",
                )
            configs[name], served[name] = state.config_text, state.served
            config = model_config_from_text(state.config_text)
            waiting += [step.model_name for step in config.ensemble_scheduling.step]
        return configs, served

    for name in (n for n in candidates if n not in current):
        configs, served = around(candidates[name].steps)
        lint_gate(candidates[name], states[name].next_number, configs, served, context.target)
    for model in context.spec.models:
        if model.name not in candidates and set(step_models(model)) & (candidates.keys() - set(current)):
            there[model.name] = destination.state(model.name)
            if there[model.name].served:
                configs, served = around([model.name])
                standing_gate(model.name, configs, served, context.target)
