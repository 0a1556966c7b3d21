"""A reverse proxy that breaks one thing: a real server with a known defect.

It speaks HTTP/1.1, passes streams on event by event, and is made of the standard library only.
"""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_HOP_BY_HOP = ("connection", "content-length", "keep-alive", "transfer-encoding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete reply, not a stream.

    Attributes:
        path: Path of the request.
        status: HTTP status.
        headers: Headers, names in lower case.
        body: Body.
    """

    path: str
    status: int
    headers: dict[str, str]
    body: bytes

    def with_json(self, change: Callable[[dict[str, Any]], object]) -> Answer:
        """Change the JSON object of the body in place."""
        document = json.loads(self.body)
        change(document)
        return replace(self, body=json.dumps(document).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One way to be broken.

    Attributes:
        name: What is wrong.
        trips: IDs of the MUST checks that must notice.
        request: Changes the JSON body of a request in place.
        answer: Changes a complete reply.
        events: Changes the events of a stream, each the text after `data: `.
    """

    name: str
    trips: tuple[str, ...]
    request: Callable[[dict[str, Any]], object] = field(default=lambda _body: None)
    answer: Callable[[Answer], Answer] = field(default=lambda answer: answer)
    events: Callable[[Iterable[str]], Iterable[str]] = field(default=lambda events: events)


@contextmanager
def proxy(upstream: str, defect: Defect) -> Iterator[str]:
    """Put a defect in front of a server and give the URL where it answers."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.upstream = urlsplit(upstream).netloc
    server.defect = defect
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    upstream: str
    defect: Defect


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        self.close_connection = True
        super().handle_one_request()

    def do_GET(self) -> None:
        self._forward()

    def do_POST(self) -> None:
        self._forward()

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        connection = http.client.HTTPConnection(self.server.upstream, timeout=120)
        try:
            connection.request(self.command, self.path, self._changed(body), self._headers())
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            if headers.get("content-type", "").startswith("text/event-stream"):
                self._send_events(response, headers)
            else:
                self._send_answer(
                    Answer(
                        path=self.path,
                        status=response.status,
                        headers=headers,
                        body=response.read(),
                    )
                )
        finally:
            connection.close()
        self.close_connection = True

    def _headers(self) -> dict[str, str]:
        return {
            name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP
        }

    def _changed(self, body: bytes) -> bytes:
        try:
            document = json.loads(body)
        except ValueError:
            return body
        if isinstance(document, dict):
            self.server.defect.request(document)
        return json.dumps(document).encode()

    def _send_answer(self, answer: Answer) -> None:
        answer = self.server.defect.answer(answer)
        self._send_head(answer.status, answer.headers, "content-length", str(len(answer.body)))
        self.wfile.write(answer.body)

    def _send_events(self, response: http.client.HTTPResponse, headers: dict[str, str]) -> None:
        self._send_head(response.status, headers, "transfer-encoding", "chunked")
        for event in self.server.defect.events(_events(response)):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _send_head(self, status: int, headers: dict[str, str], name: str, value: str) -> None:
        self.send_response_only(status)
        for header, text in headers.items():
            if header not in _HOP_BY_HOP:
                self.send_header(header, text)
        self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the evidence of the run under test tells what was sent."""


def _events(response: http.client.HTTPResponse) -> Iterator[str]:
    while line := response.readline():
        if line.startswith(b"data: "):
            yield line.decode().removeprefix("data: ").rstrip("\n")
