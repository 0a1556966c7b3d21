"""The truth server: what it writes, when by its own log, and that it leaves nothing behind."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from pytest_vllm.adapters.load.truth import Schedule, TruthServer
from pytest_vllm.adapters.load.truth_schedule import Noise
from pytest_vllm.adapters.schemas import violations
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = Schedule(ttft_us=2_000, itl_us=1_000, tokens=5)


@pytest.fixture(scope="module")
def server() -> Iterator[TruthServer]:
    with TruthServer(QUICK) as running:
        yield running


def ask(server: TruthServer, path: str, **body: Any) -> tuple[int, bytes]:
    where = urlsplit(server.url).netloc
    with closing(http.client.HTTPConnection(where, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def events(body: bytes) -> list[Any]:
    texts = [one.removeprefix("data: ") for one in body.decode().split("\n\n") if one]
    assert texts.pop() == "[DONE]"
    return [json.loads(text) for text in texts]


def test_a_stream_has_the_tokens_and_the_shape_that_were_asked_for(server: TruthServer) -> None:
    asked = {
        "prompt": [1, 2, 3],
        "max_tokens": 40,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    status, body = ask(server, "/v1/completions", **asked)
    *chunks, usage = events(body)
    assert status == 200
    assert len(chunks) == 40
    assert sum(len(chunk["choices"][0]["token_ids"]) for chunk in chunks) == 40
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * 39 + ["length"]
    counted = {"prompt_tokens": 3, "total_tokens": 43, "completion_tokens": 40}
    assert (usage["choices"], usage["usage"]) == ([], counted)
    assert [violations("completions/chunk", chunk) for chunk in (*chunks, usage)] == [[]] * 41


def test_a_chat_begins_with_its_role_and_usage_may_run_along(server: TruthServer) -> None:
    asked = {
        "messages": [{"role": "user", "content": "two words"}],
        "max_completion_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "stub_tokens_per_event": 3,
    }
    _status, body = ask(server, "/v1/chat/completions", **asked)
    role, *chunks, usage = events(body)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [3, 6, 7]
    assert usage["usage"]["prompt_tokens"] == 2
    assert [violations("chat/chunk", chunk) for chunk in (role, *chunks, usage)] == [[]] * 5


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_whole_reply_says_the_same_as_a_stream(server: TruthServer, path: str) -> None:
    asked = {"prompt": "a b", "messages": [], "max_tokens": 3}
    whole = json.loads(ask(server, path, **asked)[1])
    chunks = events(ask(server, path, stream=True, **asked)[1])
    parts = [chunk["choices"][0] for chunk in chunks]
    said = whole["choices"][0]
    if "chat" in path:
        streamed = "".join(part["delta"]["content"] for part in parts)
        assert said["message"]["content"] == streamed
    else:
        assert said["text"] == "".join(part["text"] for part in parts)
    assert whole["usage"]["completion_tokens"] == 3
    assert violations("chat/response" if "chat" in path else "completions/response", whole) == []


def test_other_questions_are_answered_or_refused(server: TruthServer) -> None:
    assert ask(server, "/health") == (200, b"")
    models = json.loads(ask(server, "/v1/models")[1])
    assert [model["id"] for model in models["data"]] == ["truth"]
    assert json.loads(ask(server, "/tokenize", prompt="one two three")[1])["count"] == 3
    assert ask(server, "/nowhere")[0] == 404
    assert ask(server, "/v1/completions", max_tokens=0)[0] == 200  # 0 is "not said", as in a stub
    assert ask(server, "/v1/completions", max_tokens=-1)[0] == 400
    assert ask(server, "/v1/completions", max_tokens="many")[0] == 400


def talk(server: TruthServer, *parts: bytes, until: bytes) -> bytes:
    """Send parts, each after the server had its turn, and read up to some bytes."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as sock:
        came = b""
        for part in parts:
            sock.sendall(part)
            if b"100-continue" in part:
                came += sock.recv(65536)
        while until not in came:
            data = sock.recv(65536)
            if not data:
                break
            came += data
    return came


def test_it_speaks_as_much_http_as_clients_do(server: TruthServer) -> None:
    """Several requests on a connection, a body in chunks, a body that waits for leave."""
    body = b'{"prompt":"a","max_tokens":2}'
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
    sized = b"content-length: %d\r\n" % len(body)
    twice = talk(server, (head + sized + b"\r\n" + body) * 2 + b"BYE\r\n\r\n", until=b" 400 ")
    assert twice.count(b"200 OK") == 2
    chunked = b"transfer-encoding: chunked\r\n\r\n5;x=y\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n"
    in_parts = chunked % (body[:5], len(body) - 5, body[5:])
    assert b'completion_tokens":2' in talk(server, head + in_parts, until=b"}}")
    waits = talk(server, head + sized + b"expect: 100-continue\r\n\r\n", body, until=b"}}")
    assert waits.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert b" 413 " in talk(server, head + b"content-length: 99999999999\r\n\r\n", until=b"}}")
    assert b" 431 " in talk(server, head + b"x: " + b"y" * 70_000, until=b"}}")
    assert b" 400 " in talk(server, head + b"content-length: 2\r\n\r\n[]", until=b"}}")


