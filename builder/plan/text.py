"""BuildPlan → what people read of it (a terminal, a pull request) and the matrix of jobs that CI starts; pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.base.errors import SpecError, TritonsmithError
from tritonsmith.builder.base.machine.releases import tensorrt_requirement
from tritonsmith.builder.base.text.markdown import cell
from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.builder.plan.plan import MAKES, Action, BuildPlan, State

_NAMED = 10


def text_of_plan(plan: BuildPlan, width: int | None = None) -> str:
    """The stale actions, a line each, then the models that are up to date, and a closing line.

    width: of the terminal; None where there is none.
    """
    lines = table([_row(action) for action in plan.stale], width, names=(0, 1), text=4)
    fresh = _up_to_date(plan)
    if fresh:
        named = ", ".join(fresh[:_NAMED]) + (
            f" and {len(fresh) - _NAMED} more" if len(fresh) > _NAMED else ""
        )
        lines.append(f"up-to-date: {named}")
    return "\n".join([*lines, _closing(plan)])


def markdown_of_plan(plan: BuildPlan) -> str:
    """For a pull request's comment: a table of what is stale and why."""
    lines = [f"**tritonsmith plan**: {_closing(plan)}"]
    if plan.stale:
        lines += ["", "| model | action | state | why | what changed |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(cell(c) for c in _row(action)) + " |" for action in plan.stale]
    return "\n".join(lines)


def json_of_plan(plan: BuildPlan, failures: Sequence[TritonsmithError] = ()) -> dict[str, Any]:
    """The whole plan as one JSON object; failures: of models that nothing can be said of."""
    told = {"errors": [error.as_dict() for error in failures]} if failures else {}
    return {"stale": bool(plan.stale), "actions": [a.as_dict() for a in plan.actions], **told}


def matrix_of_plan(plan: BuildPlan) -> dict[str, Any]:
    """The jobs that make what is in no cache: one a (GPU kind, TensorRT) with its engines, and one for a CPU.

    The form of GitHub's `strategy.matrix`: {"include": [{name, gpu, compute_capability, tensorrt, platform, install, models,
    work}]}. install: what pip is given for the target's TensorRT, empty where none is needed or known.
    models: names that the job's `tritonsmith build --artifacts-only` may be given; work: what is stale, for people.
    SpecError target_gpus where engines are stale and the spec does not say for which GPUs: what one machine compiled for its
    own GPU, no other would find.
    """
    groups: dict[EngineTarget | None, list[Action]] = {}
    for action in plan.stale:
        if action.state is State.TO_RUN and action.kind in MAKES:
            if action.engine is not None and action.engine.gpu is None:
                raise SpecError(
                    f"{action.model}: jobs on other machines compile for the GPUs that `target:` names, and it names none",
                    code="target_gpus",
                    seen=_subject(action),
                    fix="target: {gpus: [h100]}",
                )
            groups.setdefault(action.engine, []).append(action)
    ordered = sorted(groups.items(), key=lambda group: "" if group[0] is None else group[0].name)
    return {"include": [_job(target, actions) for target, actions in ordered]}


def matrix_text_of(plan: BuildPlan) -> str:
    """The same as JSON on one line, as a job's output has to be."""
    return json.dumps(matrix_of_plan(plan), separators=(",", ":"))


def _job(target: EngineTarget | None, actions: Sequence[Action]) -> dict[str, Any]:
    about = EngineTarget(None, None, None) if target is None else target
    return {
        "name": "cpu" if target is None else target.name,
        **about.as_dict(),
        "install": "" if about.tensorrt is None else tensorrt_requirement(about.tensorrt),
        "models": list(dict.fromkeys(a.model for a in actions)),
        "work": [_subject(a) for a in actions],
    }


def _subject(action: Action) -> str:
    return f"{action.kind} {action.model}" + ("" if action.variant is None else f"/{action.variant}")


def _row(action: Action) -> tuple[str, str, str, str, str]:
    what = " ".join(filter(None, [action.kind, action.variant]))
    if action.engine is not None:
        what += f" for {action.engine.name}"
    reason = "" if action.reason is None else action.reason.value
    return action.model, what, action.state.value, reason, action.detail


def _up_to_date(plan: BuildPlan) -> list[str]:
    stale = {a.model for a in plan.stale}
    return [m for m in dict.fromkeys(a.model for a in plan.actions) if m not in stale]


def _closing(plan: BuildPlan) -> str:
    models = {a.model for a in plan.actions}
    stale = {a.model for a in plan.stale}
    if not stale:
        return "nothing stale"
    to_run = sum(a.state is State.TO_RUN and a.kind in ("export", "convert", "compile") for a in plan.stale)
    cached = sum(a.state is State.CACHED and a.kind in ("export", "convert", "compile") for a in plan.stale)
    return f"{len(stale)} of {len(models)} models stale; {to_run} actions to run, {cached} found in the cache"
