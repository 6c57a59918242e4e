"""(a sweep's result, models.yaml) → models.yaml with the winner's settings and the evidence beside it."""

from __future__ import annotations

import copy
import difflib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import SpecError, TritonsmithError, UsageError, Where, nearest
from tritonsmith.builder.base.files.disk import replacing
from tritonsmith.builder.base.files.untrusted import inside
from tritonsmith.builder.base.text.shown import one_line
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec, load_spec
from tritonsmith.builder.spec.yaml_source import read_yaml
from tritonsmith.perf.commands.apply.chosen import Chosen
from tritonsmith.perf.commands.apply.yaml_edit import (
    REMOVE,
    has_key,
    plain_with_value,
    with_comment_above,
    with_value,
)
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.report.numbers import times
from tritonsmith.perf.report.view import all_settings, csv_rows
from tritonsmith.perf.stats import times_end
from tritonsmith.perf.sweep.judge.objective import objective_words
from tritonsmith.perf.sweep.plan import Arm, config_path
from tritonsmith.perf.sweep.run_record import RunResult, write_json

MARK = "tritonsmith apply:"
EVIDENCE = "evidence"
FORMAT = "tritonsmith.evidence/1"


@dataclass(frozen=True, slots=True)
class Application:
    """What is to be written; nothing has been.

    path:     the spec, links resolved. before, after: its text.
    edits:    key path in models.yaml → value, or REMOVE; empty when it has the settings already.
    evidence: of which sweep the settings are the outcome; goes to evidence_path.
    notes:    what people should know.
    """

    path: Path
    before: str
    after: str
    arm: Arm
    edits: Mapping[tuple[str | int, ...], Any]
    evidence_path: Path
    evidence: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def diff(self) -> str:
        """Unified; empty when nothing changes."""
        name = self.path.name
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), f"a/{name}", f"b/{name}", lineterm=""
        )
        return "\n".join(lines)


def application(run: RunResult, chosen: Chosen, spec_path: Path, now: datetime | None = None) -> Application:
    """Settings of the arm → the new text of the spec; it is parsed and compared before it is given back.

    SpecError unknown_model when the spec does not have the sweep's model; UsageError cannot_edit when the
    text cannot be changed without changing something else (an alias that two models share).
    """
    spec, arm = load_spec(spec_path), chosen.arm
    model = _model(spec, run.spec.model)
    if not (arm.settings or arm.other_settings or arm.variant):
        raise UsageError(
            f"{arm.label} differs in no field of the model config",
            code="no_arm",
            seen=arm.id,
            fix="a batch size of the client's requests is not in models.yaml",
        )
    path = spec_path.resolve()
    with path.open(encoding="utf-8", newline="") as file:
        before = file.read()
    others = [(_model(spec, name), settings) for name, settings in arm.other_settings.items()]
    edits = dict(_edits(spec, model, arm.settings, arm.config))
    if arm.variant:
        edits |= dict(_serve(model, arm.variant))
    for other, settings in others:
        edits |= dict(_edits(spec, other, settings, arm.others.get(other.name, {})))
    evidence_path = _evidence_path(path.parent, model.name)
    text = before
    try:
        for keys, value in edits.items():
            text = with_value(text, keys, value)
        text = _commented(
            text, comment_of(run, chosen, model.name), model, arm.settings, serve=bool(arm.variant)
        )
        for other, settings in others:
            text = _commented(text, comment_of(run, chosen, model.name), other, settings)
    except (KeyError, ValueError, IndexError) as error:
        raise _cannot_edit(spec, model, f"{type(error).__name__}: {error}") from error
    _check(spec, model, text, edits)
    moment = now or datetime.now(timezone.utc)
    return Application(
        path,
        before,
        text,
        arm,
        edits,
        evidence_path,
        evidence_of(run, chosen, edits, moment),
        tuple(_notes(run, arm, model)),
    )


def _evidence_path(root: Path, model: str) -> Path:
    """Where the evidence goes; UsageError when evidence/ is a link: a file of that name may be there that is not ours."""
    try:
        return inside(root, f"{EVIDENCE}/{model}.json")
    except ValueError as error:
        raise UsageError(
            f"the evidence cannot be written beside the spec: {error}",
            code="evidence_link",
            where=Where(root / EVIDENCE),
            fix="make evidence/ a directory of its own",
        ) from None


