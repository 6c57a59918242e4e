"""Counters of the models that an ensemble is composed of → each one's part of the time, and where most of it goes; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tritonsmith.perf.usage.counters import ServerCounters

MOST = 0.5
"""A member with this part of the time of all has more of it than all others together."""
TOLD = 0.1
"""A part of the time below this is not worth words."""


@dataclass(frozen=True, slots=True)
class Member:
    """What one model did. share: of the time that all members spent on requests, queues included; they may overlap where
    an ensemble branches. queue_share: the part of it that requests waited for this model."""

    name: str
    counters: ServerCounters
    share: float
    queue_share: float


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The member that most of the time goes to: the part of it in its queue, and in its compute."""

    name: str
    queue: float
    compute: float

    @property
    def part(self) -> Literal["queue", "compute"]:
        """The larger one."""
        return "queue" if self.queue >= self.compute else "compute"

    def words(self, ensemble: str) -> str:
        """`text_boxes spends 71 % of its time in detector's queue and 18 % in its compute`."""
        parts = sorted((("queue", self.queue), ("compute", self.compute)), key=lambda part: -part[1])
        (first, most), (second, rest) = parts
        told = f"{ensemble} spends {most * 100:.0f} % of its time in {self.name}'s {first}"
        return f"{told} and {rest * 100:.0f} % in its {second}" if rest >= TOLD else told


def members_from(counters: Mapping[str, ServerCounters]) -> tuple[Member, ...]:
    """In the order given. A model that steps name twice counts with all its requests."""
    queue = {name: c.requests * c.mean_queue_us for name, c in counters.items()}
    spent = {name: queue[name] + c.requests * c.mean_compute_us for name, c in counters.items()}
    total = sum(spent.values()) or 1.0
    return tuple(Member(name, c, spent[name] / total, queue[name] / total) for name, c in counters.items())


def bottleneck_of(members: tuple[Member, ...]) -> Bottleneck | None:
    """Where the time plainly goes; None of a single model, and where none has most of it."""
    most = max(members, key=lambda member: member.share, default=None)
    if most is None or len(members) < 2 or most.share < MOST:
        return None
    return Bottleneck(most.name, most.queue_share, most.share - most.queue_share)
