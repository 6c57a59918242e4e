"""(a built spec, a destination) → new versions there, each visible as a whole or not at all, undone when it fails live."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.samples import SampleSet
from tritonsmith.builder.base.errors import BuildError, GateError, TritonsmithError
from tritonsmith.builder.base.processes.failure import file_of
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.base.text.tabular import Tabular
from tritonsmith.builder.build.context import BuildOptions, reference_samples_path
from tritonsmith.builder.publish.candidate import (
    Candidate,
    changed_meanwhile,
    check_copied,
    renumbered,
    stamps_of,
)
from tritonsmith.builder.publish.destinations.destination import Content, Destination, Switch
from tritonsmith.builder.publish.destinations.versions import (
    ROOT,
    SMOKE,
    STATED_CONFIG,
    ModelState,
    manifest,
    surplus,
    versions_to_serve,
)
from tritonsmith.builder.publish.prepared import Prepared, prepare
from tritonsmith.builder.publish.provenance import (
    file_records,
    record_bytes,
    record_of,
    sweep_evidence,
)
from tritonsmith.builder.publish.release import Release, Switched
from tritonsmith.builder.publish.smoke import smoke_bounds, smoke_bytes, smoke_samples
from tritonsmith.builder.publish.undo import expected_of, follow_or_undo
from tritonsmith.builder.spec.spec import ModelSpec

Tell = Callable[[str, int, int], None]
"""(what is being done, models done, models in all)"""


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What to publish, and how many versions are kept at the destination (the served ones always are)."""

    build: BuildOptions
    models: tuple[str, ...] = ()
    keep: int = 3
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ModelPublication:
    """What became of one model.

    action:   published, up to date, would publish (--dry-run), failed, or not published (a step of it failed).
    version:  the published version; None when there is none.
    served:   versions that the destination serves now; previous: those that it served before.
    removed:  old versions that were removed.
    live:     what the live servers did, one line; empty when none was asked.
    notes:    what people should know.
    """

    model: str
    action: str
    version: int | None
    served: tuple[int, ...]
    previous: tuple[int, ...]
    removed: tuple[int, ...] = ()
    bytes: int = 0
    seconds: float = 0.0
    live: str = ""
    notes: tuple[str, ...] = ()
    error: TritonsmithError | None = None


@dataclass(frozen=True, slots=True)
class PublishResult(Tabular):
    """The whole run, in the order in which models were published: steps before their ensembles."""

    destination: str
    models: tuple[ModelPublication, ...]

    @property
    def errors(self) -> tuple[TritonsmithError, ...]:
        """The failures."""
        return tuple(m.error for m in self.models if m.error is not None)

    def caption(self) -> str:
        """What became of how many models, and where."""
        counts = Counter(m.action for m in self.models)
        told = ", ".join(f"{count} {action}" for action, count in counts.items())
        return f"{told or 'no models'}: {self.destination}"

    def rows(self) -> list[dict[str, Any]]:
        """One row a model; served, previous, removed: version numbers, with commas between."""
        return [
            {
                "model": m.model,
                "action": m.action,
                "version": m.version,
                **{n: ", ".join(map(str, getattr(m, n))) for n in ("served", "previous", "removed")},
                "bytes": m.bytes,
                "seconds": m.seconds,
                "live": m.live,
                "error": None if m.error is None else f"{m.error.code}: {m.error.message}",
            }
            for m in self.models
        ]