def write(plan: Application) -> None:
    """The evidence, then the spec, each whole or not at all."""
    plan.evidence_path.parent.mkdir(exist_ok=True)
    write_json(plan.evidence_path, plan.evidence)
    with replacing(plan.path) as temporary:
        temporary.write_bytes(plan.after.encode())
        temporary.chmod(plan.path.stat().st_mode & 0o7777)


def evidence_of(
    run: RunResult, chosen: Chosen, edits: Mapping[tuple[str | int, ...], Any], now: datetime
) -> dict[str, Any]:
    """What a reviewer needs to judge the settings, and to measure them again."""
    arm = chosen.arm
    return {
        "format": FORMAT,
        "model": run.spec.model,
        "arm": {
            "id": arm.id,
            "label": arm.label,
            "variant": arm.variant,
            "settings": all_settings(arm),
        },
        "changed": {
            ".".join(map(str, keys)): None if value is REMOVE else value for keys, value in edits.items()
        },
        "applied": now.isoformat(timespec="seconds"),
        "verdict": json_of(run.verdict),
        "ratio": json_of(chosen.ratio),
        "chosen_for": chosen.where,
        "complete": run.complete,
        "stop_reason": run.stop_reason,
        "environment": dict(run.environment),
        "sweep": run.spec.model_dump(mode="json", exclude_defaults=True),
        "points": csv_rows(run),
    }


def comment_of(run: RunResult, chosen: Chosen, model: str) -> str:
    """The comment above a setting: ratio with interval, load point, server, date, and where the evidence is."""
    ratio = chosen.ratio
    what = objective_words(run.spec)
    parts = []
    if ratio is not None and ratio.value is not None:
        text = f"{times(ratio)} {what} {chosen.where}"
        if ratio.interval is not None:
            text += f" (95 % interval {times_end(ratio.interval.low)} to {times_end(ratio.interval.high)})"
        parts.append(text)
    if not chosen.is_better:
        parts.append("not a winner, chosen by hand")
    e = run.environment
    parts.append(f"Triton {e.get('server_version', '?')} {e.get('server', '')}".strip())
    parts.append(str(e.get("started", ""))[:10])
    parts.append(f"{EVIDENCE}/{model}.json")
    return one_line(f"{MARK} {', '.join(part for part in parts if part)}")


def _model(spec: RepositorySpec, name: str) -> ModelSpec:
    for model in spec.models:
        if model.name == name:
            return model
    names = [model.name for model in spec.models]
    close = nearest(name, names)
    raise SpecError(
        f"the sweep was of {name!r}, which the spec does not have",
        code="unknown_model",
        where=spec.source.where(("models",)),
        valid=names,
        fix=f"did you mean {close!r}? rename the model, or give --spec" if close else "--spec PATH",
    )


