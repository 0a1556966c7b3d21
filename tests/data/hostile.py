"""A server that becomes ready like vLLM and then does its worst: `hostile.py MODE`."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NASTY = "<script>alert(1)</script>\x1b[31m|`]]>&\u202e"
MEGABYTE = b"x" * 2**20


class Handler(BaseHTTPRequestHandler):
    """Answers the questions of the start properly, all later ones as its mode says."""

    protocol_version = "HTTP/1.1"
    mode = "html"
    lock = threading.Lock()

    def do_GET(self) -> None:
        proper: dict[str, Any] = {
            "/health": None,
            "/v1/models": {"object": "list", "data": [{"id": "m", "max_model_len": 2048}]},
            "/version": {"version": "0.32.0"},
        }
        if self.path in proper and not self._hostile(self.path):
            body = b"" if proper[self.path] is None else json.dumps(proper[self.path]).encode()
            self._answer(body)
        else:
            self._worst()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/v1/completions" and not self._hostile("first token"):
            document = {"choices": [{"text": " x"}], "usage": {"completion_tokens": 1}}
            self._answer(json.dumps(document).encode())
        else:
            self._worst()

    def _hostile(self, what: str) -> bool:
        """The first question of each kind gets a proper answer."""
        with self.lock:
            if what in KNOWN:
                return True
            KNOWN.add(what)
            return False

    def _answer(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _worst(self) -> None:
        self.close_connection = True
        try:
            getattr(self, f"_{self.mode.replace('-', '_')}")()
        except OSError:
            return

    def _head(self, kind: str) -> None:
        self.wfile.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n".encode())

    def _endless_stream(self) -> None:
        self._head("text/event-stream")
        chunk = {"id": "a", "object": "text_completion", "created": 1, "model": "m"}
        event = f"data: {json.dumps({**chunk, 'choices': []})}\n\n".encode()
        while True:
            self.wfile.write(event * 100)

    def _dripping_stream(self) -> None:
        self._head("text/event-stream")
        while True:
            self.wfile.write(b"d")
            self.wfile.flush()
            PAUSE.wait(0.2)

    def _huge_body(self) -> None:
        self._head("application/json")
        for _ in range(1024):
            self.wfile.write(MEGABYTE)

    def _deep_json(self) -> None:
        self._answer(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)

    def _wide_json(self) -> None:
        self._answer(b"[" + b"{}," * 300_000 + b"{}]")

    def _many_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.wfile.write(b"".join(b"x-%d: %d\r\n" % (n, n) for n in range(10_000)) + b"\r\n{}")

    def _endless_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            self.wfile.write(b"x-header: value\r\n" * 1000)

    def _html(self) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "text": NASTY, "finish_reason": NASTY, "logprobs": None}
        document = {"id": NASTY, "object": NASTY, "created": 1, "model": NASTY, "usage": usage}
        document |= {"choices": [choice], NASTY: NASTY, "error": {"message": NASTY, "type": NASTY}}
        self._answer(json.dumps(document, ensure_ascii=False).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


PAUSE = threading.Event()
KNOWN: set[str] = set()

if __name__ == "__main__":
    Handler.mode = sys.argv[1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
