"""When bytes came: the kernel's own receive times, on the clock of everything else.

`SO_TIMESTAMPNS` makes `recvmsg` tell when the kernel got the (last) packet of what it returns, on
CLOCK_REALTIME; see socket(7) and Documentation/networking/timestamping.rst. A program that reads
late, because it was busy or had no core, still has the right time.
"""

from __future__ import annotations

import socket
import struct
import time

SO_TIMESTAMPNS = 35
"""Of asm-generic/socket.h: the same on x86, ARM and POWER; Python has no name for it."""

_SPEC = struct.Struct("qq")
_NS = 1_000_000_000
_TRIES = 50
_WAIT_S = 0.002
_STEP_NS = 50_000
"""A move of the clocks against each other above which one was set, and not just read late."""

unpack = _SPEC.unpack


def shift_ns() -> int:
    """Return CLOCK_REALTIME minus CLOCK_MONOTONIC, by the closest of a few readings."""
    best, shift = _NS, 0
    for _ in range(5):
        before = time.monotonic_ns()
        real = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.monotonic_ns()
        if after - before < best:
            best, shift = after - before, real - (before + after) // 2
    return shift


class Stamps:
    """The kernel's receive times while a load runs.

    A pair of sockets stays open for it, since the kernel stamps only while somebody wants it.

    Attributes:
        works: Whether there are any; without, the time after a read is taken.
        shift: What to take off a stamp to have CLOCK_MONOTONIC.
        moved_ns: By how much the clocks moved against each other since the start.
    """

    def __init__(self) -> None:
        self.shift = self._first = shift_ns()
        self.moved_ns = 0
        self._pair: list[socket.socket] = []
        self.works = self._probe()

    def watch(self) -> bool:
        """See whether a clock was set; tell whether it was since the last call."""
        shift = shift_ns()
        moved = abs(shift - self.shift) > _STEP_NS
        if moved:
            self.shift = shift
            self.moved_ns = shift - self._first
        return moved

    def close(self) -> None:
        """Give the sockets back."""
        for one in self._pair:
            one.close()

    def _probe(self) -> bool:
        """Find out whether stamps come, which may take the kernel a moment, and are right."""
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                with socket.create_server((host, 0), family=family, backlog=1) as server:
                    ours = socket.create_connection(server.getsockname()[:2], timeout=1)
                    theirs, _ = server.accept()
                    break
            except OSError:
                continue
        else:
            return False
        self._pair = [ours, theirs]
        try:
            return any(self._stamped(ours, theirs) for _ in range(_TRIES))
        except OSError:
            return False

    def _stamped(self, ours: socket.socket, theirs: socket.socket) -> bool:
        ours.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        before = time.monotonic_ns()
        theirs.send(b"?")
        _, extra, _, _ = ours.recvmsg(1, 64)
        after = time.monotonic_ns()
        if not extra:
            time.sleep(_WAIT_S)
            return False
        seconds, rest = unpack(extra[0][2])
        at: int = seconds * _NS + rest - self.shift
        return before - _STEP_NS < at < after + _STEP_NS
