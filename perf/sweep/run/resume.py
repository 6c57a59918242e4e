"""The run directory of an earlier sweep → its finished trials by content key, and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.perf.records.typed import MALFORMED, typed
from tritonsmith.perf.sweep.plan import Arm, Placement, SweepSpec, Trial, spec_from_mapping
from tritonsmith.perf.sweep.plan.config_changes import config_changes
from tritonsmith.perf.sweep.plan.fingerprint import PLAIN_PARTS, SETTINGS, Content
from tritonsmith.perf.sweep.run.asked import Asked
from tritonsmith.perf.sweep.run_record import JOURNAL, KEPT, events_of, journal_lines
from tritonsmith.perf.sweep.trial import TrialResult


@dataclass(frozen=True, slots=True)
class Earlier:
    """finished: key → result of every trial that came to its end; next_number: above all numbers in use.

    current: the model's config as the server gave it. asked: None in a journal of before it was kept.
    """

    spec: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    current: Mapping[str, Any] = field(default_factory=dict)
    asked: Asked | None = None
    finished: Mapping[str, TrialResult] = field(default_factory=dict)
    next_number: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of its spec that are not the defaults, as flags would give them."""
        if not self.spec:
            return {}
        known = {name: value for name, value in self.spec.items() if name in SweepSpec.model_fields}
        stated = spec_from_mapping(known).model_dump(mode="json", exclude_defaults=True)
        if self.asked is not None and self.asked.variants:
            stated["variants"] = dict(self.asked.variants)
        return stated


def earlier_run(directory: Path) -> Earlier:
    """What an earlier run left here; an empty one where there was none. UsageError for a damaged journal."""
    path = directory / JOURNAL
    if not path.is_file():
        return Earlier()
    try:
        events = events_of(journal_lines(path))
        start = next((e for e in events if e["event"] == "start"), {})
        results = [typed(TrialResult, e) for e in events if e["event"] in ("trial", KEPT)]
        arms = typed(tuple[Arm, ...], start.get("arms", []))
        before = typed(
            Earlier,
            {
                "spec": start.get("spec", {}),
                "parts": start.get("content", {}),
                "current": arms[0].config if arms else {},
                "asked": start.get("asked"),
            },
        )
    except (OSError, *MALFORMED) as error:
        raise UsageError(
            f"the earlier run cannot be read: {type(error).__name__}: {error!s:.300}",
            code="run_damaged",
            where=Where(path),
            fix="begin anew without --resume",
        ) from error
    finished = {
        result.key: result
        for result in results
        if result.key and result.summary is not None and not result.interrupted
    }
    numbers = [result.trial.number for result in results]
    return replace(before, finished=finished, next_number=1 + max(numbers, default=-1))


def reusable(
    trials: Sequence[Trial], key_of: Callable[[Trial], str], earlier: Earlier, placement: Placement
) -> dict[int, TrialResult]:
    """Trial number → the earlier result that stands for it, of one round's trials.

    Side by side, the arms at one load point of a round are compared because they shared what the machine did
    then; such a group that is not complete, as a crash leaves the last one, is measured again as a whole.
    """
    found = {t.number: earlier.finished[key] for t in trials if (key := key_of(t)) in earlier.finished}
    if placement == "in_place":
        return found
    cut = {t.concurrency for t in trials if t.number not in found}
    return {t.number: found[t.number] for t in trials if t.concurrency not in cut}


def changes(earlier: Earlier, content: Content, spec: SweepSpec, current: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the earlier run was measured: `the model's files`, `rounds is 8, was 4`."""
    if not earlier.parts:
        return []
    told = [
        _words(name, earlier.parts.get(name), content.parts.get(name))
        for name in _differing(earlier, content)
    ]
    settings = spec.model_dump(mode="json")
    told += [
        f"{name} is {settings[name]}, was {earlier.spec[name]}"
        for name in settings
        if name in earlier.spec and name != "variants" and settings[name] != json_form(earlier.spec[name])
    ]
    if earlier.current:
        told += [f"the current config's {text}" for text in config_changes(earlier.current, current)]
    return told


def _differing(earlier: Earlier, content: Content) -> list[str]:
    """Parts of the content; the measurement settings are told one by one."""
    names = sorted({*earlier.parts, *content.parts} - {SETTINGS})
    return [name for name in names if earlier.parts.get(name) != content.parts.get(name)]


def _words(name: str, before: str | None, now: str | None) -> str:
    return f"{name} ({now}, was {before})" if name in PLAIN_PARTS and before and now else name


def json_form(value: Any) -> Any:
    """A spec's value as a journal has it."""
    return json.loads(json.dumps(value))


def sentence(earlier: Earlier, changed: Sequence[str], reused: int) -> str:
    """What was taken from the earlier run, and why not more, for the notes of the new one."""
    if not earlier.parts and not earlier.finished:
        return "There was no earlier run to resume."
    total = len(earlier.finished)
    if changed and not reused:
        return f"Nothing of the earlier run is reused ({total} trials): changed since: {'; '.join(changed)}."
    text = f"{reused} of {total} finished trials of the earlier run are reused"
    if changed:
        return f"{text}; changed since: {'; '.join(changed)}."
    if reused < total:
        text += (
            "; the others belong to comparisons that were cut in two or are not asked for now, "
            "and arms are only compared within one round at one load point"
        )
    return text + "."
