"""The collector against servers on raw sockets: connections, order, limits, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.adapters.load.stamps import Stamps
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.columns import NEVER, Columns, Ending
from pytest_vllm.domain.load.plan import Limits, LoadPlan, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_vllm.domain.load.progress import Progress

MS = 1_000_000
LIMITS = Limits(request_s=20, stall_s=10, run_s=30, connect_s=5)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
WAIT_S = 20
RUNS_S = (0.3, 3, 15)
"""Tried in turn until the time was enough to send something on a busy host."""


def chunks(*data: object) -> bytes:
    texts = [b"data: " + (b"[DONE]" if one is None else json.dumps(one).encode()) for one in data]
    return b"".join(b"%x\r\n%b\n\n\r\n" % (len(text) + 2, text) for text in texts)


def token(text: str = " a") -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": None}]}


def usage(tokens: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": tokens}}


SOUND = STREAM + b"\r\n" + chunks(token(), token(), usage(2), None) + b"0\r\n\r\n"


class Server(socketserver.ThreadingTCPServer):
    """Answers each request as `reply(body, connection)` says; `None` closes the connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, reply: Callable[[bytes, socket.socket], bytes | None], host: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.reply = reply
        self.connections = 0
        self.heads: list[bytes] = []
        self.gone = threading.Event()
        super().__init__((host, 0), Handler)


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        with self.request.makefile("rb") as file:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = file.readline()
                    if not line:
                        self.server.gone.set()
                        return
                    head += line
                self.server.heads.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                raw = self.server.reply(file.read(length), self.request)
                if raw is None:
                    return
                self.request.sendall(raw)


@contextmanager
def serving(
    reply: Callable[[bytes, socket.socket], bytes | None], host: str = "127.0.0.1"
) -> Iterator[tuple[str, Server]]:
    with Server(reply, host) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        name = f"[{host}]" if ":" in host else host
        try:
            yield f"http://{name}:{server.server_address[1]}", server
        finally:
            server.shutdown()
            thread.join()


def plan(url: str, count: int, **fields: Any) -> LoadPlan:
    requests = tuple(Request(body=b'{"n": 1}') for _ in range(count))
    return LoadPlan(**({"url": url, "requests": requests, "limits": LIMITS} | fields))


def sound(columns: Columns) -> Columns:
    assert set(columns.ending) == {Ending.DONE}, columns.failures
    assert columns.facts is not None
    assert (columns.facts.path, columns.facts.reason) == ("epoll", "")
    return columns


def test_a_closed_loop_keeps_its_connections_and_has_all_times_in_order() -> None:
    with serving(lambda _body, _sock: SOUND) as (url, server):
        columns = sound(run_load(plan(url, 9, concurrency=3, headers={"Authorization": "x y"})))
    assert server.connections == 3
    assert all(b"authorization: x y\r\n" in head for head in server.heads)
    for row in range(9):
        assert columns.begin_ns <= columns.due_ns[row] <= columns.send_ns[row]
        times = columns.event_ns[columns.first_row[row] :][: columns.events[row]]
        assert len(times) == 2
        assert columns.send_ns[row] < columns.header_ns[row] <= times[0] <= times[1]
        assert times[1] <= columns.end_ns[row] <= columns.finish_ns
    assert list(columns.completion_tokens) == [2] * 9
    assert list(columns.prompt_tokens) == [2] * 9
    assert columns.facts is not None
    assert columns.facts.events == len(columns.event_ns) == 18
    assert columns.facts.reads >= 9
    assert columns.facts.cpu_s > 0


def test_a_server_that_closes_gets_a_new_connection() -> None:
    """By its word, and by HTTP/1.0, whose body lasts as long as the connection."""

    def closing(body: bytes, sock: socket.socket) -> bytes | None:
        if b"1.0" in body:
            end = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: "
            sock.sendall(end + json.dumps(token()).encode() + b"\n\ndata: [DONE]\n\n")
            return None
        return SOUND.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)

    with serving(closing) as (url, server):
        bodies = (b"1.1", b"1.0", b"1.1", b"1.0")
        requests = tuple(Request(body=body) for body in bodies)
        columns = sound(run_load(plan(url, 0, requests=requests, concurrency=1)))
    assert server.connections == 4
    assert list(columns.events) == [2, 1, 2, 1]


