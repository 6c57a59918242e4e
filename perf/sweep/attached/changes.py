"""Models of a server that others share, as a sweep finds them → a file that says so, and the models put back as they were.

The file is on disk before the first of them is touched and goes when all are as they were: at the sweep's end, at its
Ctrl-C, and after a kill -9 by the next sweep of that server or by `tritonsmith sweep --restore URL`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import TrialError, TritonsmithError, UsageError, Where
from tritonsmith.builder.base.files.disk import delete_written, flush, write_atomically
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded
from tritonsmith.perf.records.typed import MALFORMED, json_of, typed
from tritonsmith.perf.server import control
from tritonsmith.perf.sweep.attached.place import started_s, unwritable
from tritonsmith.perf.sweep.plan import config_path
from tritonsmith.perf.sweep.plan.config_changes import config_changes

CHANGES = "changes.json"
_MOST_BYTES = 64 << 20
_CLOCK_S = 2.0
"""What the time of a machine's start may move by, of which a process's start is told."""


@dataclass(frozen=True, slots=True)
class ModelBefore:
    """One model before the sweep. config: that it was served with, None when it was not loaded.

    swept:    it is loaded with other configs than its own.
    override: the config may be another than its repository has: then it is loaded with it again.
    """

    config: Mapping[str, Any] | None
    swept: bool
    override: bool = True


@dataclass(frozen=True, slots=True)
class ServerBefore:
    """models: in the order in which they are put back, what is composed of others after these. url: HTTP host:port.

    started_s: when its process began, as perf.sweep.attached.place tells it.
    """

    url: str = ""
    started_s: float | None = None
    models: Mapping[str, ModelBefore] = field(default_factory=dict)


class Changes:
    """The file in a server's directory of perf.sweep.attached.place. note: what was put back before this sweep."""

    note = ""

    def __init__(self, place: Path) -> None:
        self._path = place / CHANGES
        self.before = self._read()

    def begin(self, before: ServerBefore) -> None:
        """Before anything is touched. Nothing of an earlier sweep may be left."""
        self._write(replace(before, started_s=started_s(before.url)))

    def load_own(self, name: str) -> list[str]:
        """Loads a model that was served with the config of its repository; where it was served with another.

        A plain load would not: whoever swept it before, from wherever, may have left a config of theirs in force.
        """
        found = self.before.models[name]
        assert found.config is not None
        own = load_own(self.before.url, name)
        if _same(found.config, own):
            self._write(
                replace(self.before, models={**self.before.models, name: replace(found, override=False)})
            )
            return []
        return config_changes(own, found.config)

    def restore(self, *, swept: bool = True) -> list[str]:
        """Puts every model back and removes the file; what was done, a few words a model.

        swept: False where no config was loaded yet but the models' own.
        TrialError for a model that Triton refuses, ServerError when the server does not answer: the file stays.
        A server that was started anew has none of it any more, and may be another altogether.
        """
        said = ["nothing, as it was started anew"] if self._is_another() else [*self._restored(swept)]
        self.before = ServerBefore()
        delete_written(self._path)
        return said

    def _is_another(self) -> bool:
        before_s, now_s = self.before.started_s, started_s(self.before.url)
        return before_s is not None and now_s is not None and abs(now_s - before_s) > _CLOCK_S

    def _restored(self, swept: bool) -> Iterator[str]:
        url = self.before.url
        known = {row.name for row in control.repository_index(url)}
        for name, before in self.before.models.items():
            if name not in known:
                yield f"{name} is not in its repository any more"
            elif text := restore_model(url, name, before, before.swept and (swept or before.override)):
                yield text

    def _read(self) -> ServerBefore:
        try:
            if not self._path.is_file():
                return ServerBefore()
            return typed(ServerBefore, json_value(read_bounded(self._path, _MOST_BYTES)))
        except (OSError, *MALFORMED) as error:
            raise UsageError(
                f"what an earlier sweep changed on this server cannot be read: {error!s:.300}",
                code="changes_damaged",
                where=Where(self._path),
                fix="unload and load the models that it swept, then remove this file",
            ) from None

    def _write(self, before: ServerBefore) -> None:
        try:
            write_atomically(self._path, json.dumps(json_of(before)))
            flush(self._path.parent)
        except OSError as error:
            raise unwritable(self._path, error) from None
        self.before = before


def restore_model(url: str, name: str, found: ModelBefore, afresh: bool) -> str | None:
    """The model as it was found; what was done, None when that was nothing. afresh: it may have another config now.

    A load that Triton answers well proves nothing, so the config is read back. An override stays until its model is
    unloaded, whatever is loaded then.
    """
    loaded = control.is_model_ready(url, name)
    if found.config is None:
        if loaded:
            control.unload_model(url, name)
        return f"{name} is not loaded, as before" if loaded else None
    if not afresh:
        if not loaded:
            control.load_model(url, name)
        return None if loaded else f"{name} is loaded again"
    try:
        own: Mapping[str, Any] | None = load_own(url, name)
    except TrialError:
        if not found.override:
            raise
        own = None
    if not found.override or (own is not None and _same(own, found.config)):
        return f"{name} has its repository's config again"
    control.load_model(url, name, found.config)
    if not _same(control.model_config(url, name), found.config):
        raise TrialError(
            f"'{name}' at {url} is not served with the config that it had", code="config_not_applied"
        )
    return f"{name} has the config again that it was served with, which is not its repository's"


def load_own(url: str, name: str) -> Mapping[str, Any]:
    """Loads the model with the config that its repository has; that config, as Triton completes it."""
    if any(
        row.name == name and row.state not in ("", "UNAVAILABLE") for row in control.repository_index(url)
    ):
        control.unload_model(url, name)
    control.load_model(url, name)
    return control.model_config(url, name)


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    try:
        return config_path.identity(a) == config_path.identity(b)
    except TritonsmithError:  # a field that this version does not know the type of
        return a == b
