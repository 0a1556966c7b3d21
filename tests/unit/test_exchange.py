"""Replay scripts, run by a real shell with real curl against a real HTTP server."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.exchange import Exchange, replay_script, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Seen = list[tuple[str, str, dict[str, str], bytes]]


@pytest.fixture
def echo() -> Iterator[tuple[str, Seen]]:
    """Give a server that keeps what it is sent."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.append((self.command, self.path, headers, body))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"ok")

        do_GET = do_HEAD = do_DELETE = do_POST  # noqa: N815 - the server's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def replay(
    tmp_path: Path, *exchanges: Exchange, key_variable: str | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Write the script as the store does, and run it."""
    script = tmp_path / "replay.sh"
    script.write_text(replay_script(exchanges, key_variable=key_variable), encoding="utf-8")
    script.chmod(stat.S_IRWXU)
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [str(script)],
        env={**clean, "NO_PROXY": "*", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def post(base: str, body: str, path: str = "/v1/x", **changes: object) -> Exchange:
    headers = (("content-type", "application/json"),)
    fields = {"request_headers": headers, "request_body": body, **changes}
    return Exchange(method="POST", url=f"{base}{path}", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt": "It\'s \\"quoted\\" $HOME `id` $(id) \\\\ !"}',
        "line one\nline two\n\n",
        "@/etc/hostname",
        '{"prompt": "Grüße 🙂 日本"}',
        "tab\there, \r\n carriage return, %s %d \\n backslash, 'single'",
        "control \x01\x07\x1b[31m and NUL \x00 inside",
        "x" * 300_000,
        "y'\n" * 100_000,
        "-d evil",
    ],
    ids=["quotes", "lines", "at", "unicode", "escapes", "control", "long", "long-odd", "dash"],
)
def test_the_same_bytes_arrive(tmp_path: Path, echo: tuple[str, Seen], body: str) -> None:
    base, seen = echo
    done = replay(tmp_path, post(base, body))
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 OK" in done.stdout
    assert seen[0][3] == body.encode()


def test_bytes_that_are_not_utf_8_arrive(tmp_path: Path, echo: tuple[str, Seen]) -> None:
    base, seen = echo
    data = bytes(range(256)) + b"\xc3("
    replay(tmp_path, post(base, data.decode("utf-8", "surrogateescape")))
    assert seen[0][3] == data


def test_requests_come_in_order_with_method_path_and_headers(
    tmp_path: Path, echo: tuple[str, Seen]
) -> None:
    base, seen = echo
    path = "/v1/a/../models/a%2Fb?x=[1]&y={2}&z='q'"
    headers = (("x-quoted", """it's "5" $HOME"""), ("x-empty", ""))
    replay(
        tmp_path,
        Exchange(method="GET", url=f"{base}{path}", request_headers=headers),
        Exchange(method="HEAD", url=f"{base}/health"),
        Exchange(method="DELETE", url=base),
    )
    assert [(method, at) for method, at, _, _ in seen] == [
        ("GET", path),
        ("HEAD", "/health"),
        ("DELETE", "/"),
    ]
    assert seen[0][2]["x-quoted"] == """it's "5" $HOME"""
    assert seen[0][2]["x-empty"] == ""


def test_curl_adds_no_content_type(tmp_path: Path, echo: tuple[str, Seen]) -> None:
    base, seen = echo
    replay(tmp_path, post(base, "{}", request_headers=()), post(base, "{}"))
    assert "content-type" not in seen[0][2]
    assert seen[1][2]["content-type"] == "application/json"


def test_the_key_comes_out_of_the_environment(tmp_path: Path, echo: tuple[str, Seen]) -> None:
    base, seen = echo
    done = replay(tmp_path, post(base, "{}"), key_variable="MY_KEY", MY_KEY="a 'key' $x")
    assert done.returncode == 0
    assert seen[0][2]["authorization"] == "Bearer a 'key' $x"
    missing = replay(tmp_path, post(base, "{}"), key_variable="MY_KEY")
    assert missing.returncode != 0
    assert "MY_KEY" in missing.stderr
    assert len(seen) == 1


def test_a_key_of_the_check_itself_is_kept(tmp_path: Path, echo: tuple[str, Seen]) -> None:
    base, seen = echo
    own = post(base, "{}", request_headers=(("Authorization", "Bearer wrong"),))
    replay(tmp_path, own, key_variable="MY_KEY", MY_KEY="right")
    assert seen[0][2]["authorization"] == "Bearer wrong"


def test_base_url_redirects(tmp_path: Path, echo: tuple[str, Seen]) -> None:
    base, seen = echo
    replay(tmp_path, post("http://127.0.0.1:9", "{}", path="/v1/y"), BASE_URL=base)
    assert seen[0][1] == "/v1/y"


def test_a_hostile_url_runs_nothing(tmp_path: Path, echo: tuple[str, Seen]) -> None:
    base, _ = echo
    mark = tmp_path / "mark"
    for url in (f"http://$(touch {mark})/x", f"{base}/`touch {mark}`';touch {mark};'"):
        replay(tmp_path, Exchange(method="GET", url=url))
    assert not mark.exists()


def test_a_variable_that_is_no_name_is_left_out() -> None:
    exchange = Exchange(method="GET", url="http://h/")
    assert "Authorization" not in replay_script((exchange,), key_variable="A}$(id)")


def test_a_body_of_which_evidence_holds_a_part_is_not_sent(
    tmp_path: Path, echo: tuple[str, Seen]
) -> None:
    base, seen = echo
    done = replay(tmp_path, post(base, shorten("x" * 50_000)))
    assert seen == []
    assert "only a part" in done.stderr


def test_a_check_without_requests_has_an_empty_script(tmp_path: Path) -> None:
    assert replay(tmp_path).returncode == 0


def test_shorten_says_how_much_is_missing() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcdef", 3) == "abc... [3 more characters]"
