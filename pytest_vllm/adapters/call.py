"""One request under its deadline, and what has arrived of the reply so far."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pytest_vllm.domain.exchange import Exchange, shorten
from pytest_vllm.domain.reply import StreamReply, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(kw_only=True, eq=False)
class Call:
    """One request and what has arrived so far; a timer ends it when its time is over.

    Attributes:
        method: HTTP method.
        url: Full URL.
        headers: Headers that were set by us, without secrets.
        body: Body.
        timeout_s: Seconds from entering the block to the last byte.
        max_bytes: Bytes that the body of the reply may have.
        max_values: Values that its JSON may have.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout_s: float
    max_bytes: int
    max_values: int
    status: int | None = None
    response_headers: dict[str, str] = field(default_factory=dict)
    received: bytearray = field(default_factory=bytearray)
    lines: list[tuple[str, float]] = field(default_factory=list)
    expired: bool = False
    _line_start: int = 0
    _sockets: list[socket.socket] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        """Start the clock."""
        self._timer = threading.Timer(self.timeout_s, self.expire)
        self._timer.daemon = True
        self._start = time.perf_counter()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the timer, and break the circle of timer and call: its buffers are large."""
        self._timer.cancel()
        del self._timer

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note the connection when it is there (an httpx extension), to be able to end it."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        connection = info["return_value"].get_extra_info("socket")
        with self._lock:
            self._sockets.append(connection)
            late = self.expired
        if late:
            self.expire()

    def expire(self) -> None:
        """End the call: whatever it waits for fails now."""
        with self._lock:
            self.expired = True
            sockets = list(self._sockets)
        for connection in sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # already closed, or handed over to TLS
                continue

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._start) * 1000

    def feed(self, chunk: bytes) -> None:
        """Take bytes in and cut off the lines that they complete."""
        at_ms = self.elapsed_ms
        search = len(self.received)
        self.received += chunk
        while (end := self.received.find(b"\n", search)) >= 0:
            self._cut(end, at_ms)
            self._line_start = search = end + 1

    def _cut(self, end: int, at_ms: float) -> None:
        line = bytes(self.received[self._line_start : end]).removesuffix(b"\r")
        self.lines.append((line.decode("utf-8", "replace"), at_ms))

    def reply(self) -> StreamReply:
        """Make a reply of what arrived."""
        elapsed_ms = self.elapsed_ms
        if self._line_start < len(self.received):
            self._cut(len(self.received), elapsed_ms)
        return StreamReply(
            status=self.status or 0,
            headers=self.response_headers,
            body=bytes(self.received),
            elapsed_ms=elapsed_ms,
            exchange=self._exchange(elapsed_ms),
            lines=tuple(self.lines),
            max_values=self.max_values,
        )

    def failure(self, kind: str, message: str) -> TransportFailure:
        """Make a failure of what arrived; past the deadline everything is a timeout.

        The buffers are given up: a failed check may be kept for long, and there may be hundreds.
        """
        if self.expired:
            kind = "timeout"
            message = (
                f"no complete reply within {self.timeout_s:g} s "
                f"({len(self.received)} bytes of the body came)"
            )
        exchange = self._exchange(self.elapsed_ms, failure=f"{kind}: {message}")
        self.received, self.lines = bytearray(), []
        return TransportFailure(kind, message, exchange=exchange)

    def _exchange(self, elapsed_ms: float, *, failure: str = "") -> Exchange:
        return Exchange(
            method=self.method,
            url=self.url,
            request_headers=self.headers,
            request_body=_evidence(self.body),
            status=self.status,
            response_headers=tuple(self.response_headers.items()),
            response_body=_evidence(bytes(self.received)),
            elapsed_ms=elapsed_ms,
            failure=failure,
        )


def _evidence(body: bytes) -> str:
    return shorten(body.decode("utf-8", "replace"))
