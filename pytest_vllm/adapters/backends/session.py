"""The processes of a server as Linux's /proc shows them: members, sockets, leftovers."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal

_PROC = Path("/proc")
_LISTEN = "0A"
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """All processes that descend from one launch.

    A member has the session ID of the launched process, or carries the launch's marker in its
    environment, which also finds a child that has left the session.

    Attributes:
        sid: Session ID: the process ID of the launched process.
        marker: `NAME=VALUE` that was put into its environment.
    """

    sid: int
    marker: str

    def members(self) -> tuple[int, ...]:
        """Return the process IDs of all members that have not ended."""
        return tuple(pid for pid in _all_pids() if self._is_member(pid))

    def listens_on(self, port: int) -> bool:
        """Tell whether one of the members listens on a TCP port."""
        sockets = _listening_inodes(port)
        return bool(sockets) and any(sockets & _socket_inodes(pid) for pid in self.members())

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every member."""
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_gone(self, limit_s: float) -> bool:
        """Wait until there is no member left; tell whether that happened within the limit."""
        end = time.monotonic() + limit_s
        while self.members():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
        return True

    def _is_member(self, pid: int) -> bool:
        try:
            fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2]
            state, _, _, session = fields.split()[:4]
            if state in "ZX":
                return False
            if int(session) == self.sid:
                return True
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except (OSError, ValueError):
            return False
        return self.marker.encode() in environment.split(b"\0")


def describe_holder(port: int) -> str:
    """Name the process that listens on a port: `PID 42 (python3)`; empty if it cannot be seen."""
    sockets = _listening_inodes(port)
    for pid in _all_pids() if sockets else ():
        if sockets & _socket_inodes(pid):
            try:
                name = (_PROC / str(pid) / "comm").read_text("utf-8", "replace").strip()
            except OSError:
                continue
            return f"PID {pid} ({name})"
    return ""


def listening_ports() -> frozenset[int]:
    """Return the TCP ports on which somebody listens."""
    return frozenset(port for port, _ in _listeners())


def _all_pids() -> list[int]:
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
