"""Signals that end a run: each ends it in order, and none of them can disturb its end."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BURST_S = 5.0


class Signals:
    """Makes SIGTERM and SIGHUP end the run as Ctrl-C does, and a burst of them like one.

    Attributes:
        ended_by: Number of the signal that ended the run, 0 for none or Ctrl-C, for which pytest
            has an exit code of its own.
    """

    def __init__(self) -> None:
        self.ended_by = 0
        self._previous: dict[int, Any] = {}
        self._heard_s = float("-inf")

    def take(self) -> None:
        """Begin; a thread other than the main one may not, and then nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            # What nohup or a shell's background job made us deaf to stays so.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._previous[number] = signal.signal(number, self._end)

    def give_back(self) -> None:
        """Let everything be as it was."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be deaf for the length of a block, which must be bounded in time."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        held = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in held.items():
                signal.signal(number, handler)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        """End the run; who waits for some seconds and asks again is heard again."""
        if number != signal.SIGINT:
            self.ended_by = number
        now = time.monotonic()
        if now - self._heard_s >= _BURST_S:
            self._heard_s = now
            raise KeyboardInterrupt
