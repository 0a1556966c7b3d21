"""A free TCP port that two runs on one host do not choose both."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pytest_vllm.adapters.backends.lockfile import hold, let_go
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
        file: Lock file that keeps other runs away, `None` for none.
        descriptor: Holds the lock.
    """

    port: int
    file: Path | None = None
    descriptor: int = -1

    def release(self) -> None:
        """Give the port back and leave no file."""
        if self.file is not None:
            let_go(self.file, self.descriptor)


def lease_port(host: str) -> PortLease:
    """Choose a port that nobody listens on and no other run has leased.

    Raises:
        HostError: None of many is free.
    """
    for _ in range(_ATTEMPTS):
        port = _RANGE[secrets.randbelow(len(_RANGE))]
        folder = lock_folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = hold(folder / str(port))
        if descriptor is None:
            continue
        lease = PortLease(port=port, file=folder / str(port), descriptor=descriptor)
        if _bind_error(host, port) == 0:
            return lease
        lease.release()
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


def lock_folder() -> Path:
    """Return the folder of this user's lock files, one a port."""
    return Path(tempfile.gettempdir()) / f"pytest-vllm-ports-{os.getuid()}"
