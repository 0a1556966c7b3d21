"""What a process used of its host: time on a core, time in want of one, memory."""

from __future__ import annotations

import resource

_NS = 1_000_000_000


class Spent:
    """CPU time of this process since a moment.

    Attributes:
        cpu_s: Seconds on a core, user and system.
        wait_s: Seconds that it could have run but had no core; 0 where the system does not tell.
    """

    def __init__(self) -> None:
        self._cpu_s, self._wait_s = _cpu_s(), _wait_s()
        self.cpu_s = self.wait_s = 0.0

    def until_now(self) -> None:
        """Take the time up to now."""
        self.cpu_s = _cpu_s() - self._cpu_s
        self.wait_s = _wait_s() - self._wait_s


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process; getrusage's has the parent's in it."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            return int(file.read().partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _wait_s() -> float:
    try:
        with open("/proc/self/schedstat", encoding="ascii") as file:  # noqa: PTH123 - no pathlib
            return int(file.read().split()[1]) / _NS
    except (OSError, ValueError, IndexError):
        return 0.0
