"""Stands where vLLM's server module stands, starts in no time, and misbehaves as `--mode` says."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

STALL_S = 0.6
STALLS = {"/health": 5}
HTML = "<html><body>It works!</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Answers the few routes that a start needs."""

    mode = "serve"
    model = ""
    asked: ClassVar[Counter[str]] = Counter()

    def log_message(self, *_: object) -> None:
        """Note a request as uvicorn does, for a server that is sick."""
        if self.mode == "sick":
            print(f'INFO:     127.0.0.1:1 - "{self.requestline}" 500', flush=True)

    def answer(self, status: int, value: Any, kind: str = "application/json") -> None:
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stand_still(self) -> None:
        """Hold up the first request of each path as a busy host does, or all for the models."""
        if self.mode == "silent-models" and self.path == "/v1/models":
            signal.pause()
        self.asked[self.path] += 1
        if self.mode == "stalls" and self.asked[self.path] <= STALLS.get(self.path, 1):
            time.sleep(STALL_S)

    def do_GET(self) -> None:
        self.stand_still()
        key = os.environ.get("VLLM_API_KEY")
        if self.mode == "html":
            self.answer(200, HTML, "text/html")
        elif self.path == "/health":
            self.answer(500 if self.mode == "sick" else 200, "")
        elif self.mode == "key" and self.headers.get("authorization") != f"Bearer {key}":
            self.answer(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            names = [self.model, "second"]
            data = [{"id": name, "max_model_len": 64} for name in names]
            self.answer(200, {"object": "list", "data": data})
        elif self.path == "/version" and self.mode != "not-vllm":
            self.answer(200, {"version": "0.0.1"})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.stand_still()
        if self.path == "/v1/completions":
            if self.mode == "silent-at-first-token":
                signal.pause()
            if self.mode == "die-at-first-token":
                print("ValueError: the kernel broke", flush=True)
                os._exit(0)
            count = 2 if self.mode == "two-tokens" else 1
            self.answer(200, {"choices": [{"text": "a"}], "usage": {"completion_tokens": count}})
        elif self.mode == "no-template":
            message = "you must provide a chat template"
            self.answer(400, {"error": {"message": message}})
        elif self.mode == "no-chat":
            self.answer(404, {"detail": "Not Found"})
        elif self.mode == "broken-chat":
            self.answer(500, {"error": {"message": "boom"}})
        else:
            self.answer(200, {"choices": []})


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--host", "--mode", "--note"):
        parser.add_argument(name, default="")
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    if args.mode.startswith("play"):
        sys.stdout.buffer.write(Path(args.note).read_bytes())
    print("non-default args: none", flush=True)
    if args.mode == "raise":
        raise ValueError("no such quantization")
    if args.mode == "exit-0":
        sys.exit(0)
    if args.mode in ("hang", "play-and-hang"):
        signal.pause()
    if args.mode == "play-and-end":
        sys.exit(1)
    if args.mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    if args.mode == "orphan":
        subprocess.Popen(
            [sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True
        )
        sys.exit(3)
    if args.mode == "binary":
        sys.stdout.buffer.write(b"\xff\xfe 10%\r 20%\r\n")
    Handler.mode, Handler.model = args.mode, args.model
    server = ThreadingHTTPServer((args.host, args.port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
