"""What surrounds a sweep (files, requests, restarts, progress), apart from what is swept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.server.launch import Server
from tritonsmith.perf.sweep.attached.changes import Changes
from tritonsmith.perf.sweep.run.asked import Asked
from tritonsmith.perf.sweep.trial import TrialResult
from tritonsmith.perf.wire.payload import InferPayload


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """How far a sweep is. text: what is going on, a few words; expected: trials in all, as planned now."""

    text: str
    done: int
    expected: int
    last: TrialResult | None = None


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What surrounds a sweep.

    repositories: the server's model repositories, for the model's files; empty when they are elsewhere.
    scratch:      one of the server's repositories that the sweep may write scratch models into; without it
                  the arms are loaded in place, one after the other.
    output:       run directory; None keeps nothing on disk.
    payloads:     the requests; None draws them from `data`.
    resume:       reuse the finished trials of an earlier run in `output` that were measured on the same content.
    restart:      makes a new server after the old one died; None ends the sweep instead. A sweep that may
                  do this owns its server, and leaves the tidying to the server's end.
    started_s:    time.monotonic() from which the budget counts; None: when the sweep begins.
    on_note:      told what people must know at once, a line each.
    kind:         what the server is, for the report: embedded, binary:…, docker:…, a URL.
    changes:      of a server that others share: where is noted what it looked like before.
    asked:        what a resumed run takes from this one where it is not given again.
    """

    repositories: tuple[Path, ...] = ()
    scratch: Path | None = None
    output: Path | None = None
    payloads: Sequence[InferPayload] | None = None
    resume: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    restart: Callable[[], Server] | None = None
    started_s: float | None = None
    on_progress: Callable[[SweepProgress], None] | None = None
    on_note: Callable[[str], None] = field(default=lambda text: None)
    kind: str = "embedded"
    command: str = ""
    changes: Changes | None = None
    asked: Asked | None = None
