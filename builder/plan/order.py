"""(models of a spec) → the order they are laid out in and what an ensemble passes through; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tritonsmith.builder.spec.spec import ModelSpec


def in_build_order(models: Sequence[ModelSpec]) -> list[ModelSpec]:
    """An ensemble after the models of its steps, so that it is judged with them; else the spec's order."""
    by_name = {m.name: m for m in models}
    ordered: dict[str, ModelSpec] = {}
    entered: set[str] = set()
    waiting = list(reversed(models))
    while waiting:
        model = waiting[-1]
        if model.name in entered:  # its steps are done, or it is in a cycle, which the lint gate names
            ordered.setdefault(model.name, waiting.pop())
        else:
            entered.add(model.name)
            steps = reversed(step_models(model))
            waiting += [by_name[step] for step in steps if step in by_name and step not in entered]
    return list(ordered.values())


def called_models(models: Sequence[ModelSpec], model: ModelSpec) -> list[str]:
    """Names of all models that a request to an ensemble passes through, nested ensembles' steps included."""
    return list(_reached(models, step_models(model)))


def _reached(models: Sequence[ModelSpec], names: Iterable[str]) -> dict[str, None]:
    by_name = {m.name: m for m in models}
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += step_models(by_name[name]) if name in by_name else []
    return found


def step_models(model: ModelSpec) -> list[str]:
    """Names of the models that an ensemble calls; empty for any other."""
    if model.source.steps is not None:
        return [step.model for step in model.source.steps]
    ensemble = model.config.as_proto_json().get("ensemble_scheduling", {})
    return [step["model_name"] for step in ensemble.get("step", ()) if "model_name" in step]


def with_steps(models: Sequence[ModelSpec], names: Iterable[str]) -> set[str]:
    """The named models and all that those among them which are ensembles pass through."""
    return _reached(models, names).keys() & {m.name for m in models}
