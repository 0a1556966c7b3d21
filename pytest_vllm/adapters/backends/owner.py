"""Who started a server: enough to tell on a later day whether that run still lives."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_vllm.adapters.backends.session import start_time

OWNER_VARIABLE = "PYTEST_VLLM_OWNER"
"""Variable of a server's processes that holds the owner's facts as JSON."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_SPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process of a host, told apart from any later one with the same number.

    Attributes:
        host: Name of the host.
        boot: ID of the host's current boot.
        space: Namespace in which the process ID counts; containers have one of their own.
        pid: Process ID.
        start: When the process began, in clock ticks after the boot.
    """

    host: str
    boot: str
    space: str
    pid: int
    start: int

    def facts(self) -> dict[str, str | int]:
        """Return the owner as plain data, for a label or a variable."""
        return {
            "host": self.host,
            "boot": self.boot,
            "space": self.space,
            "pid": self.pid,
            "start": self.start,
        }

    def is_dead(self, *, running: bool = True, host: str = "", boot: str = "") -> bool:
        """Tell whether the owner has certainly ended; what cannot be known counts as alive.

        Args:
            running: Whether what it left still runs. Nothing of ours runs on after a reboot, so a
                running thing with another boot ID belongs to another host of the same name.
            host: Name of this host, asked for when empty.
            boot: Current boot ID, asked for when empty.
        """
        if self.host != (host or socket.gethostname()):
            return False
        if self.boot != (boot or _boot_id()):
            return not running
        if self.space != _pid_space():
            return False
        return start_time(self.pid) != self.start


def this_owner() -> Owner:
    """Return this process as an owner."""
    return owner_of(os.getpid())


def owner_of(pid: int) -> Owner:
    """Return a process of this host as an owner."""
    return Owner(
        host=socket.gethostname(),
        boot=_boot_id(),
        space=_pid_space(),
        pid=pid,
        start=start_time(pid) or 0,
    )


def owner_text() -> str:
    """Return this process as it stands in labels and variables, always the same."""
    return json.dumps(this_owner().facts())


def read_owner(document: Any) -> Owner | None:
    """Read `Owner.facts` back; `None` for anything else, which is then nobody's to remove."""
    if not isinstance(document, dict):
        return None
    texts = [document.get(name) for name in ("host", "boot", "space")]
    numbers = [document.get(name) for name in ("pid", "start")]
    if not all(isinstance(text, str) and text for text in texts):
        return None
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        return None
    return Owner(**{name: document[name] for name in ("host", "boot", "space", "pid", "start")})


def _boot_id() -> str:
    return _BOOT_ID.read_text("ascii").strip()


def _pid_space() -> str:
    return os.readlink(_PID_SPACE)  # noqa: PTH115 - a name like `pid:[4026531836]`, no path
