"""Timers of Linux that are exact to some ten microseconds, and the tie to the parent process."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_ITIMERSPEC = struct.Struct("qqqq")  # interval, value: seconds and nanoseconds each
_NS = 1_000_000_000


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Timer:
    """A timerfd(2) on CLOCK_MONOTONIC, to be waited for among sockets.

    Python has it since 3.13; before, it is asked of the C library.

    Raises:
        OSError: The kernel has none, or lets nobody have one.
    """

    def __init__(self) -> None:
        self._libc = _libc()
        self.fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._at: int | None = None

    def at(self, when_ns: int | None) -> None:
        """Fire at a time (at once if it is over); `None`: not at all."""
        if when_ns == self._at:
            return
        self._at = when_ns
        value = (0, 0) if when_ns is None else divmod(max(when_ns, 1), _NS)
        self._libc.timerfd_settime(
            self.fd, _TFD_TIMER_ABSTIME, _ITIMERSPEC.pack(0, 0, *value), None
        )

    def fired(self) -> None:
        """Take note that it fired, so that it is quiet until it is set again."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:  # it was set anew meanwhile
            return
        self._at = None

    def close(self) -> None:
        """Give it back."""
        os.close(self.fd)


def tight_timers() -> None:
    """Have the kernel wake this thread without the usual slack of 50 us (prctl(2))."""
    _libc().prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, and see that it has not yet."""
    _libc().prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
