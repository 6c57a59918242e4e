"""A monotonic instant → a call in the event loop at that instant, to microseconds: Linux's timerfd.

Event loops round their own timers to a millisecond, which at a few thousand requests a second would turn an
even arrival into bursts.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1


class InstantTimer:
    """One pending instant at a time; where there is no timerfd, the loop's own timer is used."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        self._spec = _Itimerspec()
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "timerfd_create"):
            self._settime = libc.timerfd_settime
            self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            loop.add_reader(self._fd, call)

    def at(self, instant_ns: int) -> None:
        """Call at this time.monotonic_ns, or at once when it is past; replaces the pending instant."""
        if self._fd < 0:
            self.cancel()
            delay_s = max(0.0, (instant_ns - time.monotonic_ns()) / 1e9)
            self._handle = self._loop.call_later(delay_s, self._call)
            return
        value = self._spec.value
        value.sec, value.nsec = divmod(max(instant_ns, 1), 1_000_000_000)
        self._settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None)

    def cancel(self) -> None:
        """Forget the pending instant."""
        if self._handle is not None:
            self._handle.cancel()
        if self._fd >= 0:
            self._settime(self._fd, 0, ctypes.byref(_Itimerspec()), None)

    def close(self) -> None:
        """Release the descriptor."""
        self.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
