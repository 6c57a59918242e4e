"""A running server → each of its Python stubs that died, told within a second, and its model loaded again where the
server's control mode lets us."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.server import control
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.server.stubs.deaths import POLL_S, Death, Stubs

# Waits before each repair of one model; there is none after the last.
REPAIRS_AFTER_S = (0.0, 2.0, 8.0)


@contextmanager
def watched(server: Server, mode: str, say: Callable[[str], None]) -> Iterator[None]:
    """Tell `say` of every stub that dies within the block, and repair its model where mode is "explicit".

    Nothing for a server whose processes are not ours to see.
    """
    if server.pid is None:
        yield
        return
    stubs = Stubs(server.pid)
    stubs.look()  # before anybody can send the request that ends one
    ending = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(stubs, server, mode, say, ending), name="stub-watch", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(1.0)


def _watch(
    stubs: Stubs, server: Server, mode: str, say: Callable[[str], None], ending: threading.Event
) -> None:
    repairs: dict[str, int] = {}
    due: dict[str, float] = {}
    working: dict[str, threading.Thread] = {}
    done_with = queue.SimpleQueue[str]()
    while not ending.wait(POLL_S):
        deaths = stubs.look()
        while not done_with.empty():  # after the look, which has seen the new stubs
            say(done_with.get())
        names = _names(server) if deaths else []
        for death in deaths:
            model = death.stub.model_of(names)
            if (
                mode == "explicit"
                and model not in due
                and (done := repairs.get(model, 0)) < len(REPAIRS_AFTER_S)
            ):
                repairs[model] = done + 1
                due[model] = time.monotonic() + REPAIRS_AFTER_S[done]
            say(told(death, model, _what_now(model, mode, model in due, repairs, server), server.log_path))
        for model in [m for m, at in due.items() if time.monotonic() >= at]:
            # A repair of its own thread: a model that loads for minutes does not hide the death of another.
            if model not in working or not working[model].is_alive():
                del due[model]
                working[model] = threading.Thread(
                    target=_repair, args=(server, model, done_with), name="stub-repair", daemon=True
                )
                working[model].start()


def told(death: Death, model: str, what_now: str, log_path: Path | None) -> str:
    """One death in a line."""
    log = f"; the server's log: {log_path}" if log_path is not None else ""
    return f"model {model!r}: {death.sentence}, and its requests fail; {what_now}{log}"


def _what_now(model: str, mode: str, repairs_it: bool, repairs: Mapping[str, int], server: Server) -> str:
    if repairs_it:
        done = repairs[model]
        after = f" in {REPAIRS_AFTER_S[done - 1]:g} s" if REPAIRS_AFTER_S[done - 1] else " now"
        return f"it is loaded again{after} ({done} of {len(REPAIRS_AFTER_S)} times)"
    if mode == "explicit":
        address = f"http://{server.http_url}/v2/repository/models/{model}"
        return (
            f"it was loaded again {repairs[model]} times and is not any more: mend it, then POST {address}/unload and "
            f"{address}/load"
        )
    if mode == "poll":
        return "touch its config.pbtxt, and the server loads it again"
    return "start the server again; with --model-control explicit --load-model '*' it would be loaded again by itself"


def _names(server: Server) -> list[str]:
    try:
        return [row.name for row in control.repository_index(server.http_url)]
    except TritonsmithError:
        return []


def _repair(server: Server, model: str, done_with: queue.SimpleQueue[str]) -> None:
    try:
        control.reload_model(server.http_url, model)
    except TritonsmithError as error:
        done_with.put(f"model {model!r} could not be loaded again: {error.message}")
    else:
        done_with.put(f"model {model!r} was loaded again, with the config that it had")
