"""A free TCP port that two runs on one host do not choose both."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pytest_vllm.adapters.backends.session import describe_holder
from pytest_vllm.domain.errors import HostError

_RANGE = range(20_000, 32_000)
"""Below the ports that Linux hands to outgoing connections (32768 and up)."""
_ATTEMPTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLease:
    """A port held for one run.

    Attributes:
        port: The port.
        descriptor: Locked file that keeps other runs away, -1 for none.
    """

    port: int
    descriptor: int = -1

    def release(self) -> None:
        """Give the port back and leave no file."""
        if self.descriptor >= 0:
            _lock_file(self.port).unlink(missing_ok=True)  # while it is still locked
            os.close(self.descriptor)


def lease_port(host: str) -> PortLease:
    """Choose a port that nobody listens on and no other run has leased.

    Raises:
        HostError: None of many is free.
    """
    for _ in range(_ATTEMPTS):
        port = _RANGE[secrets.randbelow(len(_RANGE))]
        descriptor = _lock(port)
        if descriptor < 0:
            continue
        if _bind_error(host, port) == 0:
            return PortLease(port=port, descriptor=descriptor)
        PortLease(port=port, descriptor=descriptor).release()
    raise HostError(
        f"no free port between {_RANGE.start} and {_RANGE.stop} on {host}",
        advice="name one: --vllm-serve-arg=--port=PORT",
    )


def claim_port(host: str, port: int) -> PortLease:
    """Check that the user's port is free.

    Raises:
        HostError: Somebody listens on it; the message names the process if it can be seen.
    """
    error = _bind_error(host, port)
    if error == 0:
        return PortLease(port=port)
    if error == errno.EADDRINUSE:
        holder = describe_holder(port) or "a process that this user cannot see"
        raise HostError(
            f"port {port} on {host} is in use by {holder}",
            advice="end that process, or drop --port to have a free one chosen",
        )
    raise HostError(
        f"port {port} on {host} cannot be used: {os.strerror(error)}",
        advice="drop --port to have a free one chosen",
    )


def _bind_error(host: str, port: int) -> int:
    """Bind like vLLM does, close again, and return the error number, 0 for none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def _lock(port: int) -> int:
    """Lock the file of a port without waiting; -1 when another run holds it."""
    file = _lock_file(port)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == file.stat().st_ino:
            return descriptor  # not a file that its owner removed a moment ago
    except OSError:
        pass
    os.close(descriptor)
    return -1


def _lock_file(port: int) -> Path:
    return Path(tempfile.gettempdir()) / f"pytest-vllm-ports-{os.getuid()}" / str(port)
