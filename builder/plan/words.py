"""An action that is not up to date → why, in plain words without digests; pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tritonsmith.builder.plan.changed import ENGINE, Changed, is_digest_text
from tritonsmith.builder.plan.plan import Action, StaleReason

_NAMED = 3
_LONGEST = 60

# What the parameters of actions are called in models.yaml, where it is something else.
_KEYS = {"kind": "kind of source", "reference": "source", "samples": "accuracy.samples"}
_OWN = {"revision": "tritonsmith does this in another way now"}

_PLAIN = {
    StaleReason.NEW: "new",
    StaleReason.TEMPLATE_CHANGED: "the template of config.pbtxt changed",
    StaleReason.ACCURACY_BOUND_CHANGED: "the bounds of accuracy changed",
    StaleReason.STEP_CHANGED: "the tensors or the batch size of a step changed",
    StaleReason.ROWS_UNCHECKED: "its rows were not yet run in batches and alone",
    StaleReason.EXPORT_CHANGED: "follows from what comes before it",
    StaleReason.GRAPH_CHANGED: "follows from its graph",
}


def why(action: Action) -> str:
    """One phrase; of many values the first few, and how many more."""
    reason = action.reason
    if reason is None:
        return ""
    if reason in _PLAIN:
        return _PLAIN[reason]
    if reason is StaleReason.REMOVED_FROM_SPEC:
        return f"left models.yaml; {action.detail or 'its directory goes'}"
    if not action.changes:
        return action.detail
    if arguments := engine_changes(action):
        return several([_value_changed(change) for change in arguments])
    if action.kind in ("render", "lay_out") and reason is StaleReason.SPEC_CHANGED:
        return "what models.yaml says of it changed, or tritonsmith's version"
    if action.kind == "lay_out" and reason is StaleReason.SOURCE_CHANGED:
        return "a file that it adds to the model's directory changed"
    return several([_PHRASES.get(reason, _value_changed)(change) for change in action.changes])


def engine_changes(action: Action) -> list[Changed]:
    """Arguments of a language model's engine that it writes otherwise: not in config.pbtxt."""
    return [change for change in action.changes if change.name.startswith(f"{ENGINE}.")]


def several(words: Sequence[str], named: int = _NAMED) -> str:
    """`a, b, c and 4 more`."""
    more = len(words) - named
    return ", ".join(words[:named]) + (f" and {more} more" if more > 0 else "")


def _source_changed(change: Changed) -> str:
    if change.name.endswith("/"):
        return f"{change.name} holds other files"
    return (
        f"{change.name} {'is gone' if change.new is None else 'is new' if change.old is None else 'changed'}"
    )


def _tool_changed(change: Changed) -> str:
    old, new = ("not installed" if value is None else text_of(value) for value in (change.old, change.new))
    return f"{change.name} {old} → {new}"


def _file_lost(change: Changed) -> str:
    if change.new is None:
        return f"{change.name} is missing"
    return f"{change.name} " + ("is not of the build" if change.old is None else "was edited or damaged")


def _value_changed(change: Changed) -> str:
    if change.name in _OWN:
        return _OWN[change.name]
    name = _KEYS.get(change.name, change.name)
    if is_digest_text(change.old) or is_digest_text(change.new):
        return f"{name} changed"
    return f"{name}: {text_of(change.old)} → {text_of(change.new)}"


_PHRASES: dict[StaleReason, Callable[[Changed], str]] = {
    StaleReason.SOURCE_CHANGED: _source_changed,
    StaleReason.CALIBRATION_CHANGED: _source_changed,
    StaleReason.TOOL_CHANGED: _tool_changed,
    StaleReason.TARGET_CHANGED: _tool_changed,
    StaleReason.MISSING_ARTIFACT: _file_lost,
    StaleReason.CORRUPT_ARTIFACT: _file_lost,
}


def text_of(value: Any) -> str:
    """A value as it would stand in YAML, cut short."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
