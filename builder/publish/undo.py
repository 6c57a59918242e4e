"""(a switch that was made, the live servers) → one line when they serve it rightly; else everything as it was before."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.base.errors import BuildError, GateError, TritonsmithError
from tritonsmith.builder.publish.destinations.destination import Destination, Switch
from tritonsmith.builder.publish.destinations.versions import FAILED, SMOKE, ModelState
from tritonsmith.builder.publish.release import Expected, Release, Switched

_SMOKE_BYTES = 64 << 20
"""A publish records 8 MiB at most."""


def expected_of(
    destination: Destination, model: str, number: int, record: Mapping[str, Any]
) -> Expected | None:
    """The recorded requests of a published version; None when it has none."""
    content = destination.read(model, f"{number}/{SMOKE}") if SMOKE in record["files"] else None
    if content is None:
        return None
    with tempfile.TemporaryDirectory(prefix="tritonsmith-smoke-") as scratch:
        path = Path(scratch) / "smoke.npz"
        path.write_bytes(content)
        samples = load_samples(path, _SMOKE_BYTES)
    bounds = record["smoke"]["bounds"]
    unbound = [name for sample in samples.samples for name in sample.outputs if name not in bounds]
    if unbound or not samples.samples:
        raise BuildError(
            f"{model}/{number}/{SMOKE} is not what a publish writes: "
            + (f"its record has no bounds of {unbound[0]!r:.80}" if unbound else "it is empty"),
            code="samples_unreadable",
            fix="publish the model again",
        )
    return Expected(samples, bounds)


def follow_or_undo(
    destination: Destination, release: Release, before: ModelState, switched: Switched, placeholder: str
) -> str:
    """Lets the live servers follow a switch; when they cannot, switches back, lets them follow that, and raises.

    before:      the state before the switch.
    placeholder: config.pbtxt that serves nothing, for a model that was not there before.
    GateError `release_failed` says what failed and what is served now.
    """
    try:
        return release.follow(switched)
    except TritonsmithError as error:
        cause = error
    except BaseException:
        _undo(destination, release, before, switched, placeholder, "interrupted")
        raise
    number = switched.served[-1]
    try:
        told = _undo(destination, release, before, switched, placeholder, cause.message)
    except (TritonsmithError, OSError) as error:
        raise GateError(
            f"{switched.model}: version {number} failed on the live servers: {cause.message}",
            code="release_failed",
            seen=cause.seen,
            details=[f"and it could not be undone: {error.args[0] if error.args else error}"],
            fix=f"tritonsmith rollback {destination.url} {switched.model} --reload …",
        ) from error
    raise GateError(
        f"{switched.model}: version {number} failed on the live servers and was undone: {cause.message}",
        code="release_failed",
        seen=cause.seen,
        details=[*cause.details, told],
        fix=cause.fix,
    ) from cause


def _undo(
    destination: Destination,
    release: Release,
    before: ModelState,
    switched: Switched,
    placeholder: str,
    why: str,
) -> str:
    """One line of what is served now."""
    now = destination.state(switched.model)
    number = switched.served[-1]
    if before.config_text is None or not before.served:
        destination.withdraw(now, placeholder)
        try:
            release.forget(switched.model)
        except TritonsmithError as error:
            return f"the destination has no {switched.model} any more, but the server: {error.message}"
        return f"{switched.model} had no version before; it was removed again"
    old = before.served[-1]
    record = before.provenance.get(old, {"files": {}})
    failed = {"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "why": why}
    mark = {f"{number}/{FAILED}": json.dumps(failed).encode()}
    change = Switch(switched.model, old, before.root_of(old), before.config_text, now.root_before, mark)
    destination.switch(now, change)
    expected = expected_of(destination, switched.model, old, record)
    try:
        live = release.follow(Switched(switched.model, before.served, expected))
    except TritonsmithError as error:
        return f"version {old} stands at {destination.url} again, but the server: {error.message}"
    return f"version {old} is served again: {live}"
