"""Defects that show only when requests run together, or are given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.defects import break_handler, find_defects
from pytest_vllm.simulator.events import DONE, close
from pytest_vllm.simulator.wire import Answer, EventStream
from tests.unit.canned_server import CannedServer, get, post, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    import pytest

    from pytest_vllm.simulator.wire import Handler, Reply, Request

COMPLETIONS = "/v1/completions"
RUNNING = 'vllm:num_requests_running{engine="0"}'


def with_defect(
    name: str, scene: Callable[[Handler, CannedServer], Coroutine[Any, Any, Any]]
) -> Any:
    """Play a scene with a broken server."""

    async def play() -> Any:
        server = CannedServer()
        return await asyncio.wait_for(scene(break_handler(server, find_defects([name])), server), 5)

    return asyncio.run(play())


async def started(handler: Handler, request: Request) -> asyncio.Task[Reply]:
    """Begin a request and let it come as far as it can."""
    task: asyncio.Task[Reply] = asyncio.ensure_future(handler(request))
    await settled()
    return task


async def settled() -> None:
    """Let everything run that can run now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def two(handler: Handler, server: CannedServer, *requests: Request) -> list[dict[str, Any]]:
    """Run requests together; return what the server was asked."""
    server.gate.clear()
    tasks = [await started(handler, request) for request in requests]
    server.gate.set()
    await asyncio.gather(*tasks)
    return [asked.document() or {} for asked in server.asked]


async def stream(handler: Handler) -> AsyncIterator[str]:
    """Open a stream and return its events."""
    reply = await handler(post(COMPLETIONS, prompt="a", stream=True))
    assert isinstance(reply, EventStream)
    return reply.events


async def given_up(handler: Handler) -> None:
    """Leave one stream after an event, one before its first, and one request before its reply."""
    events = await stream(handler)
    await anext(events)
    await close(events)
    await close(await stream(handler))


def test_answers_are_swapped() -> None:
    asked = with_defect(
        "answers-swapped",
        lambda handler, server: two(
            handler,
            server,
            post(COMPLETIONS, prompt="a", max_tokens=1),
            post(COMPLETIONS, prompt="b", max_tokens=2),
        ),
    )
    assert asked == [{"prompt": "a", "max_tokens": 1}, {"prompt": "a", "max_tokens": 2}]


def test_a_request_alone_is_answered_for_its_own_prompt() -> None:
    async def scene(handler: Handler, server: CannedServer) -> list[Any]:
        for prompt in ("a", "b"):
            await handler(post(COMPLETIONS, prompt=prompt))
        return [asked.document() for asked in server.asked]

    assert with_defect("answers-swapped", scene) == [{"prompt": "a"}, {"prompt": "b"}]


def test_constraints_are_mixed_up() -> None:
    one, other = {"regex": "a"}, {"regex": "b"}
    asked = with_defect(
        "constraints-mixed-up",
        lambda handler, server: two(
            handler,
            server,
            post(COMPLETIONS, prompt="a", structured_outputs=one),
            post(COMPLETIONS, prompt="b", structured_outputs=other),
        ),
    )
    assert [body["structured_outputs"] for body in asked] == [one, one]
    assert [body["prompt"] for body in asked] == ["a", "b"]


def test_a_short_request_waits_for_a_stream() -> None:
    async def scene(handler: Handler, server: CannedServer) -> None:
        events = await stream(handler)
        short = await started(handler, post(COMPLETIONS, prompt="b"))
        assert not short.done()
        assert len(server.asked) == 1
        await close(events)  # before its first event: also this ends it
        assert (await short).status == 200

    with_defect("requests-serialized", scene)


def test_the_fifth_request_is_refused() -> None:
    async def scene(handler: Handler, server: CannedServer) -> list[int]:
        server.gate.clear()
        tasks = [await started(handler, post(COMPLETIONS, prompt="a")) for _ in range(5)]
        server.gate.set()
        replies = await asyncio.gather(*tasks)
        again = await handler(post(COMPLETIONS, prompt="a"))
        return [reply.status for reply in [*replies, again]]

    assert with_defect("crowd-refused", scene) == [200] * 4 + [503, 200]


