"""A place that servers read models from, on disk or in an object store, behind one Protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tritonsmith.builder.publish.destinations.versions import ModelState

Content = Path | bytes
"""A file to copy, or the bytes themselves."""


@dataclass(frozen=True, slots=True)
class Switch:
    """What is to become visible.

    number:      the newest version that is then served; its record's copies become the files at the model's root.
    root:        names of those copies → sha256.
    root_before: names that earlier versions put at the root; those that are not in `root` go.
    config_text: config.pbtxt, which names the versions.
    marks:       path in the model's directory → small files that are added to other versions.
    """

    model: str
    number: int
    root: Mapping[str, str]
    config_text: str
    root_before: Collection[str] = ()
    marks: Mapping[str, bytes] = field(default_factory=dict)


class Destination(Protocol):
    """A Triton model repository that servers read while it is written.

    A publish: `claim` a number, `add` the version's files, `switch`, and later `drop` what is surplus. Until the
    switch no server can come to serve anything of it.
    """

    @property
    def url(self) -> str:
        """As the user gave it."""

    def exclusive(self) -> AbstractContextManager[None]:
        """To be held from reading a state to the last change; where several publishers cannot be kept apart,
        `claim` and `switch` refuse instead."""

    def models(self) -> tuple[str, ...]:
        """Names of the models there, sorted."""

    def state(self, model: str) -> ModelState:
        """What is there of a model; one without versions when there is nothing."""

    def read(self, model: str, path: str) -> bytes | None:
        """A small file in the model's directory; None when it is not there."""

    def digest(self, model: str, path: str) -> str | None:
        """sha256 of a file's content, read anew; None when it is not there."""

    def claim(self, state: ModelState, placeholder: str) -> int:
        """Takes the next free number. placeholder: config.pbtxt that serves nothing, for a model that has none."""

    def add(self, model: str, number: int, files: Mapping[str, Content], record: bytes) -> None:
        """Brings a claimed version's files (path in the version's directory → content), then its provenance."""

    def abandon(self, model: str, number: int) -> None:
        """Takes back what a claim and an add brought, as far as possible; never raises."""

    def switch(self, state: ModelState, change: Switch) -> None:
        """Makes config.pbtxt and the root's files those of the change.

        BuildError `destination_changed` when somebody else changed the model since `state` was read.
        """

    def drop(self, model: str, numbers: Collection[int]) -> None:
        """Removes versions that are not served."""

    def withdraw(self, state: ModelState, placeholder: str) -> None:
        """Removes the model whole, so that a server at no time takes what is left for a model."""