def test_a_reply_that_is_no_stream_is_one_event_at_its_end() -> None:
    """All its tokens come at once, when its last byte does."""
    text = usage(3) | {"choices": [{"text": "a b c", "finish_reason": "stop"}]}
    body = json.dumps(text | {"metrics": {"queue_time_ms": 2.5}}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with serving(lambda _body, _sock: head % len(body) + body) as (url, server):
        columns = sound(run_load(plan(url, 2, concurrency=1)))
    assert server.connections == 1
    assert list(columns.event_ns) == list(columns.end_ns)
    assert list(columns.event_tokens) == [3, 3]
    assert columns.finish == ["stop", "stop"]
    assert list(columns.server_ms["queue_time_ms"]) == [2.5, 2.5]


def test_a_long_request_is_sent_whole_to_a_slow_reader() -> None:
    """More than the sockets hold: the server answers with how much came."""
    size = 12 * 2**20

    def counting(body: bytes, _sock: socket.socket) -> bytes:
        return STREAM + b"\r\n" + chunks(token(), usage(len(body)), None) + b"0\r\n\r\n"

    with serving(counting) as (url, _):
        requests = (Request(body=b"x" * size), Request(body=b"short"))
        columns = sound(run_load(plan(url, 0, requests=requests, concurrency=2)))
    assert list(columns.completion_tokens) == [size, 5]


def test_an_open_loop_sends_when_each_request_is_due() -> None:
    """By their times, whatever their order in the plan."""
    due = [60, 20, 40, 0]
    with serving(lambda body, _sock: SOUND if body else None) as (url, _):
        requests = tuple(Request(body=b"x", due_ns=one * MS) for one in due)
        columns = sound(run_load(plan(url, 0, requests=requests)))
    assert [at - columns.begin_ns for at in columns.due_ns] == [one * MS for one in due]
    assert all(sent >= at for sent, at in zip(columns.send_ns, columns.due_ns, strict=True))
    assert sorted(range(4), key=lambda row: columns.send_ns[row]) == [3, 1, 2, 0]


def test_a_turn_waits_for_the_one_before_and_pauses() -> None:
    with serving(lambda _body, _sock: SOUND) as (url, server):
        requests = (
            Request(body=b"1"),
            Request(body=b"2", after=0, pause_ns=30 * MS),
            Request(body=b"other"),
        )
        columns = sound(run_load(plan(url, 0, requests=requests, concurrency=1)))
    assert columns.due_ns[1] == columns.end_ns[0] + 30 * MS
    assert columns.due_ns[2] == columns.end_ns[1]
    assert server.connections == 1


def test_a_ramp_opens_one_place_after_the_other() -> None:
    with serving(lambda _body, _sock: SOUND) as (url, _):
        columns = sound(run_load(plan(url, 2, concurrency=2, ramp_s=0.05)))
    assert columns.due_ns[0] == columns.begin_ns
    assert columns.due_ns[1] <= columns.begin_ns + 25 * MS


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_names_and_addresses_of_both_kinds(host: str) -> None:
    """A name leads to two addresses, of which the first may refuse."""
    listens = "127.0.0.1" if host == "localhost" else host
    with serving(lambda _body, _sock: SOUND, listens) as (url, server):
        sound(run_load(plan(url.replace("127.0.0.1", host), 3, concurrency=2)))
    assert f"host: {'[::1]' if host == '::1' else host}:".encode() in server.heads[0]


def test_progress_is_told_while_it_runs() -> None:
    """A stalled request beside sound ones, which ends when the state of all three was told."""
    told: list[Progress] = []
    release = threading.Event()

    def tell(progress: Progress) -> None:
        told.append(progress)
        if (progress.in_flight, progress.done, progress.events) == (1, 2, 5):
            release.set()

    def some(body: bytes, sock: socket.socket) -> bytes | None:
        if body == b"stall":
            sock.sendall(STREAM + b"\r\n" + chunks(token()))
            release.wait(WAIT_S)
            return None
        return SOUND

    with serving(some) as (url, _):
        requests = (Request(body=b"stall"), Request(body=b"x"), Request(body=b"x"))
        columns = run_load(plan(url, 0, requests=requests, concurrency=2), progress=tell)
    assert list(columns.ending) == [Ending.TRUNCATED, Ending.DONE, Ending.DONE]
    assert list(columns.events) == [1, 2, 2]
    last = [progress for progress in told if progress.in_flight][-1]
    assert (last.planned, last.sent, last.in_flight, last.done, last.failed) == (3, 3, 1, 2, 0)
    assert last.events == 5
    assert last.ttft_p50_ms is not None
    assert last.tokens_per_s is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "ftp://127.0.0.1"}, "ftp://127.0.0.1"),
        ({"url": "http://127.0.0.1:99999"}, "99999"),
        ({"headers": {"a": "b\r\nc: d"}}, "header 'a'"),
        ({"headers": {"Content-Length": "3"}}, "Content-Length"),
        ({"concurrency": 0}, "waits for a place"),
        ({"requests": (Request(body=b"", after=0),)}, "request 0 waits for request 0"),
        ({"requests": (Request(body=b"", path="/a b", due_ns=0),)}, "'/a b'"),
        ({"url": "http://no-such-name.invalid"}, "no-such-name.invalid is not known"),
    ],
)
def test_a_plan_that_cannot_be_sent_is_the_users(fields: dict[str, Any], words: str) -> None:
    given = {"url": "http://127.0.0.1:1", "concurrency": 1} | fields
    with pytest.raises(TargetError, match=words):
        run_load(plan(count=1, **given))


