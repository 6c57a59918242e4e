"""The values that a step of the GPU check is described by and answers with, and the reasons why it cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "missing", "refused"]
"""missing: something the step needs is not on this machine; refused: rightly, with a reason that is the result."""
Device = Literal["gpu", "cpu"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step found. why: one sentence, empty when it passed; facts: numbers and versions, as JSON takes them."""

    status: Status
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table. call: `module:function` below perf.doctor.gpu_check; limit_s: when it is ended; cpu: whether the
    same code runs without a GPU; hide: a library that its process must not find."""

    name: str
    call: str
    argument: str = ""
    limit_s: float = 60.0
    cpu: bool = False
    hide: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the record: a step, what it found, and how long that took."""

    step: str
    device: Device
    outcome: Outcome
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"step": self.step, "device": self.device, "seconds": round(self.seconds, 2)} | asdict(
            self.outcome
        )


class MissingError(Exception):
    """What a step needs is not here; its message says what, and how it comes here."""


class UnexpectedError(Exception):
    """The machine did something else than it should; facts: what was seen up to then."""

    def __init__(self, why: str, **facts: Any) -> None:
        super().__init__(why)
        self.facts = facts
