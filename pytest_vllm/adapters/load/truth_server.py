"""The truth server's own process: one loop that writes by a schedule and logs each write.

It is started by `truth.TruthServer` with one end of a socket pair as its only argument. When the
other end closes, it ends; so it never outlives whoever started it.
"""

from __future__ import annotations

import heapq
import json
import resource
import select
import socket
import sys
import time
from dataclasses import replace
from typing import Any, Protocol

from pytest_vllm.adapters.load import truth_wire as wire
from pytest_vllm.adapters.load.timer import Timer, tight_timers
from pytest_vllm.adapters.load.truth_schedule import FIELDS, Noise, Schedule
from pytest_vllm.adapters.load.truth_stream import Connection, Engine, Log

_now = time.monotonic_ns


class Timed(Protocol):
    """What is called when it is due."""

    def fire(self, due: int) -> int:
        """Do what is due; give the next moment, 0 for none."""


class Server:
    """The loop."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.poll = select.epoll()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.settimeout(0)
        self.connections: dict[int, Connection] = {}
        self.log = Log()
        self.preset = Schedule()
        self.noise = Noise(self.preset)
        self.requests = 0
        self.events = 0
        self._said = b""
        self._timed: list[tuple[int, int, Timed]] = []
        self._turn = 0
        self._timer = Timer()
        self._floods: list[Connection] = []
        self._engines: dict[int, Engine] = {}

    def run(self) -> None:
        """Serve until whoever started it is gone."""
        port = self.listener.getsockname()[1]
        self.control.sendall(json.dumps({"port": port}).encode() + b"\n")
        self.poll.register(self.control, select.EPOLLIN)
        self.poll.register(self.listener, select.EPOLLIN)
        self.poll.register(self._timer.fd, select.EPOLLIN)
        control, listener = self.control.fileno(), self.listener.fileno()
        while True:
            for number, mask in self.poll.poll(self._patience()):
                if number == control:
                    if not self._obey():
                        return
                elif number == listener:
                    self._accept()
                elif number == self._timer.fd:
                    self._timer.fired()
                else:
                    connection = self.connections.get(number)
                    if connection is not None and mask & select.EPOLLOUT:
                        connection.writable()
                    if connection is not None and mask & ~select.EPOLLOUT and not connection.closed:
                        connection.readable()
            self._fire()
            self._flood()

    def schedule(self, due: int, timed: Timed) -> None:
        """Have something called when it is due."""
        self._turn += 1
        heapq.heappush(self._timed, (due, self._turn, timed))

    def answer(self, client: Connection, path: str, body: bytes) -> None:
        """Answer one request, or begin to."""
        path = path.partition("?")[0]
        if path in {"/v1/completions", "/v1/chat/completions"}:
            asked = _object(body)
            if asked is None:
                client.send(wire.fault("400 Bad Request", "the body is no JSON object"))
                return
            self._begin(client, asked, chat="chat" in path)
        elif path == "/tokenize":
            count = wire.count_tokens(_object(body) or {})
            told = {
                "count": count,
                "max_model_len": wire.MAX_MODEL_LEN,
                "tokens": list(range(count)),
            }
            client.send(wire.answer("200 OK", json.dumps(told).encode()))
        else:
            client.send(_ANSWERS.get(path, _NOT_FOUND))

    def _begin(self, client: Connection, asked: dict[str, Any], *, chat: bool) -> None:
        came = _now()
        changes: dict[str, Any] = {
            own: type(getattr(self.preset, own))(asked[field])
            for field, own in FIELDS.items()
            if isinstance(asked.get(field), int)
        }
        schedule = replace(self.preset, **changes)
        most = asked.get("max_completion_tokens") or asked.get("max_tokens") or schedule.tokens
        tokens = schedule.tokens if "stub_n" in asked else most
        if not isinstance(tokens, int) or tokens < 1:
            client.send(wire.fault("400 Bad Request", "max_tokens must be a number from 1"))
            return
        self.requests += 1
        client.number = self.requests
        client.tag = asked["stub_tag"] if isinstance(asked.get("stub_tag"), int) else -1
        writing = wire.Writing(
            number=client.number,
            chat=chat,
            asked=asked,
            tokens=tokens,
            per_event=max(1, schedule.tokens_per_event),
        )
        if not asked.get("stream"):
            client.send(writing.whole())
            return
        client.send(wire.STREAM_HEAD)
        client.writing, client.next = writing, 0
        client.per_write = max(1, schedule.events_per_write)
        client.itl_ns = schedule.itl_us * 1000
        if schedule.ttft_us <= 0 and schedule.itl_us <= 0:
            self._floods.append(client)
            return
        ready = came + int(schedule.ttft_us * 1000 * self.noise.draw())
        if schedule.grid and client.itl_ns > 0:
            engine = self._engines.get(client.itl_ns)
            if engine is None:
                engine = self._engines[client.itl_ns] = Engine(self, client.itl_ns)
            engine.join(client, ready)
        else:
            self.schedule(ready, client)

    def _patience(self) -> float:
        """Say how long to listen; the timer is among what is listened to."""
        self._timer.at(self._timed[0][0] if self._timed else None)
        return 0.0 if any(not stream.waiting for stream in self._floods) else -1.0

    def _fire(self) -> None:
        while self._timed and self._timed[0][0] <= _now():
            due, _turn, timed = heapq.heappop(self._timed)
            following = timed.fire(due)
            if following:
                self.schedule(following, timed)
            elif isinstance(timed, Connection) and timed.came:
                timed.serve()

    def _flood(self) -> None:
        """Write once to each stream that has room."""
        ended = False
        for stream in self._floods:
            if not stream.waiting and not stream.step(0):
                ended = True
        if ended:
            over = [stream for stream in self._floods if stream.closed or stream.writing is None]
            self._floods = [stream for stream in self._floods if stream not in over]
            for stream in over:
                if stream.came and not stream.closed:
                    stream.serve()

    def _accept(self) -> None:
        for _ in range(64):
            try:
                sock, _address = self.listener.accept()
            except OSError:  # none is left, or no file descriptor: the client waits
                return
            sock.settimeout(0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[sock.fileno()] = Connection(self, sock)
            self.poll.register(sock, select.EPOLLIN)

    def _obey(self) -> bool:
        """Do what the other end asks for; `False` when it is gone."""
        data = self.control.recv(65536)
        if not data:
            return False
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            told: dict[str, Any] = {}
            rows: tuple[bytes, ...] = ()
            if order["do"] == "set":
                self.preset = Schedule(**order["schedule"])
                self.noise = Noise(self.preset)
            elif order["do"] == "log":
                rows = tuple(column.tobytes() for column in self.log.columns)
                used = resource.getrusage(resource.RUSAGE_SELF)
                told = {
                    "sizes": [len(row) for row in rows],
                    "dropped": self.log.dropped,
                    "requests": self.requests,
                    "events": self.events,
                    "cpu_s": used.ru_utime + used.ru_stime,
                }
                self.log, self.requests, self.events = Log(), 0, 0
            self.control.sendall(json.dumps(told).encode() + b"\n" + b"".join(rows))
        return True


_MODEL = {
    "id": wire.MODEL,
    "object": "model",
    "created": wire.CREATED,
    "owned_by": "vllm",
    "root": wire.MODEL,
    "parent": None,
    "max_model_len": wire.MAX_MODEL_LEN,
    "permission": [],
}
_MODELS = json.dumps({"object": "list", "data": [_MODEL]}).encode()
_ANSWERS = {
    "/health": wire.answer("200 OK"),
    "/ping": wire.answer("200 OK"),
    "/version": wire.answer("200 OK", b'{"version":"0.32.0"}'),
    "/v1/models": wire.answer("200 OK", _MODELS),
}
_NOT_FOUND = wire.answer("404 Not Found", b'{"detail":"Not Found"}')


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return asked if isinstance(asked, dict) else None


def main() -> None:
    """Serve whoever holds the other end of the socket named by number."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tight_timers()
    Server(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
