"""A large transfer → a line on stderr now and then: how far it is; nothing for one that is soon done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.base.text.quantities import text_of_bytes

_FIRST_S = 3.0
_EVERY_S = 10.0


def told_transfer(what: str) -> Callable[[int, int], None]:
    """A function to call with (bytes done, bytes in all); thread-safe."""
    guard = threading.Lock()
    started = time.monotonic()
    due = started + _FIRST_S

    def tell(done: int, total: int) -> None:
        nonlocal due
        now = time.monotonic()
        with guard:
            if now < due or not total or done >= total:
                return
            due = now + _EVERY_S
        speed = done / (now - started)
        note(f"{what}: {100 * done / total:.0f} % of {text_of_bytes(total)} at {text_of_bytes(speed)}/s")

    return tell
