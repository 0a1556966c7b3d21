"""What a command costs: CPU of all its processes, their memory, and how long it took."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a command took.

    Attributes:
        code: Its exit code, negative for a signal.
        spawn_ns: When it was started, CLOCK_MONOTONIC.
        wall_s: From there to its end.
        cpu_s: User and system seconds of it and all its descendants.
        start_cpu_s: Those of them before its work began, `None` where nobody told of that.
        pss_mb: Largest sum of their proportional set sizes that was seen, 10**6 bytes.
        processes: Most processes that were seen at a time.
    """

    code: int
    spawn_ns: int
    wall_s: float
    cpu_s: float
    start_cpu_s: float | None
    pss_mb: float
    processes: int


def spend(  # noqa: PLR0913 - the parts of one measurement
    command: Sequence[str],
    *,
    output: Path,
    environment: Mapping[str, str],
    limit_s: float,
    every_s: float = 1.0,
    cores: set[int] | None = None,
    begun: IO[str] | None = None,
) -> Cost:
    """Run a command to its end and return what it took.

    Orphans of its processes become ours, so that their time counts; they are ended with it. The
    clock stops when the command itself ends.

    Args:
        command: What to run.
        output: File for all that it prints.
        environment: Variables, instead of ours.
        limit_s: Seconds until it is killed.
        every_s: Pause between looks at its memory. A look takes a millisecond or two for each
            100 MB, from all processes on the machine.
        cores: Cores that it may use.
        begun: Gives a line when its work begins.
    """
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    before, others = resource.getrusage(resource.RUSAGE_CHILDREN), set(_children())
    with output.open("wb") as out:
        spawn_ns = time.monotonic_ns()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        if cores:
            os.sched_setaffinity(process.pid, cores)
        watch = _MemoryWatch(process.pid, every_s)
        start = _StartWatch(process.pid, begun) if begun else None
        try:
            if not _ended(process.pid, limit_s):
                _kill_group(process.pid)
            wall_s = (time.monotonic_ns() - spawn_ns) / 1e9
            code = process.wait()
        finally:  # also when the user ends it
            watch.stop()
            _kill_group(process.pid)
            while left := set(_children()) - others:
                _collect(left)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(
        code=code,
        spawn_ns=spawn_ns,
        wall_s=wall_s,
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        start_cpu_s=start.cpu_s if start else None,
        pss_mb=watch.most_bytes / 1e6,
        processes=watch.most_processes,
    )


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ended(pid: int, limit_s: float) -> bool:
    """Wait for the end of a process, without looking again and again."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], limit_s)[0])
    finally:
        os.close(descriptor)


def _collect(left: set[int]) -> None:
    """End what a command left behind and wait for it; its time is counted by that."""
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


class _StartWatch:
    """Takes the CPU time of a process and its descendants when its work begins, on a thread."""

    def __init__(self, root: int, begun: IO[str]) -> None:
        self.cpu_s: float | None = None
        self._root = root
        self._begun = begun
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        if self._begun.readline():
            self.cpu_s = sum(map(_cpu_s, _family(self._root)))


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, and of its children that have ended.

    The clock of a process (clock_getcpuclockid(3): its number, inverted, and 2 for the time that
    it ran) is exact; what `/proc` tells is in ticks of 10 ms.
    """
    try:
        ran_ns = time.clock_gettime_ns((~pid << 3) | 2)
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:  # it has just ended
        return 0.0
    ended = stat.rpartition(")")[2].split()[13:15]
    return ran_ns / 1e9 + sum(map(int, ended)) / os.sysconf("SC_CLK_TCK")


class _MemoryWatch:
    """Looks at the memory of a process and its descendants, on a thread."""

    def __init__(self, root: int, every_s: float) -> None:
        self.most_bytes = 0
        self.most_processes = 0
        self._root = root
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            family = _family(self._root)
            self.most_processes = max(self.most_processes, len(family))
            self.most_bytes = max(self.most_bytes, sum(map(_pss_bytes, family)))


def _children() -> list[int]:
    """Return our own children, the orphans that became ours among them."""
    return [pid for pid, parent in _parents().items() if parent == os.getpid()]


def _parents() -> dict[int, int]:
    """Return the parent of every process."""
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text("utf-8", "replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def _family(root: int) -> set[int]:
    """Return a process and its descendants."""
    parents = _parents()
    family = {root} & parents.keys()
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    return family


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii", "replace")
    except OSError:  # it has just ended
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
