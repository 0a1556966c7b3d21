"""The truth server's streams: what is written to one client, and what steps of an engine do."""

from __future__ import annotations

import select
import time
from array import array
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load import truth_wire as wire

if TYPE_CHECKING:
    import socket

    from pytest_vllm.adapters.load.truth_server import Server

LOG_ROWS = 4_000_000
"""Writes that are logged at most (36 B each); later ones are only counted."""

COLUMNS = (
    ("request", "I"),
    ("tag", "i"),
    ("event", "i"),
    ("events", "i"),
    ("due_ns", "q"),
    ("before_ns", "q"),
    ("after_ns", "q"),
)
"""The log: one row for each write, see `truth.TruthLog`."""

_READ = 2**18
_now = time.monotonic_ns


class Log:
    """What was written when."""

    def __init__(self) -> None:
        self.columns = tuple(array(code) for _name, code in COLUMNS)
        self.dropped = 0

    def add(self, *row: int) -> None:
        """Note a write."""
        if len(self.columns[0]) >= LOG_ROWS:
            self.dropped += 1
            return
        for column, value in zip(self.columns, row, strict=True):
            column.append(value)


class Connection:
    """A client's connection, and the reply that is being written to it."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.came = bytearray()
        self.waiting = b""
        self.writing: wire.Writing | None = None
        self.keep = True
        self.leave = False
        self.closed = False
        self.number = 0
        self.tag = -1
        self.next = 0
        self.per_write = 1
        self.itl_ns = 0

    def readable(self) -> None:
        """Read what is there and answer what is complete."""
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.came += data
        self.serve()

    def serve(self) -> None:
        """Answer requests one after the other; a stream in between holds up the later ones."""
        try:
            while self.came and self.writing is None and not self.closed:
                if not self.leave and wire.waits_for_leave(self.came):
                    self.leave = True
                    self.send(wire.CONTINUE)
                taken = wire.take_request(self.came)
                if taken is None:
                    return
                self.leave = False
                path, body, self.keep = taken
                self.server.answer(self, path, body)
                self.end_if_last()
        except wire.BadRequestError as error:
            self.keep = False
            self.send(wire.fault(error.status, f"{error.status}: cannot be read"))
            self.end_if_last()

    def end_if_last(self) -> None:
        """Close where the client wants no more."""
        if self.writing is None and not self.keep and not self.waiting:
            self.close()

    def send(self, data: bytes) -> None:
        """Write, or keep what the client has no room for."""
        if self.closed:
            return
        if self.waiting:
            self.waiting += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self.waiting = data[sent:]
            self.server.poll.modify(self.sock, select.EPOLLIN | select.EPOLLOUT)

    def writable(self) -> None:
        """Write what was kept."""
        data, self.waiting = self.waiting, b""
        self.server.poll.modify(self.sock, select.EPOLLIN)
        self.send(data)
        self.end_if_last()

    def step(self, due: int) -> bool:
        """Write the next events and log it; `False` when that was the end of the reply."""
        writing = self.writing
        if self.closed or writing is None:
            return False
        first = self.next
        if first == 0:
            role = writing.role()
            if role:
                self.send(role)
        self.next = min(first + self.per_write, writing.events)
        if self.per_write == 1:
            data = writing.event(first)
        else:
            data = b"".join(map(writing.event, range(first, self.next)))
        before = _now()
        self.send(data)
        after = _now()
        self.server.log.add(self.number, self.tag, first, self.next - first, due, before, after)
        self.server.events += self.next - first
        if self.next < writing.events:
            return True
        usage = writing.usage()
        if usage:
            self.send(usage)
        self.send(wire.DONE)
        self.send(wire.END)
        self.writing = None
        self.end_if_last()
        return False

    def fire(self, due: int) -> int:
        """Write by this stream's own schedule; give the next moment, 0 at the end."""
        return due + int(self.itl_ns * self.server.noise.draw()) if self.step(due) else 0

    def close(self) -> None:
        """Forget the client."""
        if not self.closed:
            self.closed, self.waiting = True, b""
            self.server.connections.pop(self.sock.fileno(), None)
            self.sock.close()


class Engine:
    """Streams that are written at the same moments, as by the steps of an engine."""

    def __init__(self, server: Server, itl_ns: int) -> None:
        self.server = server
        self.itl_ns = itl_ns
        self.streams: list[tuple[int, Connection]] = []
        self.running = False

    def join(self, stream: Connection, ready_ns: int) -> None:
        """Have a stream written from the first step on that begins after it is ready."""
        self.streams.append((ready_ns, stream))
        if not self.running:
            self.running = True
            self.server.schedule(-(-ready_ns // self.itl_ns) * self.itl_ns, self)

    def fire(self, due: int) -> int:
        """Make a step of all streams that are ready; give the next moment, 0 without streams."""
        going = []
        for ready, stream in self.streams:
            if ready > due or stream.step(due):
                going.append((ready, stream))
            elif stream.came:
                stream.serve()
        self.streams, self.running = going, bool(going)
        step = max(1, int(self.itl_ns * self.server.noise.draw()))
        missed = (_now() - due) // step  # an engine makes no step before the last has ended
        return due + max(1, missed) * step if going else 0
