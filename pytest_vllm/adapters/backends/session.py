"""The processes of a server as Linux's /proc shows them: members, sockets, leftovers."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_PROC = Path("/proc")
_SHARED = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives
_LISTEN = "0A"
_POLL_S = 0.05
_TRACKER = b"multiprocessing.resource_tracker"
_TRACKER_S = 2.0
_STOP_S = 2.0
_STOP_LOOKS = 3
_STOP_POLL_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    """What /proc tells about a process: its parent and its session."""

    parent: int
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """All processes that descend from one launch.

    A member has the session ID of the launched process, or carries the launch's marker in its
    environment, which also finds a child that has left the session, or descends from a member,
    which finds one that has left the session and written a title over its environment.

    Attributes:
        sid: Session ID: the process ID of the launched process; 0 when it is not known.
        marker: `NAME=VALUE` that was put into its environment.
    """

    sid: int
    marker: str

    def members(self, known: Collection[int] = ()) -> tuple[int, ...]:
        """Return the process IDs of all members that have not ended.

        Args:
            known: Processes that have been members: they and who descends from them still are.
        """
        living = {pid: stat for pid in all_pids() if (stat := _read_stat(pid)) is not None}
        ours = {pid for pid, stat in living.items() if pid in known or self._is_member(pid, stat)}
        before = -1
        while len(ours) != before:
            before = len(ours)
            ours |= {pid for pid, stat in living.items() if stat.parent in ours}
        return tuple(sorted(ours))

    def listens_on(self, port: int) -> bool:
        """Tell whether one of the members listens on a TCP port."""
        sockets = _listening_inodes(port)
        return bool(sockets) and any(sockets & _socket_inodes(pid) for pid in self.members())

    def end(self, *, grace_s: float, limit_s: float) -> tuple[int, ...]:
        """End all members: SIGTERM, a grace, SIGKILL. Return those that live on all the same.

        Args:
            grace_s: Seconds between the two signals.
            limit_s: Seconds to wait after SIGKILL, also for members that appear only then.
        """
        return _Pursuit(self).end(grace_s=grace_s, limit_s=limit_s)

    def kill(self, *, limit_s: float) -> tuple[int, ...]:
        """Kill all members; return those that live on all the same."""
        return _Pursuit(self).kill(limit_s=limit_s)

    def _is_member(self, pid: int, stat: _Stat) -> bool:
        if self.sid and stat.session == self.sid:
            return True
        return self.marker.encode() in environment_of(pid)


class _Pursuit:
    """The members of a session, and who has been one, until all have ended.

    A member of which nothing but its parent tells whose it is would be forgotten with its parent.

    Args:
        session: Whose members are pursued.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: dict[int, int] = {}

    def members(self) -> tuple[int, ...]:
        """Return the process IDs of those that have not ended."""
        known = [pid for pid, started in self._seen.items() if start_time(pid) == started]
        found = {pid: start_time(pid) for pid in self._session.members(known)}
        self._seen = {pid: started for pid, started in found.items() if started is not None}
        return tuple(self._seen)

    def stop(self, *, spare: Collection[int] = ()) -> None:
        """Stop every member but some, so that nobody forks or makes shared memory any more.

        A signal is taken only when a system call returns, so until all are seen to stand still, or
        2 s and three looks are over. A look lists the processes first and finds its members still a
        while later: one that was in the middle of a fork then has a child that was not listed. So
        only a look that began when all stood still, and found nobody else, is the last.
        """
        end = time.monotonic() + _STOP_S
        still, looks = False, 0
        while looks < _STOP_LOOKS or time.monotonic() < end:
            looks += 1
            moving = [p for p in self.members() if p not in spare and not _is_stopped(p)]
            if still and not moving:
                return
            still = not moving
            if moving:
                _send(signal.SIGSTOP, moving)
                time.sleep(_STOP_POLL_S)

    def end(self, *, grace_s: float, limit_s: float) -> tuple[int, ...]:
        """SIGTERM, a grace, SIGKILL."""
        # Stopped first: a segment made between the look and SIGTERM would belong to nobody, since
        # Python lets that signal through just before it tells its resource tracker of the segment.
        self.stop()
        shared = _shared_memory(self.members())
        members = self.members()
        _send(signal.SIGTERM, members)
        _send(signal.SIGCONT, members)
        self.wait_gone(grace_s)
        left = self.kill(limit_s=limit_s)
        _remove_unused(shared)
        return left

    def kill(self, *, limit_s: float) -> tuple[int, ...]:
        """SIGKILL, again until all are gone.

        Python's resource trackers go last: they remove the shared memory of those killed before.
        """
        trackers = {pid for pid in self.members() if _TRACKER in _command_line(pid)}
        self.stop(spare=trackers)
        shared = _shared_memory(self.members())
        if trackers:
            _send(signal.SIGKILL, [pid for pid in self.members() if pid not in trackers])
            self.wait_gone(_TRACKER_S)
        end = time.monotonic() + limit_s
        while (members := self.members()) and time.monotonic() < end:
            _send(signal.SIGKILL, members)
            self.wait_gone(min(limit_s, 1.0))
        _remove_unused(shared)
        return self.members()

    def wait_gone(self, limit_s: float) -> bool:
        """Wait until there is no member left; tell whether that happened within the limit."""
        end = time.monotonic() + limit_s
        while self.members():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
        return True


