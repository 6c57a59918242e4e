"""A job's sending over the deaths of its own server: started again, and the row that kills it found by being sent alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.perf.batch.answers import Failure
from tritonsmith.perf.batch.sending.pack import Packed
from tritonsmith.perf.batch.sending.send import DIED, Sender

MOST_RESTARTS = 20
"""Of one run of a job."""


def send_surviving(
    make: Callable[[list[Packed]], Sender],
    restart: Callable[[], bool],
    interrupt: Callable[[], None] | None = None,
) -> None:
    """Sends all that `make`'s sender gets; its argument is what is to be sent first, a row at a time.

    restart: a new server in the place of a dead one; False where it is not ours to start. Rows that were in flight when a
    server died are sent alone to the next one; the row that is alone in it when that dies, too, has failed.
    """
    alone: list[Packed] = []
    for restarts in range(MOST_RESTARTS + 1):
        error = _death(make(alone), interrupt)
        if error is None:
            return
        died, sender = error
        if restarts == MOST_RESTARTS or not restart():
            raise died
        if sender.alone_now is not None:
            row = sender.alone_now.rows[0]
            sender.sink.failed(
                row, Failure("server_died", f"the server died of it: {died.seen or died.message}")
            )
        alone = [Packed([row]) for packed in sender.unfinished() for row in packed.rows]


def _death(sender: Sender, interrupt: Callable[[], None] | None) -> tuple[ServerError, Sender] | None:
    try:
        complete(sender, interrupt)
    except ServerError as error:
        if error.code != DIED:
            raise
        return error, sender
    return None


def complete(sender: Sender, interrupt: Callable[[], None] | None) -> None:
    """In an event loop of its own, which hears a Ctrl-C where it may."""
    import uvloop

    loop = uvloop.new_event_loop()
    listens = interrupt is not None and threading.current_thread() is threading.main_thread()
    try:
        if listens and interrupt is not None:
            loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.run_until_complete(sender.run())
    finally:
        if listens:
            loop.remove_signal_handler(signal.SIGINT)
        loop.close()
