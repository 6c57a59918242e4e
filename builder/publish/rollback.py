"""(a destination, a model, a version that it keeps) → that version served again, its files verified first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tritonsmith.builder.base.errors import BuildError, UsageError, unknown
from tritonsmith.builder.base.files.untrusted import fault_of_model_name
from tritonsmith.builder.publish.destinations.destination import Destination, Switch
from tritonsmith.builder.publish.destinations.versions import (
    STATED_CONFIG,
    ModelState,
    Policy,
    manifest,
    rollback_target,
    versions_to_serve,
)
from tritonsmith.builder.publish.release import Release, Switched
from tritonsmith.builder.publish.undo import expected_of, follow_or_undo


@dataclass(frozen=True, slots=True)
class Rollback:
    """What was done. live: what the servers did, one line; empty when none was asked."""

    model: str
    version: int
    served: tuple[int, ...]
    previous: tuple[int, ...]
    verified_files: int
    live: str


def rollback(
    destination: Destination,
    model: str,
    version: int | None = None,
    release: Release | None = None,
    verified: Callable[[str], None] | None = None,
) -> Rollback:
    """Serves an older version again: the one asked for, or that which was served before the present one.

    verified: told each file whose content is found to be as published. UsageError names the versions that there
    are; BuildError `damaged_version` when a file is not what was published, and then nothing is changed.
    """
    with destination.exclusive():
        state = known_state(destination, model)
        target = rollback_target(state, version, destination.url)
        if release is not None:
            release.check()
        record = state.provenance[target]
        available = [n for n in state.complete if n not in state.failed]
        served = versions_to_serve(Policy(**record["policy"]), target, available)
        checked = sum(_verify(destination, state, n, verified) for n in served)
        stated = destination.read(model, f"{target}/{STATED_CONFIG}")
        assert stated is not None, "it is one of the files that were verified"
        spec_name = str(record["spec"]["name"])
        text = manifest(stated.decode(), served, spec_name)
        destination.switch(state, Switch(model, target, state.root_of(target), text, state.root_before))
        live = ""
        if release is not None:
            switched = Switched(model, served, expected_of(destination, model, target, record))
            live = follow_or_undo(
                destination, release, state, switched, manifest(stated.decode(), [], spec_name)
            )
    return Rollback(model, target, served, state.served, checked, live)


def known_state(destination: Destination, model: str) -> ModelState:
    """The model's state. UsageError `unknown_model` when nothing was published under that name."""
    state = destination.state(model) if fault_of_model_name(model) is None else ModelState(model)
    if not state.provenance:
        raise UsageError(
            f"nothing was published as {model!r} at {destination.url}",
            code="unknown_model",
            **unknown(model, destination.models()),
        )
    return state


def _verify(
    destination: Destination, state: ModelState, number: int, verified: Callable[[str], None] | None
) -> int:
    files = state.provenance[number]["files"]
    for name, told in files.items():
        path = f"{number}/{name}"
        if destination.digest(state.name, path) != told["sha256"]:
            raise BuildError(
                f"{state.name}/{path} at {destination.url} is not what was published",
                code="damaged_version",
                seen="another content" if path in state.files else "no such file",
                fix="roll back to another version, or publish the model again",
            )
        if verified is not None:
            verified(f"{state.name}/{path}")
    return len(files)