def test_twins_kill_the_engine_and_not_its_health() -> None:
    async def scene(handler: Handler, server: CannedServer) -> list[int]:
        twin = post(COMPLETIONS, prompt="a", request_id="x")
        await handler(twin)
        await handler(twin)  # one after the other they do no harm
        server.gate.clear()
        tasks = [await started(handler, twin) for _ in range(2)]
        server.gate.set()
        replies = await asyncio.gather(*tasks)
        later = [await handler(post(COMPLETIONS, prompt="b")), await handler(get("/health"))]
        return [reply.status for reply in [*replies, *later]]

    assert with_defect("duplicate-id-kills", scene) == [200, 500, 500, 200]


def test_generation_hangs_and_health_does_not() -> None:
    async def scene(handler: Handler, _server: CannedServer) -> None:
        for _ in range(3):
            await handler(post(COMPLETIONS, prompt="a"))
        hung = await started(handler, post(COMPLETIONS, prompt="a"))
        assert not hung.done()
        assert (await handler(get("/health"))).status == 200
        hung.cancel()

    with_defect("generation-hangs", scene)


def test_health_is_slow_only_while_requests_run(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    async def scene(handler: Handler, _server: CannedServer) -> None:
        await handler(get("/health"))
        events = await stream(handler)
        monkeypatch.setattr(asyncio, "sleep", note)
        await handler(get("/health"))
        await close(events)
        await handler(get("/health"))

    with_defect("health-slow", scene)
    assert slept == [6.0]


def test_a_burst_holds_everything_back() -> None:
    async def scene(handler: Handler, server: CannedServer) -> None:
        server.tap.clear()
        events = await stream(handler)
        first = asyncio.ensure_future(anext(events))
        await settled()
        assert not first.done()
        server.tap.set()
        await first
        assert [event async for event in events][-1] == DONE

    with_defect("one-burst", scene)


def test_nothing_else_holds_events_back() -> None:
    """A change of chunks passes each on before the next one is made."""

    async def scene(handler: Handler, server: CannedServer) -> None:
        server.tap.clear()
        events = await stream(handler)
        await anext(events)
        later = asyncio.ensure_future(anext(events))
        await settled()
        assert not later.done()
        later.cancel()

    with_defect("id-changes", scene)


def test_generation_goes_on_after_a_disconnect() -> None:
    async def scene(handler: Handler, server: CannedServer) -> int:
        await given_up(handler)
        server.gate.clear()
        task = await started(handler, post(COMPLETIONS, prompt="a"))
        task.cancel()
        await settled()
        server.gate.set()
        await settled()
        return server.cancelled

    assert with_defect("disconnect-ignored", scene) == 0


def test_a_disconnect_reaches_the_server_otherwise() -> None:
    async def scene(handler: Handler, server: CannedServer) -> int:
        await given_up(handler)
        return server.cancelled

    # The stream that was closed before its first event never began to generate.
    assert with_defect("id-changes", scene) == 1


def test_what_was_given_up_stays_in_the_gauge() -> None:
    async def scene(handler: Handler, _server: CannedServer) -> list[bytes]:
        await said(await handler(post(COMPLETIONS, prompt="a", stream=True)))
        before = await handler(get("/metrics"))
        await given_up(handler)
        after = await handler(get("/metrics"))
        assert isinstance(before, Answer)
        assert isinstance(after, Answer)
        return [before.body, after.body]

    before, after = with_defect("abort-leaks", scene)
    assert f"{RUNNING} 0.0".encode() in before
    assert f"{RUNNING} 2.0".encode() in after


def test_the_gauge_stays_at_its_highest() -> None:
    async def scene(handler: Handler, server: CannedServer) -> bytes:
        await two(handler, server, *[post(COMPLETIONS, prompt="a")] * 3)
        reply = await handler(get("/metrics"))
        assert isinstance(reply, Answer)
        return reply.body

    assert f"{RUNNING} 3.0".encode() in with_defect("metrics-gauge-stuck", scene)


def test_what_was_given_up_slows_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []

    async def note(seconds: float) -> None:
        slept.append(round(seconds, 3))

    async def scene(handler: Handler, _server: CannedServer) -> None:
        monkeypatch.setattr(asyncio, "sleep", note)
        await given_up(handler)
        await handler(post(COMPLETIONS, prompt="a"))

    with_defect("aborts-slow", scene)
    assert slept == [0.0, 0.06, 0.12]