def test_a_redirect_is_followed_by_the_other_client() -> None:
    """Nothing of the load was served before, and the record says which client it was."""

    def moved(_body: bytes, _sock: socket.socket) -> bytes:
        if server.heads[-1].startswith(b"POST /new"):
            return SOUND
        return b"HTTP/1.1 307 Moved\r\nlocation: /new\r\ncontent-length: 0\r\n\r\n"

    with serving(moved) as (url, server):
        columns = run_load(plan(url, 2, concurrency=1))
    assert set(columns.ending) == {Ending.DONE}, columns.failures
    assert columns.facts is not None
    assert columns.facts.path == "asyncio"
    assert "redirects" in columns.facts.reason


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"n": 2}', "asyncio"),
        (b'{"prompt": ["a", "b"]}', "asyncio"),
        (b'{"prompt": [1, 2], "n": 1}', "epoll"),
        (b'{"prompt": ["a"], "text": "\\"n\\": 3", "schema": {"n": 4}}', "epoll"),
    ],
)
def test_several_choices_go_to_the_other_client(body: bytes, path: str) -> None:
    with serving(lambda _body, _sock: SOUND) as (url, _):
        columns = run_load(plan(url, 0, requests=(Request(body=body),), concurrency=1))
    assert columns.facts is not None
    assert columns.facts.path == path


def test_what_was_not_sent_has_no_times() -> None:
    release = threading.Event()
    with serving(lambda _body, _sock: release.wait(WAIT_S) and None) as (url, server):
        for run_s in RUNS_S:
            columns = run_load(plan(url, 2, concurrency=1, limits=replace(LIMITS, run_s=run_s)))
            if server.heads:
                break
        release.set()
    assert list(columns.ending) == [Ending.CUT, Ending.UNSENT]
    assert columns.send_ns[1] == columns.end_ns[1] == NEVER
    assert columns.finish == ["", ""]


def test_a_time_is_that_of_the_arrival_not_of_the_read() -> None:
    """What comes while the collector is stopped came then, and not when it went on."""
    times: list[int] = []
    release = threading.Event()

    def tell(progress: Progress) -> None:
        if progress.events == 2:
            release.set()

    def stopping(_body: bytes, sock: socket.socket) -> None:
        sock.sendall(STREAM + b"\r\n" + chunks(token()))
        pid = collector()
        os.kill(pid, signal.SIGSTOP)
        while "T (stopped)" not in (Path("/proc") / str(pid) / "status").read_text():
            pass
        times.append(time.monotonic_ns())
        sock.sendall(chunks(token()))
        assert collector() == pid  # which takes the kernel longer than to deliver
        times.append(time.monotonic_ns())
        os.kill(pid, signal.SIGCONT)
        release.wait(WAIT_S)

    with serving(stopping) as (url, _):
        columns = run_load(plan(url, 1, concurrency=1), progress=tell)
    assert columns.facts is not None
    assert (columns.facts.clock, columns.facts.notes) == ("kernel", ())
    assert times[0] <= columns.event_ns[1] <= times[1]


def collector() -> int:
    """Process ID of the collector that this process started."""
    tasks = Path("/proc/self/task").glob("*/children")
    ours = [int(one) for task in tasks for one in task.read_text().split()]
    seen = [one for one in ours if b"load.worker" in Path(f"/proc/{one}/cmdline").read_bytes()]
    assert len(seen) == 1
    return seen[0]


def test_a_clock_that_is_set_is_noticed() -> None:
    stamps = Stamps()
    assert stamps.works
    assert not stamps.watch()
    shift = stamps.shift
    stamps.shift = stamps._first = shift - MS  # as it was before the clock was set on by 1 ms
    assert stamps.watch()
    stamps.close()
    assert abs(stamps.moved_ns - MS) < MS / 10
    assert abs(stamps.shift - shift) < MS / 10


RUN = """
import sys
from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.domain.load.plan import LoadPlan, Request
run_load(LoadPlan(url=sys.argv[1], requests=(Request(body=b""),), concurrency=1))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_collector_ends_with_who_asked_for_it(end: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C and a kill in mid-load: its connection closes, and no file stays."""
    came, release = threading.Event(), threading.Event()

    def hold(_body: bytes, sock: socket.socket) -> bytes | None:
        came.set()
        sock.settimeout(WAIT_S)
        assert sock.recv(1) == b""  # only the end of the client ends this
        release.set()
        return None

    with serving(hold) as (url, _):
        asking = subprocess.Popen(
            [sys.executable, "-c", RUN, url],
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        assert came.wait(WAIT_S)
        asking.send_signal(end)
        _, words = asking.communicate(timeout=WAIT_S)
        assert release.wait(WAIT_S)
    assert (b"KeyboardInterrupt" in words) == (end is signal.SIGINT)
    assert list(tmp_path.iterdir()) == []
