"""The handler that forwards, between real sockets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.simulator.defects import break_handler, find_defects
from pytest_vllm.simulator.events import DONE, close, event_of
from pytest_vllm.simulator.http import serve
from pytest_vllm.simulator.upstream import UpstreamError, forward_to, probe
from pytest_vllm.simulator.wire import Answer, EventStream, Request
from tests.unit.canned_server import CannedServer, get, post, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from pytest_vllm.simulator.wire import Handler

COMPLETIONS = "/v1/completions"


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """Serve a handler on a free port; give its URL."""
    async with await serve(handler, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def saying(reply: bytes) -> AsyncIterator[str]:
    """Serve bytes to each client and hang up; give the URL."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def play(scene: Coroutine[Any, Any, Any]) -> Any:
    """Run a scene, not for ever, and let its connections close."""

    async def played() -> Any:
        try:
            return await asyncio.wait_for(scene, 5)
        finally:
            for _ in range(20):
                await asyncio.sleep(0)

    return asyncio.run(played())


async def until(condition: Any) -> None:
    """Wait for what happens on the other side of a socket."""
    while not condition():  # noqa: ASYNC110 - sockets set no event of ours
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "request_",
    [
        get("/health"),
        get("/nowhere"),
        get("/metrics"),
        post(COMPLETIONS, prompt="日本 🎉", max_tokens=3),
        post(COMPLETIONS, prompt="a", bad=1),
        post(COMPLETIONS, prompt="a", stream=True),
    ],
    ids=["health", "nowhere", "metrics", "unicode", "refused", "stream"],
)
def test_what_is_said_comes_through(request_: Request) -> None:
    """Status, headers, body and events are those of the server behind."""

    async def scene() -> tuple[list[str], list[str]]:
        async with listening(CannedServer()) as url:
            reply = await forward_to(url)(request_)
            for name in ("date", "server"):
                del reply.headers[name]
            return await said(reply), await said(await CannedServer()(request_))

    through, direct = play(scene())
    assert through == direct


def test_what_is_asked_comes_through() -> None:
    """Method, path, query, headers and body reach the server behind."""
    asked = Request(
        method="POST",
        path="/v1/x",
        query="a=1&b=2",
        headers={"x-request-id": "7", "content-type": "application/json", "host": "elsewhere"},
        body='{"a": "é"}'.encode(),
    )

    async def scene() -> Request:
        server = CannedServer()
        async with listening(server) as url:
            await forward_to(url)(asked)
        return server.asked[0]

    seen = play(scene())
    assert (seen.method, seen.path, seen.query, seen.body) == (
        asked.method,
        asked.path,
        asked.query,
        asked.body,
    )
    assert seen.headers["x-request-id"] == "7"
    assert seen.headers["host"] != "elsewhere"


def test_an_event_comes_before_the_next_one_is_made() -> None:
    """Streams are not held back, through two servers and a defect."""

    async def scene() -> str:
        server = CannedServer()
        async with listening(server) as behind:
            broken = break_handler(forward_to(behind), find_defects(["id-changes"]))
            async with listening(broken) as url:
                server.tap.clear()
                reply = await forward_to(url)(post(COMPLETIONS, prompt="a", stream=True))
                assert isinstance(reply, EventStream)
                first = await anext(reply.events)
                server.tap.set()
                assert [event async for event in reply.events][-1] == DONE
                return first

    assert '" one"' in play(scene())


@pytest.mark.parametrize("events_read", [0, 1])
def test_a_client_that_leaves_a_stream_is_told_on(events_read: int) -> None:
    """Closing a stream cancels what the server behind does, also before its first event."""

    async def scene() -> None:
        server = CannedServer()
        server.tap.clear()
        async with listening(server) as url:
            reply = await forward_to(url)(post(COMPLETIONS, prompt="a", stream=True))
            assert isinstance(reply, EventStream)
            for _ in range(events_read):
                await anext(reply.events)
            await close(reply.events)
            await until(lambda: server.cancelled == 1)

    play(scene())


def test_a_client_that_leaves_without_a_stream_is_told_on() -> None:
    """Cancelling a request cancels what the server behind does."""

    async def scene() -> None:
        server = CannedServer()
        server.gate.clear()
        async with listening(server) as url:
            task = asyncio.ensure_future(forward_to(url)(post(COMPLETIONS, prompt="a")))
            await until(lambda: server.asked)
            task.cancel()
            await until(lambda: server.cancelled == 1)

    play(scene())


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    """HTTP/1.0 servers frame so."""

    async def scene() -> Any:
        async with saying(b"HTTP/1.0 200 OK\r\nX-A: 1\r\nX-A: 2\r\n\r\nhello") as url:
            return await forward_to(url)(get("/"))

    reply = play(scene())
    assert isinstance(reply, Answer)
    assert (reply.body, reply.headers) == (b"hello", {"x-a": "1, 2"})


def test_events_are_cut_at_blank_lines_whatever_the_line_ends() -> None:
    """Each event is its block of lines."""
    events = "event: a\r\ndata: 1\r\n\r\ndata: é\n\ndata: [DONE]\n\n".encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"

    async def scene() -> list[str]:
        async with saying(head + events) as url:
            return (await said(await forward_to(url)(get("/"))))[2:]

    assert play(scene()) == ["event: a\ndata: 1", "data: é", DONE]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
    ],
)
def test_a_server_that_breaks_off_gives_502(reply: bytes) -> None:
    """The client is told whose fault it is."""

    async def scene() -> Any:
        async with saying(reply) as url:
            return await forward_to(url)(get("/"))

    answer = play(scene())
    assert isinstance(answer, Answer)
    assert answer.status == 502
    assert b"broke off its reply" in answer.body


def test_a_stream_that_breaks_off_is_broken_off() -> None:
    """What is left of a stream does not look complete."""
    piece = f"{event_of({'a': 1})}\n\n".encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"

    async def scene() -> None:
        async with saying(head + b"\r\n%x\r\n%b\r\n" % (len(piece), piece)) as url:
            await said(await forward_to(url)(get("/")))

    with pytest.raises(ConnectionResetError):
        play(scene())


def test_no_server_gives_502_and_is_found_by_a_probe() -> None:
    """A server that is not there is no bug of the proxy."""

    async def scene() -> Any:
        async with listening(CannedServer()) as url:
            await probe(url)
        with pytest.raises(UpstreamError, match="no server answers at 127.0.0.1"):
            await probe(url)
        return await forward_to(url)(get("/health"))

    assert play(scene()).status == 502


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://h", "http://", "http://h/v1", "http://h:x"]
)
def test_a_bad_url_is_refused_at_once(url: str) -> None:
    """The message says how a URL looks."""
    with pytest.raises(UpstreamError, match="give it as http://HOST:PORT"):
        forward_to(url)