def _send(number: signal.Signals, pids: Collection[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def environment_of(pid: int) -> tuple[bytes, ...]:
    """Return the environment that a process was started with, empty when it cannot be read.

    Some programs write their title over it.
    """
    try:
        return tuple((_PROC / str(pid) / "environ").read_bytes().split(b"\0"))
    except OSError:
        return ()


def start_time(pid: int) -> int | None:
    """Return when a process began, in clock ticks after the boot; `None` when it has ended."""
    fields = _stat_fields(pid)
    return None if not fields or fields[0] in "ZX" else int(fields[19])


def _read_stat(pid: int) -> _Stat | None:
    """Read /proc/PID/stat (proc_pid_stat(5)); `None` for a process that has ended."""
    fields = _stat_fields(pid)
    if not fields or fields[0] in "ZX":
        return None
    return _Stat(parent=int(fields[1]), session=int(fields[3]))


def _stat_fields(pid: int) -> list[str]:
    """Return the fields from the third one, the state, on: a name may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _is_stopped(pid: int) -> bool:
    """Tell whether all threads of a process stand still, or it has ended."""
    try:
        states = [
            (task / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
            for task in (_PROC / str(pid) / "task").iterdir()
        ]
    except OSError:  # it, or a thread of it, has ended just now
        return _read_stat(pid) is None
    return all(state in "TtZX" for state in states)


def _command_line(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def holder_of(port: int) -> int | None:
    """Return the process that listens on a port, the first of several; `None` if none is seen."""
    sockets = _listening_inodes(port)
    pids = sorted(all_pids()) if sockets else ()
    return next((pid for pid in pids if sockets & _socket_inodes(pid)), None)


def parents() -> dict[int, int]:
    """Return the parent of every process that has not ended."""
    return {pid: stat.parent for pid in all_pids() if (stat := _read_stat(pid)) is not None}


def describe_holder(port: int) -> str:
    """Name the process that listens on a port: `PID 42 (python3)`; empty if it cannot be seen."""
    pid = holder_of(port)
    if pid is None:
        return ""
    try:
        name = (_PROC / str(pid) / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""
    return f"PID {pid} ({name})"


def _shared_memory(pids: Collection[int]) -> frozenset[Path]:
    """Return the files of POSIX shared memory that processes have mapped or open (shm_overview(7)).

    They have no owner and would stay until the next boot.
    """
    found: set[Path] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "maps").read_text("utf-8", "replace").splitlines():
                found.add(Path(line.partition("/")[1] + line.partition("/")[2]))
        with contextlib.suppress(OSError):
            for descriptor in (_PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found.add(descriptor.readlink())
    return frozenset(path for path in found if path.parent == _SHARED)


def _remove_unused(files: Collection[Path]) -> None:
    """Remove files of shared memory that nobody uses any more."""
    left = [file for file in files if file.exists()]
    used = _shared_memory(all_pids()) if left else frozenset()
    for file in left:
        if file not in used:
            with contextlib.suppress(OSError):
                file.unlink()


def all_pids() -> list[int]:
    """Return the IDs of all processes that this one can see."""
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _listening_inodes(port: int) -> frozenset[str]:
    return frozenset(inode for held, inode in _listeners() if held == port)


def _listeners() -> list[tuple[int, str]]:
    """Return port and inode of listening sockets (proc_pid_net(5))."""
    found: list[tuple[int, str]] = []
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN:
                found.append((int(fields[1].rpartition(":")[2], 16), fields[9]))
    return found


def _socket_inodes(pid: int) -> frozenset[str]:
    inodes: set[str] = set()
    try:
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                link = str(descriptor.readlink())
                if link.startswith("socket:["):
                    inodes.add(link[8:-1])
    except OSError:  # another user's process, or it has just ended
        return frozenset()
    return frozenset(inodes)
