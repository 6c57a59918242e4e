"""What a publish tells whoever makes it live, and what is to be true before it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tritonsmith.builder.actions.accuracy.samples import SampleSet


@dataclass(frozen=True, slots=True)
class Expected:
    """Recorded requests with the source's answers. bounds: output → how far an answer may lie off."""

    samples: SampleSet
    bounds: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Switched:
    """A model whose config.pbtxt has just changed.

    served:   the versions that it names now, oldest first; the last is the one that answers by default.
    expected: what that one has to answer; None when nothing is recorded.
    """

    model: str
    served: Sequence[int]
    expected: Expected | None = field(default=None)


class Release(Protocol):
    """Makes live servers serve what a destination says; perf.commands.release.live has the one that speaks to Triton."""

    def check(self) -> None:
        """Raises when a server does not answer, before anything is changed."""

    def follow(self, switched: Switched) -> str:
        """Makes the servers serve these versions and nothing else, and asks the recorded requests.

        Returns one line of what was seen. Raises TritonsmithError when a server refuses them or answers wrongly.
        """

    def forget(self, model: str) -> None:
        """Makes the servers let go of a model that the destination no longer has."""
