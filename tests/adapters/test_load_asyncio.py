"""The load through a kept library: what only it can do, and the same columns as the collector's."""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.load.asyncio_path import run_asyncio
from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.adapters.load.truth import Schedule, TruthServer
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.load.columns import NEVER, Ending
from pytest_vllm.domain.load.plan import Limits, LoadPlan, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_vllm.domain.load.progress import Progress

MISBEHAVING = Path(__file__).parents[1] / "data" / "misbehaving.py"
LIMITS = Limits(request_s=30, stall_s=20, run_s=60)
QUICK = Schedule(ttft_us=5_000, itl_us=2_000)
MS = 1_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[TruthServer]:
    with TruthServer(QUICK) as running:
        yield running


def request(tag: int, *, tokens: int = 4, **fields: Any) -> Request:
    body = {"prompt": "a b", "max_tokens": tokens, "stream": True, "stub_tag": tag}
    body["stream_options"] = {"include_usage": True}
    return Request(body=json.dumps(body).encode(), want_tokens=tokens, **fields)


def plan(url: str, *requests: Request, **fields: Any) -> LoadPlan:
    return LoadPlan(url=url, requests=requests, limits=LIMITS, **fields)


def test_the_columns_hold_what_was_written(server: TruthServer) -> None:
    """Every event of every request, none before its write; how it was measured is told."""
    server.log()
    told: list[Progress] = []
    requests = [request(tag, tokens=3 + tag) for tag in range(6)]
    columns = run_asyncio(
        plan(server.url, *requests, concurrency=2), progress=told.append, reason="a test"
    )
    written = server.log().by_tag()
    for row in range(6):
        start, count = columns.first_row[row], columns.events[row]
        times = columns.event_ns[start : start + count]
        assert columns.ending[row] == Ending.DONE
        assert count == columns.completion_tokens[row] == 3 + row
        assert columns.prompt_tokens[row] == 2
        assert columns.finish[row] == "length"
        assert all(came > put for came, put in zip(times, written[row], strict=True))
        order = [columns.due_ns[row], columns.send_ns[row], columns.header_ns[row], times[0]]
        order += [times[-1], columns.end_ns[row]]
        assert order == sorted(order)
    facts = columns.facts
    assert facts is not None
    assert (facts.path, facts.clock, facts.reason) == ("asyncio", "user", "a test")
    assert facts.events == sum(columns.events) == len(columns.event_ns)
    assert 0 < facts.coalesced_reads + facts.reads <= 2 * facts.events
    assert facts.cpu_s > 0
    assert columns.begin_ns < columns.finish_ns
    assert (told[-1].done, told[-1].failed, told[-1].in_flight) == (6, 0, 0)
    assert told[-1].events == facts.events


def test_requests_wait_for_their_time_place_and_predecessor(server: TruthServer) -> None:
    """A schedule is not bent by how long replies take; a turn waits for the one before."""
    timed = [request(n, due_ns=n * 15 * MS) for n in range(4)]
    turn = request(4, after=0, pause_ns=30 * MS)
    columns = run_asyncio(plan(server.url, *timed, turn))
    begin = columns.begin_ns
    assert list(columns.due_ns[:4]) == [begin + n * 15 * MS for n in range(4)]
    assert columns.due_ns[4] == columns.end_ns[0] + 30 * MS
    assert all(map(int.__ge__, columns.send_ns, columns.due_ns))
    one = run_asyncio(plan(server.url, *(request(n) for n in range(3)), concurrency=1))
    ends = [*zip(one.send_ns, one.end_ns, strict=True)]
    assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_a_reply_in_one_piece_is_one_event(server: TruthServer) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 5}).encode()
    columns = run_asyncio(plan(server.url, Request(body=body, want_tokens=5), concurrency=1))
    assert list(columns.ending) == [Ending.DONE]
    assert (columns.events[0], columns.event_tokens[0], columns.completion_tokens[0]) == (1, 5, 5)


