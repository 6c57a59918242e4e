"""One request over either protocol, streams too → its responses, as they came, and how long they took."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic_ns

from tritonsmith.perf.wire.payload import Answer, InferPayload
from tritonsmith.perf.wire.target import OneEnd, Target


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What came of a request.

    answers:  of a streaming target any number, without those that hold no output; else one. An error, Triton's or the
              protocol's, is the last.
    first_ns, took_ns: from the first byte sent to the first response, and to the end.
    """

    answers: tuple[Answer, ...]
    first_ns: int
    took_ns: int

    @property
    def error(self) -> str | None:
        """Why the server refused, or failed in the middle."""
        return self.answers[-1].error if self.answers else None


def ask_once(target: Target, payload: InferPayload, timeout_s: float) -> Asked:
    """Send one request on a connection of its own, which is made before the time is taken.

    OSError when nothing answers, or the connection breaks; TimeoutError among them, timeout_s after the request was sent.
    """
    request = target.encode(payload)
    return asyncio.run(_asked(target, request, timeout_s))


async def _asked(target: Target, request: bytes, timeout_s: float) -> Asked:
    waiting = OneEnd(asyncio.get_running_loop().create_future())
    connection = await target.connect(waiting, lambda connection: None)
    try:
        sent_ns = monotonic_ns()
        connection.send(0, request, True)
        first_ns, end_ns, reason, answer = await asyncio.wait_for(waiting.ended, timeout_s)
    except asyncio.TimeoutError:
        raise TimeoutError(f"no whole answer within {timeout_s:g} s") from None
    finally:
        connection.close()
    if reason is not None and reason.startswith(("connection:", "protocol:")):
        raise ConnectionError(reason.partition(":")[2].strip())
    return Asked(_answers(target, reason, answer), max(0, first_ns - sent_ns), end_ns - sent_ns)


def _answers(target: Target, reason: str | None, answer: bytes | None) -> tuple[Answer, ...]:
    if answer is None:
        return (Answer({}, reason or "the server answered nothing"),)
    try:
        if not target.streaming:
            decoded = target.decode(answer)
            # A refusal's reason is cut where it is counted; what was decoded has the whole.
            return (decoded if reason is None or decoded.error else Answer({}, reason),)
        from tritonsmith.perf.wire.grpc import decode_responses

        return tuple(part for part in decode_responses(answer) if part.outputs or part.error)
    except ValueError as error:
        return (Answer({}, reason or f"not an infer answer: {error}"),)
