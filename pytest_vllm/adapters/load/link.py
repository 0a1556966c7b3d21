"""A connection of the collector: opened, used for one request after the other, closed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.stamps import SO_TIMESTAMPNS

if TYPE_CHECKING:
    from pytest_vllm.adapters.load.framing import Reply

NO_REQUEST = -1

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


class Link:
    """A connection to the server.

    Attributes:
        fd: Its file descriptor.
        number: Request that it carries, `NO_REQUEST` when idle.
        reply: What came of it so far.
        reads: What was read and not looked at yet: time and bytes.
        since_ns: When it began to connect, or last sent or got something.
        eager: Whether each read must be looked at when it comes.
        connecting: Whether there is no connection yet.
        used: How many requests it carried before this one.
        choice: Which of the server's addresses it goes to.
    """

    __slots__ = (
        "_out",
        "choice",
        "connecting",
        "eager",
        "fd",
        "number",
        "reads",
        "receive",
        "reply",
        "since_ns",
        "sock",
        "used",
    )

    def __init__(self, address: Address, *, choice: int, stamped: bool, now_ns: int) -> None:
        family, where = address
        self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self.sock.fileno()
        self.receive = self.sock.recvmsg
        self.choice = choice
        self.number = NO_REQUEST
        self.reply: Reply | None = None
        self.reads: list[tuple[int, bytes]] = []
        self.eager = True
        self.used = 0
        self.since_ns = now_ns
        self._out = memoryview(b"")
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if stamped:
            self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        failed = self.sock.connect_ex(where)
        self.connecting = failed == errno.EINPROGRESS
        if failed and not self.connecting:
            self.sock.close()
            raise OSError(failed, os.strerror(failed))

    def connected(self) -> str:
        """Take note that connecting is over; return why it failed, empty when it did not."""
        failed = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.connecting = False
        return os.strerror(failed) if failed else ""

    def put(self, raw: bytes) -> bool:
        """Send a request; tell whether all of it is on its way.

        Raises:
            OSError: The connection broke.
        """
        self._out = memoryview(raw)
        return self.push()

    def push(self) -> bool:
        """Send more of what was put; tell whether that was all.

        Raises:
            OSError: The connection broke.
        """
        while self._out:
            try:
                sent = self.sock.send(self._out)
            except BlockingIOError:
                return False
            self._out = self._out[sent:]
        return True

    @property
    def unsent(self) -> bool:
        """Whether part of the request is still here."""
        return len(self._out) > 0

    def close(self) -> None:
        """Close it."""
        self._out = memoryview(b"")
        with contextlib.suppress(OSError):
            self.sock.close()


def addresses(host: str, port: int) -> list[Address]:
    """Return where a server may be reached, the likeliest first.

    Raises:
        OSError: The name is not known.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    seen: list[Address] = []
    for family, _, _, _, where in found:
        if (family, where) not in seen:
            seen.append((family, where))  # type: ignore[arg-type]
    return seen
