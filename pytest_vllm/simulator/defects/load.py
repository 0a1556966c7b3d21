"""Defects that show when requests run together, follow each other, or are given up."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.defects.defect import Defect
from pytest_vllm.simulator.defects.hooks import GENERATING, Document, followed, refusal
from pytest_vllm.simulator.defects.metrics import METRICS, RUNNING, with_samples
from pytest_vllm.simulator.wire import Answer, EventStream, Handler, Reply, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CROWD = 4
_SLOWER_S = 0.06
_SLOWEST_S = 4.0
_ALIVE_REQUESTS = 3
_ASKED = ("prompt", "messages")


def _mixed_up(handler: Handler) -> Handler:
    """Answer the prompt of another request that runs."""
    running: dict[int, tuple[str, Document]] = {}

    async def broken(request: Request) -> Reply:
        body = request.document()
        if request.path not in GENERATING or body is None:
            return await handler(request)
        own = {name: body[name] for name in _ASKED if name in body}
        others = [asked for path, asked in running.values() if path == request.path]
        other = next((asked for asked in others if asked != own), own)
        number = max(running, default=0) + 1
        running[number] = (request.path, own)

        def leave(_complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
            del running[number]

        return await followed(handler, request.with_document({**body, **other}), ending=leave)

    return broken


def _serialized(handler: Handler) -> Handler:
    turn = asyncio.Lock()

    async def broken(request: Request) -> Reply:
        if request.path not in GENERATING:
            return await handler(request)
        await turn.acquire()
        return await followed(handler, request, ending=lambda _complete: turn.release())

    return broken


def _crowd_refused(handler: Handler) -> Handler:
    running = 0

    def leave(_complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        nonlocal running
        running -= 1

    async def broken(request: Request) -> Reply:
        nonlocal running
        if request.path not in GENERATING:
            return await handler(request)
        if running >= _CROWD:
            return refusal(503, "too many requests", kind="ServiceUnavailableError")
        running += 1
        return await followed(handler, request, ending=leave)

    return broken


def _stale(handler: Handler) -> Handler:
    """Answer a repeated request as if its cached blocks were those of another prompt."""
    seen: set[bytes] = set()

    async def broken(request: Request) -> Reply:
        body = request.document()
        if request.path not in GENERATING or body is None:
            return await handler(request)
        if request.body in seen:
            asked = {name: _shuffled(body[name]) for name in _ASKED if name in body}
            return await handler(request.with_document({**body, **asked}))
        seen.add(request.body)
        return await handler(request)

    return broken


def _shuffled(prompt: Any) -> Any:
    """Return another prompt of about the same length."""
    if isinstance(prompt, str):
        words = prompt.split(" ")
        random.Random(0).shuffle(words)  # noqa: S311 - no secret
        return " ".join(words) if words != prompt.split(" ") else f"{prompt[::-1]}"
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return prompt[::-1]
    if isinstance(prompt, list):
        return [_shuffled(item) for item in prompt]
    if isinstance(prompt, dict) and "content" in prompt:
        return {**prompt, "content": _shuffled(prompt["content"])}
    return prompt


def _going_on(handler: Handler) -> Handler:
    """Let every request run to its end although its client has gone."""
    tasks: set[asyncio.Task[Any]] = set()

    def keep(task: asyncio.Task[Any]) -> None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def answer(request: Request) -> Reply:
        return await handler(request)

    async def pump(events: AsyncIterator[str], queue: asyncio.Queue[str | None]) -> None:
        try:
            async for event in events:
                queue.put_nowait(event)
        finally:
            queue.put_nowait(None)

    async def broken(request: Request) -> Reply:
        if request.path not in GENERATING:
            return await handler(request)
        task = asyncio.create_task(answer(request))
        keep(task)
        reply = await asyncio.shield(task)
        if not isinstance(reply, EventStream):
            return reply
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        keep(asyncio.create_task(pump(reply.events, queue)))
        return replace(reply, events=_taken(queue))

    return broken


async def _taken(queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
    while (event := await queue.get()) is not None:
        yield event


def _leaking(handler: Handler) -> Handler:
    given_up = 0

    def leave(complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        nonlocal given_up
        given_up += not complete

    async def broken(request: Request) -> Reply:
        if request.path in GENERATING:
            return await followed(handler, request, ending=leave)
        reply = await handler(request)
        if request.path == METRICS and isinstance(reply, Answer):
            return with_samples(reply, lambda name: name == RUNNING, lambda value: value + given_up)
        return reply

    return broken


def _slowed_by_aborts(handler: Handler) -> Handler:
    given_up = 0

    def leave(complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        nonlocal given_up
        given_up += not complete

    async def broken(request: Request) -> Reply:
        if request.path not in GENERATING:
            return await handler(request)
        await asyncio.sleep(min(_SLOWEST_S, given_up * _SLOWER_S))
        return await followed(handler, request, ending=leave)

    return broken


def _hanging(handler: Handler) -> Handler:
    seen = 0

    async def broken(request: Request) -> Reply:
        nonlocal seen
        if request.path in GENERATING:
            seen += 1
            if seen > _ALIVE_REQUESTS:
                await asyncio.Event().wait()
        return await handler(request)

    return broken


DEFECTS = (
    Defect(
        name="answers-swapped",
        summary="Requests that run together get each other's prompt answered.",
        breaks=_mixed_up,
    ),
    Defect(
        name="requests-serialized",
        summary="One request is served at a time: a short one waits for a long stream.",
        breaks=_serialized,
    ),
    Defect(
        name="crowd-refused",
        summary="The fifth request at a time is answered 503.",
        breaks=_crowd_refused,
    ),
    Defect(
        name="repeat-differs",
        summary="A repeated request is answered for another prompt.",
        issue="vllm#40896",
        breaks=_stale,
    ),
    Defect(
        name="disconnect-ignored",
        summary="Generation goes on after the client has gone.",
        issue="vllm#54947",
        breaks=_going_on,
    ),
    Defect(
        name="abort-leaks",
        summary="Each request that was given up stays in the gauge of running requests.",
        issue="vllm#10806",
        breaks=_leaking,
    ),
    Defect(
        name="aborts-slow",
        summary="Each request that was given up makes all later ones 60 ms slower.",
        breaks=_slowed_by_aborts,
    ),
    Defect(
        name="generation-hangs",
        summary="After a few requests nothing is generated any more; `/health` stays 200.",
        issue="vllm#39863",
        breaks=_hanging,
    ),
)
