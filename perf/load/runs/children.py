"""(a function, its arguments) → a process of our own that runs it, and that a terminal's Ctrl-C does not reach."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any


def start_child(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Starts it; it ends with this process. Ctrl-C is the parent's to hear and to pass on.

    A terminal sends SIGINT to every process in its foreground: a child would end with a traceback while it still
    imports what it needs. What is blocked here stays so in the child, from its first instruction on.
    """
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    resource_tracker.ensure_running()  # started with the first child, it would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process