@contextmanager
def serving(
    handle: Callable[[bytes], bytes], *, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Answer each request by a function of its head, on a thread of its own."""
    started = threading.Event()
    state: dict[str, Any] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                writer.write(handle(head))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def main() -> None:
        state["stop"] = asyncio.Event()
        state["loop"] = asyncio.get_running_loop()
        listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        state["port"] = listener.sockets[0].getsockname()[1]
        started.set()
        await state["stop"].wait()
        listener.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    started.wait()
    yield state["port"]
    state["loop"].call_soon_threadsafe(state["stop"].set)
    thread.join()


def test_both_paths_tell_the_same_of_the_same_replies(server: TruthServer) -> None:
    """All that is no time: counts, tokens of each event, endings, what was said of a refusal."""
    bodies: list[dict[str, Any]] = [
        {"prompt": "a b c", "stream": True},
        {"messages": [{"role": "user", "content": "x"}], "stream": True, "return_token_ids": True},
        {"prompt": [1] * 5, "stream": True, "stub_tokens_per_event": 3, "return_token_ids": True},
        {"prompt": "a", "stream": True, "stream_options": {"continuous_usage_stats": True}},
        {"prompt": "a", "stream": True, "stub_burst": 7, "stub_tokens_per_event": 2},
        {"prompt": "a b"},
        {"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 9},
        {"prompt": "a", "max_tokens": -1, "stream": True},
    ]
    requests = [
        Request(
            body=json.dumps({"max_tokens": 20, **body}).encode(),
            path="/v1/chat/completions" if "messages" in body else "/v1/completions",
        )
        for body in bodies
    ]
    sent = plan(server.url, *requests, Request(body=b"{}", path="/nowhere"), concurrency=3)
    ours, theirs = run_load(sent), run_asyncio(sent)
    for name in (
        *("status", "ending", "prompt_tokens", "completion_tokens", "cached_tokens"),
        *("content_event", "events", "finish"),
    ):
        assert list(getattr(ours, name)) == list(getattr(theirs, name)), name
    for row, count in enumerate(ours.events):
        start, other = ours.first_row[row], theirs.first_row[row]
        tokens = ours.event_tokens[start : start + count]
        assert tokens == theirs.event_tokens[other : other + count]
    assert list(ours.ending) == [Ending.DONE] * 7 + [Ending.STATUS] * 2
    assert list(ours.events) == [20, 20, 7, 20, 10, 1, 1, 0, 0]
    assert ours.failures.keys() == theirs.failures.keys() == {7, 8}


def stream(*documents: dict[str, Any]) -> bytes:
    """A whole streamed reply."""
    texts = [f"data: {json.dumps(document)}\n\n" for document in documents]
    body = "".join([*texts, "data: [DONE]\n\n"]).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def token(*indexes: int) -> dict[str, Any]:
    choices = [{"index": index, "text": " a", "finish_reason": None} for index in indexes]
    return {"id": "c", "object": "text_completion", "choices": choices}


USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "total_tokens": 6, "completion_tokens": 5}}
REPLY = stream(token(0), token(1), token(0, 1), token(1), USAGE)


def test_several_choices_are_one_request() -> None:
    """Its events are those of all choices, its tokens what the server counts."""
    with serving(lambda _head: REPLY) as port:
        columns = run_asyncio(plan(f"http://127.0.0.1:{port}", request(0), concurrency=1))
    assert list(columns.ending) == [Ending.DONE]
    assert (columns.events[0], columns.completion_tokens[0]) == (4, 5)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def test_tls_is_checked_by_the_usual_variables(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that nobody vouches for is a failed connection; `SSL_CERT_FILE` vouches."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with serving(lambda _head: REPLY, tls=context) as port:
        sent = plan(f"https://127.0.0.1:{port}", request(0), request(1), concurrency=2)
        refused = run_asyncio(sent)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        trusted = run_asyncio(sent)
    assert list(refused.ending) == [Ending.CONNECT] * 2
    assert "CERTIFICATE_VERIFY_FAILED" in refused.failures[0]
    assert list(trusted.ending) == [Ending.DONE] * 2


def test_redirects_are_followed_and_told(server: TruthServer) -> None:
    """The time of the first send counts; a redirect that comes back for ever is a failure."""

    def elsewhere(head: bytes) -> bytes:
        target = head.split(b" ")[1].decode()
        where = "/loop" if target == "/loop" else f"{server.url}/v1/completions"
        return f"HTTP/1.1 307 Away\r\nlocation: {where}\r\ncontent-length: 0\r\n\r\n".encode()

    with serving(elsewhere) as port:
        sent = plan(f"http://127.0.0.1:{port}", request(0), request(1, path="/loop"), concurrency=2)
        columns = run_asyncio(sent)
    assert list(columns.ending) == [Ending.DONE, Ending.STATUS]
    assert columns.completion_tokens[0] == 4
    facts = columns.facts
    assert facts is not None
    assert facts.notes == ("1 redirects were followed, within the time of the request",)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    def proxy(head: bytes) -> bytes:
        heads.append(head)
        return REPLY

    with serving(proxy) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        columns = run_asyncio(plan("http://vllm.invalid:8000", request(0), concurrency=1))
    assert list(columns.ending) == [Ending.DONE]
    assert heads[0].startswith(b"POST http://vllm.invalid:8000/v1/completions HTTP/1.1\r\n")


def test_no_proxy_stands_before_this_host(
    server: TruthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    columns = run_asyncio(plan(server.url, request(0), concurrency=1))
    assert list(columns.ending) == [Ending.DONE], columns.failures


def test_what_cannot_be_sent_is_told_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://proxy:70")
    with pytest.raises(TargetError, match="no load can be sent to https://x: .*gopher") as caught:
        run_asyncio(plan("https://x", request(0), concurrency=1))
    assert "HTTPS_PROXY" in caught.value.advice


def test_too_many_connections_are_the_limit_of_this_host(server: TruthServer) -> None:
    """They are no failures of the server; nothing of the load stays behind."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        sent = plan(server.url, *(request(number) for number in range(60)), concurrency=60)
        with pytest.raises(HostError, match="may have 100 files open") as caught:
            run_asyncio(sent)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "ulimit -n" in caught.value.advice


def test_an_interrupted_load_leaves_nothing_in_flight() -> None:
    """Ctrl-C while the server says nothing: the run ends, and the server sees it."""
    script = (
        "import json, sys\n"
        "from pytest_vllm.adapters.load.asyncio_path import run_asyncio\n"
        "from pytest_vllm.domain.load.plan import LoadPlan, Request\n"
        "body = json.dumps({'do': 'silent', 'tag': 0}).encode()\n"
        "def told(progress):\n"
        "    if progress.in_flight:\n"
        "        print('flying', flush=True)\n"
        "plan = LoadPlan(url=sys.argv[1], requests=(Request(body=body),) * 2, concurrency=2)\n"
        "try:\n"
        "    run_asyncio(plan, progress=told)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, MISBEHAVING], stdout=subprocess.PIPE, text=True
    ) as misbehaving:
        try:
            assert misbehaving.stdout is not None
            url = f"http://127.0.0.1:{int(misbehaving.stdout.readline())}"
            with subprocess.Popen(
                [sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "flying\n"
                process.send_signal(2)
                said = process.stdout.read().replace("flying\n", "")
                assert (said, process.wait()) == ("interrupted\n", 0)
        finally:
            misbehaving.kill()


def test_what_was_never_due_is_unsent(server: TruthServer) -> None:
    """The first reply takes milliseconds; on a busy host it may need more than a second."""
    requests = (request(0, due_ns=0), request(1, due_ns=3600 * 1000 * MS))
    for run_s in (1, 5, 25):
        limits = Limits(request_s=30, stall_s=20, run_s=run_s)
        columns = run_asyncio(LoadPlan(url=server.url, requests=requests, limits=limits))
        if columns.ending[0] == Ending.DONE:
            break
    assert list(columns.ending) == [Ending.DONE, Ending.UNSENT]
    assert (columns.send_ns[1], columns.end_ns[1]) == (NEVER, NEVER)
