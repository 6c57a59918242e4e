"""What one client process is to do: the load's share, how the client behaves, and how far it is."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data.distribution import Distribution
from tritonsmith.perf.data.repeat import Repeat
from tritonsmith.perf.load.answers import Validation
from tritonsmith.perf.records.schedule import Load, Open, Replay, intended_send_times_ns
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.per_request.varied_bytes import ENOUGH


@dataclass(frozen=True, slots=True)
class SequenceOptions:
    """Sequences of requests under one correlation id; a closed loop keeps `concurrency` of them going.

    length:   requests in a sequence; None: as many as its stream has.
    streams:  places in the pool of payloads, in order; each sequence plays one of them (again from its start
              where it is longer). Empty: sequences take payloads as they come.
    text_ids: correlation ids are strings.
    """

    length: Distribution | None = None
    streams: tuple[tuple[int, ...], ...] = ()
    text_ids: bool = False

    def __post_init__(self) -> None:
        if self.length is None and not self.streams:
            raise UsageError("sequences need a length", code="bad_sequence", fix="--sequence-length 20")


@dataclass(frozen=True, slots=True)
class Repeating:
    """How the requests of a load repeat.

    seed:  of what follows what: equal for loads that are compared.
    first: the request that number 0 stands for, of all that can be made; far from those of other loads, whose answers
           a response cache may still hold.
    """

    repeat: Repeat
    seed: int
    first: int = field(default_factory=lambda: secrets.randbelow(ENOUGH))


class Sessions(Protocol):
    """Requests of which the next one carries the answers to those before; can be pickled into another process.

    The pool of payloads holds the first request of each session.
    """

    def turns(self, number: int) -> int:
        """Requests of a session."""

    def request(self, number: int, answers: Sequence[str]) -> InferPayload:
        """The one after so many answers."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How the client behaves, whatever the load.

    timeout_s:       a request without an answer after this is a failure.
    connections:     open loop: connections opened before the start; more are opened when they are short.
    max_connections: the most connections at once.
    validation:      check answers against the payloads' expected outputs; None checks nothing.
    processes:       client processes that share the load, for when one core is not enough.
    sequences:       the requests are those of sequences; a closed loop's only.
    repeat:          how requests repeat; None: the pool's again and again. No answer is then checked.
    sessions:        the payloads are first turns of sessions; a closed loop's only, whose target keeps the text.
    in_order:        the pool's requests go as they are, as of a trace; else in an order drawn from the seed.
    """

    timeout_s: float = 30.0
    connections: int = 16
    max_connections: int = 1024
    validation: Validation | None = None
    processes: int = 1
    sequences: SequenceOptions | None = None
    repeat: Repeating | None = None
    sessions: Sessions | None = None
    in_order: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the part done (0 to 1), requests ended, failed ones among them."""

    done: float
    requests: int
    failed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and which share of it is this process's.

    part, parts: this process sends every parts-th request, from the part-th on; of a closed loop the load
                 and the requests are its own share already.
    """

    load: Load
    warmup_s: float
    duration_s: float | None
    requests: int | None
    seed: int
    part: int = 0
    parts: int = 1

    @property
    def end_s(self) -> float | None:
        """Seconds from the start to the last send; None when a number of requests is the end."""
        return None if self.duration_s is None else self.warmup_s + self.duration_s

    def send_times_ns(self) -> npt.NDArray[np.int64]:
        """Offsets from the start at which this process's requests are due, in an open loop."""
        assert isinstance(self.load, Open | Replay)
        count = self.requests
        if count is not None and self.warmup_s:
            count += len(intended_send_times_ns(self.load, duration_s=self.warmup_s))
        times = intended_send_times_ns(self.load, duration_s=self.end_s, requests=count)
        return times[self.part :: self.parts]