def publish(
    options: PublishOptions,
    destination: Destination,
    release: Release | None = None,
    tell: Tell | None = None,
) -> PublishResult:
    """Publishes what differs from what is served there.

    All gates are passed before anything is written: GateError `stale`, `accuracy`, `lint`, `foreign_model`,
    `step_not_published`. A model that fails after that is in the result with its error, and the destination
    serves of it what it served before; models that do not call it are published all the same.
    """
    tell = tell or (lambda what, done, total: None)
    if options.dry_run:
        prepared = prepare(options.build, options.models, destination)
        return PublishResult(destination.url, tuple(_would(prepared, s) for s in prepared.specs))
    with destination.exclusive():
        prepared = prepare(options.build, options.models, destination)
        if release is not None:
            release.check()
        done: list[ModelPublication] = []
        for spec in prepared.specs:
            tell(spec.name, len(done), len(prepared.specs))
            broken = {m.model for m in done if m.error is not None}
            missing = [s for s in prepared.candidates[spec.name].steps if s in broken]
            done.append(
                _not_published(prepared, spec, missing[0])
                if missing
                else _publish(options, prepared, spec, destination, release)
            )
        tell("done", len(done), len(prepared.specs))
    prepared.context.cache.stats.save()
    return PublishResult(destination.url, tuple(done))


def _would(prepared: Prepared, model: ModelSpec) -> ModelPublication:
    state = prepared.states[model.name]
    if model.name in prepared.skipped:
        return ModelPublication(model.name, "up to date", state.served[-1], state.served, state.served)
    number = state.next_number
    size = sum(f.stat().st_size for f in prepared.candidates[model.name].files.values())
    return ModelPublication(model.name, "would publish", number, state.served, state.served, bytes=size)


def _not_published(prepared: Prepared, model: ModelSpec, step: str) -> ModelPublication:
    state = prepared.states[model.name]
    error = GateError(f"{model.name}: not published, because its step {step!r} failed", code="step_failed")
    return ModelPublication(model.name, "not published", None, state.served, state.served, error=error)


def _publish(
    options: PublishOptions,
    prepared: Prepared,
    model: ModelSpec,
    destination: Destination,
    release: Release | None,
) -> ModelPublication:
    started = time.monotonic()
    candidate, state = prepared.candidates[model.name], prepared.states[model.name]
    if model.name in prepared.skipped:
        return _up_to_date(options, candidate, state, destination, release)
    placeholder = manifest(candidate.text, [], options.build.spec.name, options.build.templates)
    live = ""
    number: int | None = None
    try:
        number = destination.claim(state, placeholder)
        try:
            record = _upload(prepared, model, state, number, destination)
        except BaseException:
            destination.abandon(model.name, number)
            raise
        available = [n for n in state.complete if n not in state.failed]
        versions = versions_to_serve(candidate.policy, number, available, options.keep)
        text = manifest(candidate.text, versions, options.build.spec.name, options.build.templates)
        # A switch that fails may have come through all the same: the version is left there, whole and not in use.
        root = {name: record["files"][f"{ROOT}/{name}"]["sha256"] for name in record["root"]}
        destination.switch(state, Switch(model.name, number, root, text, state.root_before))
        if release is not None:
            switched = Switched(model.name, versions, expected_of(destination, model.name, number, record))
            live = follow_or_undo(destination, release, state, switched, placeholder)
    except (TritonsmithError, OSError) as error:
        if not isinstance(error, TritonsmithError):
            error = _disk(error)
        now = destination_served(destination, state)
        return ModelPublication(
            model.name, "failed", number, now, state.served, (), 0, time.monotonic() - started, error=error
        )
    after = _with_version(state, number, record, text)
    removed = _drop_surplus(options, candidate, after, destination)
    notes = (record["smoke"]["note"],) if release is not None and record["smoke"]["note"] else ()
    return ModelPublication(
        model=model.name,
        action="published",
        version=number,
        served=versions,
        previous=state.served,
        removed=removed,
        bytes=sum(told["bytes"] for told in record["files"].values()),
        seconds=time.monotonic() - started,
        live=live,
        notes=tuple(f"no smoke test: {n}" for n in notes),
    )


def _up_to_date(
    options: PublishOptions,
    candidate: Candidate,
    state: ModelState,
    destination: Destination,
    release: Release | None,
) -> ModelPublication:
    """Nothing to publish; but a server may not have followed an earlier publish, and old versions may be left."""
    served = state.served
    live, failure = "", None
    if release is not None:
        record = state.provenance[served[-1]]
        try:
            expected = expected_of(destination, state.name, served[-1], record)
            live = release.follow(Switched(state.name, served, expected))
        except TritonsmithError as error:
            failure = error
    removed = () if failure else _drop_surplus(options, candidate, state, destination)
    return ModelPublication(
        state.name, "up to date", served[-1], served, served, removed, live=live, error=failure
    )