def test_the_log_tells_each_write_of_a_request_by_its_tag(server: TruthServer) -> None:
    server.log()
    began = time.monotonic_ns()
    asked = {"prompt": "a", "max_tokens": 10, "stream": True, "stub_burst": 4, "stub_tag": 7}
    ask(server, "/v1/completions", **asked)
    ended = time.monotonic_ns()
    log = server.log()
    assert list(log.tag) == [7, 7, 7]
    assert list(log.event) == [0, 4, 8]
    assert list(log.events) == [4, 4, 2]
    assert (log.requests, log.written, log.dropped) == (1, 10, 0)
    assert len(log.by_tag()[7]) == 10
    moments = [one for pair in zip(log.before_ns, log.after_ns, strict=True) for one in pair]
    assert [began, *moments, ended] == sorted([began, *moments, ended])
    assert all(late >= 0 for late in log.lateness_ns())
    gaps = [after - before for before, after in pairwise(log.due_ns)]
    assert gaps == [1_000_000] * 2
    assert len(server.log().tag) == 0  # it was taken


def test_a_grid_writes_all_streams_at_the_same_moments(server: TruthServer) -> None:
    server.log()
    where = urlsplit(server.url).netloc
    asked = {"prompt": "a", "max_tokens": 6, "stream": True, "stub_grid": 1, "stub_itl_us": 5000}
    with ExitStack() as stack:
        clients = [http.client.HTTPConnection(where, timeout=30) for _ in range(3)]
        for client in clients:
            stack.enter_context(closing(client)).request(
                "POST", "/v1/completions", json.dumps(asked)
            )
        assert all(b"[DONE]" in client.getresponse().read() for client in clients)
    log = server.log()
    assert len(log.due_ns) == 18
    assert all(due % 5_000_000 == 0 for due in log.due_ns)


def test_a_flood_waits_for_a_client_that_does_not_read(server: TruthServer) -> None:
    """What the client has no room for is not made: the memory of the server stays what it is."""
    asked = {"prompt": "a", "stream": True, "stub_n": 20_000, "stub_ttft_us": 0, "stub_itl_us": 0}
    body = json.dumps(asked).encode()
    head = b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n"
    where = urlsplit(server.url)
    server.log()
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as sock:
        sock.sendall(head % len(body) + body)
        assert ask(server, "/health")[0] == 200  # it serves others meanwhile
        came = bytearray()
        while not came.endswith(b"0\r\n\r\n"):
            came += sock.recv(2**20)
    assert came.count(b'"text"') == 20_000 == server.log().written


def test_noise_is_of_its_seed_and_of_its_size() -> None:
    exact = Noise(Schedule(factor=1.05))
    assert {exact.draw() for _ in range(5)} == {1.05}
    noisy = Schedule(step_cv=0.02, drift_cv=0.04, drift_rho=0.9, seed=3)
    first, second = Noise(noisy), Noise(noisy)
    drawn = [first.draw() for _ in range(4000)]
    assert drawn == [second.draw() for _ in range(4000)]
    mean = sum(drawn) / len(drawn)
    spread = (sum((one - mean) ** 2 for one in drawn) / len(drawn)) ** 0.5
    assert spread == pytest.approx((0.02**2 + 0.04**2) ** 0.5, rel=0.15)
    centred = [one - mean for one in drawn]
    lag = sum(a * b for a, b in pairwise(centred)) / sum(one * one for one in centred)
    assert lag == pytest.approx(0.9 * 0.8, abs=0.1)  # the drift is 80 % of the variance


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """The server ends with the context, and also when whoever started it is killed."""
    with TruthServer(QUICK) as running:
        pid = running.pid
        assert not gone(pid)
    assert gone(pid)
    script = tmp_path / "starts.py"
    script.write_text(
        "import sys\n"
        "from pytest_vllm.adapters.load.truth import TruthServer\n"
        "with TruthServer() as server:\n"
        "    print(server.pid, flush=True)\n"
        "    sys.stdin.read()\n",
        encoding="utf-8",
    )
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        # Its end is seen on a descriptor, so that nobody has to look again and again.
        watch = os.pidfd_open(pid)
        process.kill()
        assert select.select([watch], [], [], 30)[0]
        os.close(watch)


def test_a_server_that_ended_is_the_fault_of_the_host() -> None:
    with TruthServer(QUICK) as running:
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(HostError, match="the truth server, which the client is calibrated"):
            running.log()
