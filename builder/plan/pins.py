"""(spec, lock) → the spec with each name on the hub at one commit: the lock's, until the user asks for the newest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from tritonsmith.builder.base.errors import GateError, UsageError, at
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.llm.hub import commit_of
from tritonsmith.builder.llm.weights import hub_name, is_pinned
from tritonsmith.builder.repository.lock import Lock
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec

Pins = Mapping[str, Mapping[str, str]]
"""Model → {its name on the hub, as the spec has it without a commit: the commit that it stands for}."""


def pins_of(lock: Lock) -> Pins:
    """Those that the last build wrote."""
    return {name: model.pinned for name, model in lock.models.items() if model.pinned}


def with_pins(lock: Lock, names: Collection[str], pins: Pins) -> Lock:
    """The lock with the commits of `names` as they are now: a spec that comes to say the same otherwise builds nothing."""
    models = {
        name: replace(model, pinned=pins.get(name, {})) if name in names else model
        for name, model in lock.models.items()
    }
    return Lock(models)


def pinned(
    spec: RepositorySpec,
    names: Collection[str],
    known: Pins,
    locked: bool = False,
    update: bool = False,
) -> tuple[RepositorySpec, Pins]:
    """The spec with a commit in each of the models of `names`, and those that it left open.

    The hub is asked for what is not known; with `update` for all.
    locked: GateError in place of asking. SpecError or ToolError of builder.llm.hub at the spec's line.
    """
    if locked and update:
        raise UsageError(
            "--locked builds what the lock file says, and --update-revisions asks for something else",
            code="locked_update",
            fix="leave one of them out",
        )
    models: list[ModelSpec] = []
    commits: dict[str, Mapping[str, str]] = {}
    for model in spec.models:
        asked = _left_open(model, spec) if model.name in names else None
        if asked is None:
            models.append(model)
            continue
        before = known.get(model.name, {}).get(asked)
        commit = before if before and not update else _commit(model, spec, asked, before, locked)
        commits[model.name] = {asked: commit}
        reference = f"{asked.partition('@')[0]}@{commit}"
        models.append(model.model_copy(update={"source": model.source.model_copy(update={"llm": reference})}))
    return replace(spec, models=tuple(models)), commits


def _left_open(model: ModelSpec, spec: RepositorySpec) -> str | None:
    """The reference that names no commit."""
    if model.source.kind != "llm":
        return None
    name = hub_name(model.source.reference)
    if name is None or is_pinned(name) or source_path(model.source.reference, spec.root).exists():
        return None
    return model.source.reference


def _commit(model: ModelSpec, spec: RepositorySpec, asked: str, before: str | None, locked: bool) -> str:
    with at(spec.where(model.name, "source", "llm")):
        if locked:
            raise GateError(
                f"{model.name}: --locked, but the lock file does not say at which commit {asked} is",
                code="locked",
                fix="tritonsmith build, without --locked, and commit the lock file",
            )
        name = hub_name(asked)
        assert name is not None
        commit = commit_of(name)
    if before is None:
        note(
            f"{model.name}: {asked} is {commit} on the hub; a build stays there until --update-revisions asks anew"
        )
    else:
        told = "still" if commit == before else f"no longer {before} but"
        note(f"{model.name}: {asked} is {told} {commit} on the hub")
    return commit