def _with_version(state: ModelState, number: int, record: Mapping[str, Any], config_text: str) -> ModelState:
    """The state after a version was added and switched to; spares reading it all again."""
    files = {f"{number}/{name}": int(told["bytes"]) for name, told in record["files"].items()}
    return replace(
        state,
        files={**state.files, **files},
        numbers=(*state.numbers, number),
        provenance={**state.provenance, number: record},
        config_text=config_text,
    )


def destination_served(destination: Destination, state: ModelState) -> tuple[int, ...]:
    """What is served after a failure, as far as the destination still answers."""
    try:
        return destination.state(state.name).served
    except (TritonsmithError, OSError):
        return state.served


def _upload(
    prepared: Prepared, model: ModelSpec, state: ModelState, number: int, destination: Destination
) -> dict[str, Any]:
    candidate = prepared.candidates[model.name]
    rewritten = renumbered(candidate, number)
    files: dict[str, Content] = {**candidate.files, **rewritten}
    stamps = stamps_of(candidate)
    files[STATED_CONFIG] = candidate.text.encode()
    files |= {f"{ROOT}/{name}": file for name, file in candidate.root.items()}
    content, smoke = _smoke(prepared, model, candidate)
    if content is not None:
        files[SMOKE] = content
    records = file_records(files, {})
    check_copied(candidate, records, rewritten)
    record = record_of(
        model=model.name,
        version=number,
        content=candidate.content,
        files=records,
        root=tuple(sorted(candidate.root)),
        policy=candidate.policy,
        previous=state.served,
        locked=candidate.locked,
        origin=prepared.origin,
        smoke=smoke,
        evidence=sweep_evidence(prepared.context.spec, model.name),
    )
    destination.add(model.name, number, files, record_bytes(record))
    if stamps_of(candidate) != stamps:
        raise changed_meanwhile(candidate, prepared.context.repository / model.name)
    return record


def _smoke(prepared: Prepared, model: ModelSpec, candidate: Candidate) -> tuple[bytes | None, dict[str, Any]]:
    samples, why = _smoke_samples(prepared, model, candidate)
    if samples is None:
        return None, {"samples": 0, "bounds": {}, "note": why}
    bounds = smoke_bounds(model, candidate.locked.served, samples)
    with tempfile.TemporaryDirectory(prefix="tritonsmith-publish-") as scratch:
        content = smoke_bytes(samples, Path(scratch))
    return content, {"samples": len(samples.samples), "bounds": bounds, "note": ""}


def _smoke_samples(
    prepared: Prepared, model: ModelSpec, candidate: Candidate
) -> tuple[SampleSet | None, str]:
    if model.name in prepared.stated:
        return prepared.stated[model.name], ""
    path = reference_samples_path(prepared.context.options, model.name)
    if path is not None:
        return smoke_samples(path, candidate.config)
    if candidate.locked.accuracy.get("samples") == 0:
        return None, "the source was taken over as it is, without recorded answers; state some with `smoke:`"
    return None, "the source's answers are no longer in the cache"


def _drop_surplus(
    options: PublishOptions, candidate: Candidate, state: ModelState, destination: Destination
) -> tuple[int, ...]:
    """Removes old versions; what cannot be removed now is left to the next publish, for the new one stands."""
    numbers = surplus(state, options.keep, candidate.policy)
    try:
        destination.drop(state.name, numbers)
    except (TritonsmithError, OSError) as error:
        told = error.message if isinstance(error, TritonsmithError) else str(error)
        note(f"warning: {state.name}: old versions could not be removed: {told}")
        return ()
    return numbers


def _disk(error: OSError) -> BuildError:
    return BuildError(
        f"cannot write: {error.strerror or error}: {file_of(error)}",
        code="disk",
        fix="free space or permissions, then publish again; what was served before still is",
    )