def _edits(
    spec: RepositorySpec, model: ModelSpec, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Where models.yaml has to change for the model's config to have these settings; config: as it was measured."""
    merged = _stated(model)
    wanted = config_path.with_values(merged, settings)
    if model.max_batch_size is None and "dynamic_batching" in settings and "dynamic_batching" not in wanted:
        # Left out, it would be chosen together with dynamic batching, which is not wanted.
        wanted["max_batch_size"] = config.get("max_batch_size", 0)
    own, defaults = spec.source.data["models"][model.name], spec.source.data.get("defaults") or {}
    for key in dict.fromkeys(
        [*(path.partition(".")[0].partition("[")[0] for path in settings), "max_batch_size"]
    ):
        if merged.get(key) != wanted.get(key):
            at = ("models", model.name, key)
            yield from _difference(at, own.get(key), defaults.get(key), wanted.get(key))


def _stated(model: ModelSpec) -> dict[str, Any]:
    """What the spec says that can be swept: fields of Triton's, and of a language model its engine's arguments."""
    return {**model.config.as_proto_json(), **({config_path.ENGINE: model.engine} if model.engine else {})}


def _serve(model: ModelSpec, variant: str) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """`serve` with the variant first; what else was liked stays behind it."""
    name = variant.removeprefix(f"{model.name}__")
    if name not in model.variants:
        close = nearest(name, model.variants)
        raise UsageError(
            f"the sweep's best is the variant {name!r}, which models.yaml does not state",
            code="unknown_variant",
            seen=variant,
            valid=model.variants,
            fix=f"did you mean {close!r}?" if close else f"state it under models.{model.name}.variants",
        )
    if model.preference[:1] != (name,):
        listed = isinstance(model.serve, tuple)
        rest = [other for other in model.preference if other != name]
        yield ("models", model.name, "serve"), [name, *rest] if listed else name


def _difference(
    at: tuple[str | int, ...], own: Any, inherited: Any, wanted: Any
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """As few and as deep edits as make `own` merged over `inherited` be `wanted` (None: not set)."""
    if wanted is None:
        yield at, REMOVE if inherited is None else None
    elif isinstance(wanted, Mapping) and isinstance(own, Mapping | None) and (own or inherited):
        below = inherited if isinstance(inherited, Mapping) else {}
        for key in dict.fromkeys([*(own or {}), *below, *wanted]):
            merged = (own or {}).get(key, below.get(key))
            if not _same(merged, wanted.get(key)):
                yield from _difference((*at, key), (own or {}).get(key), below.get(key), wanted.get(key))
    elif isinstance(wanted, list) and isinstance(own, list) and len(own) == len(wanted):
        for position, (old, new) in enumerate(zip(own, wanted, strict=True)):
            if not _same(old, new):
                yield from _difference((*at, position), old, None, new)
    else:
        yield at, copy.deepcopy(wanted)


def _same(stated: Any, wanted: Any) -> bool:
    """Whether the spec's form means the proto's: `key: 4` under parameters is {string_value: "4"}."""
    if isinstance(wanted, Mapping) and set(wanted) == {"string_value"} and not isinstance(stated, Mapping):
        text = str(stated).lower() if isinstance(stated, bool) else str(stated)
        return stated is not None and text == wanted["string_value"]
    if isinstance(stated, Mapping) and isinstance(wanted, Mapping):
        return {k for k, v in stated.items() if v is not None} == set(wanted) and all(
            _same(stated[k], v) for k, v in wanted.items()
        )
    return bool(stated == wanted)


def _commented(
    text: str, comment: str, model: ModelSpec, settings: Mapping[str, Any], *, serve: bool = False
) -> str:
    """The evidence in one line above each setting that is there, edited now or already as swept."""
    swept = (path.partition(".")[0].partition("[")[0] for path in settings)
    tops = dict.fromkeys([*(["serve"] if serve else []), *swept])
    for key in tops:
        at = ("models", model.name, key)
        # A setting that is not the model's own key stands in `defaults:`, or is that the key is not there.
        if has_key(text, at):
            text = with_comment_above(text, at, comment, MARK)
    return text


def _check(
    spec: RepositorySpec, model: ModelSpec, text: str, edits: Mapping[tuple[str | int, ...], Any]
) -> None:
    """The new text must parse to the old data with exactly these edits, and be a valid spec."""
    wanted = copy.deepcopy(spec.source.data)
    for keys, value in edits.items():
        plain_with_value(wanted, keys, value)
    with tempfile.TemporaryDirectory(prefix="tritonsmith-apply-") as directory:
        candidate = Path(directory) / spec.path.name
        candidate.write_text(text, encoding="utf-8", newline="")
        try:
            if read_yaml(candidate).data != wanted:
                raise _cannot_edit(spec, model, "the text would come to mean something else elsewhere too")
            load_spec(candidate)
        except SpecError as error:
            raise _cannot_edit(spec, model, error.message) from error


def _cannot_edit(spec: RepositorySpec, model: ModelSpec, why: str) -> TritonsmithError:
    return UsageError(
        f"the settings of {model.name!r} cannot be written into the spec as it stands: {why}",
        code="cannot_edit",
        where=spec.where(model.name),
        fix="write them by hand (--dry-run on a copy shows which), or give the model keys of its own instead of an alias",
    )


def _notes(run: RunResult, arm: Arm, model: ModelSpec) -> Iterator[str]:
    """Where the spec's settings are not those that the sweep called current."""
    stated = _stated(model)
    baseline = next((a for a in run.arms if a.baseline), None)
    for path in arm.settings:
        here = config_path.read(stated, path)
        then = None if baseline is None else config_path.read(baseline.config, path)
        if here is not None and baseline is not None and here not in (then, arm.settings[path]):
            yield f"{path} is {here} in the spec, but the sweep's current config had {then}: the ratio is to that"
    if arm.id in run.arm_errors:
        yield f"the sweep left {arm.label} out: {run.arm_errors[arm.id]}"
    if not run.complete:
        yield f"the sweep did not come to its end: {run.stop_reason}"
