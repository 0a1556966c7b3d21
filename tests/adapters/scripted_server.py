"""A server on loopback that answers by a function and remembers what it was asked."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(kw_only=True)
class Reply:
    """What is answered.

    Attributes:
        status: HTTP status.
        body: Body.
        headers: Headers.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Asked:
    """What came in."""

    method: str
    path: str
    authorization: str
    body: bytes


@dataclass(kw_only=True)
class Script:
    """A server that answers by a function.

    Attributes:
        answer: Makes a reply of a request.
        asked: All requests.
        hang: Set when the server ends; who waits for it answers nothing before.
    """

    answer: Callable[[Asked], Reply]
    asked: list[Asked] = field(default_factory=list)
    hang: threading.Event = field(default_factory=threading.Event)
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            return
        length = int(self.headers.get("content-length") or 0)
        asked = Asked(
            method=self.command,
            path=self.path,
            authorization=self.headers.get("authorization") or "",
            body=self.rfile.read(length),
        )
        self.script.asked.append(asked)
        reply = Reply() if self.path == "/v2/" else self.script.answer(asked)
        self.send_response(reply.status)
        for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)
        self.wfile.flush()


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[Script]:
    """Serve on loopback."""
    script = Script(answer=answer)
    handler = type("Handler", (_Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    script.address = f"127.0.0.1:{server.server_address[1]}"
    try:
        yield script
    finally:
        script.hang.set()
        server.shutdown()
        server.server_close()
        thread.join()
