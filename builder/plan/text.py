"""BuildPlan → what people read of it (a terminal, a pull request) and the matrix of jobs that CI starts; pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.base.errors import SpecError, TritonsmithError
from tritonsmith.builder.base.machine.releases import tensorrt_requirement
from tritonsmith.builder.base.text.markdown import cell
from tritonsmith.builder.base.text.quantities import counted
from tritonsmith.builder.base.text.shown import one_line, visible, without_secrets
from tritonsmith.builder.base.text.text_layout import narrowed, table
from tritonsmith.builder.plan.plan import (
    CONSEQUENCES,
    MAKES,
    Action,
    BuildPlan,
    Fate,
    Outlook,
    StaleReason,
    State,
)
from tritonsmith.builder.plan.words import engine_changes, several, why

_SIGNS = {Fate.ADD: "+", Fate.CHANGE: "~", Fate.REMOVE: "-", Fate.KEEP: "="}
_COLOURS = {"+": "\033[32m", "~": "\033[33m", "-": "\033[31m"}
_BOLD, _RESET = "\033[1m", "\033[0m"
# Models that change alike are one entry where so many change that nobody would read a line for each.
_READABLE, _ALIKE, _ENTRIES = 20, 4, 50
_FIELDS = 6
_CONFIG, _ARGUMENTS = "config.pbtxt", "arguments"
_COUNTED = ("export", "convert", "compile")


def text_of_plan(
    plan: BuildPlan, width: int | None = None, *, colour: bool = False, verbose: bool = False
) -> str:
    """An entry for each model that is added (+), changed (~) or removed (-): what becomes of it and why; then the counts.

    width:   of the terminal; None where there is none.
    colour:  signs in green, yellow and red; what others wrote is made safe first.
    verbose: every action, every field and every model, those that stay (=) too.
    """
    entries = _grouped(_entries(plan, verbose), verbose)
    shown = entries if verbose else entries[:_ENTRIES]
    longest = max(24, width * 2 // 5) if width else None  # of a name: what is said of it has the rest
    rows = [row for entry in shown for row in entry.rows(longest)]
    lines = [line.rstrip() for line in table(rows, width, names=(0,), text=2)]
    if len(entries) > len(shown):
        left_out = sum(len(entry.models) for entry in entries[len(shown) :])
        lines.append(f"… and {counted(left_out, 'more model')}: --verbose shows them")
    text = "\n".join([*lines, *([""] if lines else []), _summary(plan), _counts(plan)])
    return _coloured(visible(without_secrets(text))) if colour else text


def _coloured(text: str) -> str:
    *lines, counts = text.split("\n")
    painted = [
        f"{_COLOURS[line[0]]}{line[0]}{_RESET}{line[1:]}" if line[:2] in ("+ ", "~ ", "- ") else line
        for line in lines
    ]
    return "\n".join([*painted, f"{_BOLD}{counts}{_RESET}"])


@dataclass(frozen=True, slots=True)
class _Entry:
    """Models of which the same is said. said: (what of them, why) a line."""

    sign: str
    models: tuple[str, ...]
    said: tuple[tuple[str, str], ...]

    def rows(self, longest: int | None) -> list[tuple[str, str, str]]:
        """Of a table whose first column has the name in its first row alone, with no more columns than that."""
        name, said = one_line(self.models[0]), self.said or (("", ""),)
        name = name if longest is None else narrowed(name, longest)
        if len(self.models) > 1:
            name = counted(len(self.models), "model")
            said = (*said, ("models", several(self.models)))
        return [(f"{self.sign} {name}" if n == 0 else "", *row) for n, row in enumerate(said)]


def _entries(plan: BuildPlan, verbose: bool) -> list[_Entry]:
    return [
        _Entry(_SIGNS[fate], (model,), tuple(_said(plan, model, fate, verbose)))
        for model, fate in plan.fates().items()
        if verbose or fate is not Fate.KEEP
    ]


def _grouped(entries: list[_Entry], verbose: bool) -> list[_Entry]:
    if verbose or len(entries) <= _READABLE:
        return entries
    alike: dict[Any, list[_Entry]] = {}
    for entry in entries:
        alike.setdefault((entry.sign, entry.said), []).append(entry)
    return [
        entry
        for group in alike.values()
        for entry in (
            group
            if len(group) < _ALIKE
            else [replace(group[0], models=tuple(m for entry in group for m in entry.models))]
        )
    ]


def _said(plan: BuildPlan, model: str, fate: Fate, verbose: bool) -> list[tuple[str, str]]:
    actions = [a for a in plan.actions_of(model) if a.state is not State.UP_TO_DATE]
    if fate is Fate.KEEP:
        return []
    if fate is Fate.REMOVE:
        return [(actions[0].kind, why(actions[0]))]
    outlook = plan.outlooks.get(model, Outlook())
    is_judged = any(a.kind == "accuracy" for a in plan.actions_of(model))
    derived = [_named(a, is_judged) for a in _derived(actions, fate)]
    if outlook.rows_check and _is_exported(actions):
        derived.insert(1 if fate is Fate.ADD else 0, "rows check")
    if fate is Fate.ADD:
        return [("new", ", ".join(derived))]
    said = [
        (_file(a) if a.kind == "render" else _named(a, is_judged, state=False), _reason(a, is_judged))
        for a in _causes(actions)
        if not (a.kind == "render" and a.reason is StaleReason.SPEC_CHANGED and outlook.config is not None)
        or engine_changes(a)
    ]
    fields = [(_CONFIG, field) for field in _fields(plan, model)]
    more = 0 if verbose else max(0, len(fields) - _FIELDS)
    said += fields[: len(fields) - more]
    said += [(_CONFIG, f"and {counted(more, 'more field')}: --verbose shows them")] if more else []
    if not said:
        said = [(_CONFIG, "is rendered again, and no field of it differs")]
    if verbose:
        return said + [("then", name) for name in (*derived, f"render {_CONFIG}", "lay out")]
    return said + ([("then", ", ".join(derived))] if derived else [])


def _file(render: Action) -> str:
    return _ARGUMENTS if engine_changes(render) else _CONFIG


def _fields(plan: BuildPlan, model: str) -> list[str]:
    changes = plan.outlooks.get(model, Outlook()).config or ()
    return [f"{c.path}: {c.old or 'none'} → {c.new or 'none'}" for c in changes]


def _causes(actions: Sequence[Action]) -> list[Action]:
    """Those that say something which no earlier one of the model says."""
    told: dict[tuple[Any, str], Action] = {}
    for action in actions:
        if action.reason not in CONSEQUENCES:
            told.setdefault(
                (action.reason, action.detail if action.reason is not StaleReason.NEW else action.kind),
                action,
            )
    return list(told.values())


def _derived(actions: Sequence[Action], fate: Fate) -> list[Action]:
    """What runs because of the causes; a config that is rendered and a directory that is laid out go without saying."""
    causes = [] if fate is Fate.ADD else _causes(actions)
    return [
        a for a in actions if a not in causes and a.kind in (*MAKES, "accuracy") and a.kind != "calibrate"
    ]


def _is_exported(actions: Sequence[Action]) -> bool:
    return any(a.kind == "export" and a.state is State.TO_RUN for a in actions)


def _named(action: Action, is_judged: bool, *, state: bool = True) -> str:
    """`export`, `convert int8`, `compile plan for h100`, and whether the cache has it."""
    what = "take over" if action.kind == "export" and not is_judged else _what(action)
    return f"{what} (cached)" if state and action.state is State.CACHED and action.kind in MAKES else what


def _reason(action: Action, is_judged: bool) -> str:
    return why(action) + (" (cached)" if action.state is State.CACHED and action.kind in MAKES else "")


def _summary(plan: BuildPlan) -> str:
    """What stays, and what the rest costs."""
    fates = Counter(plan.fates().values())
    stays = fates[Fate.KEEP]
    failed = f"; {counted(len(plan.errors), 'model')} could not be looked at" if plan.errors else ""
    if stays == sum(fates.values()):
        return f"No changes: {counted(stays, 'model')} up to date{failed}"
    parts = [f"{counted(stays, 'model')} unchanged"] if stays else []
    for state, said in ((State.TO_RUN, "to run"), (State.CACHED, "found in the cache")):
        number = sum(a.state is state and a.kind in _COUNTED for a in plan.stale)
        parts += [f"{counted(number, 'action')} {said}"] if number else []
    return (", ".join(parts) or "nothing to run, files alone are written") + failed


def _counts(plan: BuildPlan) -> str:
    fates = Counter(plan.fates().values())
    return f"Plan: {fates[Fate.ADD]} to add, {fates[Fate.CHANGE]} to change, {fates[Fate.REMOVE]} to remove."


def markdown_of_plan(plan: BuildPlan) -> str:
    """For a pull request's comment: a table of what is stale and why."""
    lines = [f"**tritonsmith plan**: {_closing(plan)}"]
    if plan.stale:
        lines += ["", "| model | action | state | why | what changed |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(cell(c) for c in _row(plan, action)) + " |" for action in plan.stale]
    return "\n".join(lines)


def json_of_plan(plan: BuildPlan, failures: Sequence[TritonsmithError] = ()) -> dict[str, Any]:
    """The whole plan as one JSON object; failures: of models that nothing can be said of.

    models: what becomes of each as a whole; config: fields of config.pbtxt that change, null where that cannot be told.
    """
    told = {"errors": [error.as_dict() for error in failures]} if failures else {}
    fates = plan.fates()
    counts = Counter(fates.values())
    return {
        "stale": bool(plan.stale),
        "actions": [a.as_dict() for a in plan.actions],
        "models": [{"model": m, "change": fate.value, **_config_json(plan, m)} for m, fate in fates.items()],
        "counts": {fate.value: counts[fate] for fate in Fate},
        **told,
    }


def _config_json(plan: BuildPlan, model: str) -> dict[str, Any]:
    outlook = plan.outlooks.get(model)
    if outlook is None:
        return {}
    return {"config": None if outlook.config is None else [asdict(change) for change in outlook.config]}


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


def _what(action: Action) -> str:
    what = " ".join(filter(None, [action.kind, action.variant]))
    return what if action.engine is None else f"{what} for {action.engine.name}"


def _row(plan: BuildPlan, action: Action) -> tuple[str, str, str, str, str]:
    reason = "" if action.reason is None else action.reason.value
    changed = "" if action.reason in CONSEQUENCES or action.reason is StaleReason.NEW else why(action)
    if action.kind == "render" and (fields := _fields(plan, action.model)):
        changed = "; ".join(fields)
    return action.model, _what(action), action.state.value, reason, changed


def _closing(plan: BuildPlan) -> str:
    models = {a.model for a in plan.actions}
    stale = {a.model for a in plan.stale}
    if not stale:
        return "nothing stale"
    to_run, cached = (
        sum(a.state is state and a.kind in _COUNTED for a in plan.stale)
        for state in (State.TO_RUN, State.CACHED)
    )
    return f"{len(stale)} of {len(models)} models stale; {to_run} actions to run, {cached} found in the cache"
