"""Defects of streams that show only while several of them run at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.simulator.defects.defect import Break, Defect
from pytest_vllm.simulator.defects.hooks import GENERATING, followed, refusal
from pytest_vllm.simulator.defects.metrics import METRICS, with_samples
from pytest_vllm.simulator.events import DONE, Events, data_of
from pytest_vllm.simulator.wire import Answer, EventStream, Handler, Reply, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Stream = AsyncIterator[str]

_LOAD = 4
"""Streams at a time from which on it is a load."""
_EVERY = 10
_AT = 3
"""Event at which a stream breaks."""
_STALL_S = 7.0
_TOKEN_S = 0.3
_LATER_S = 0.024
_E2E_SUM = "vllm:e2e_request_latency_seconds_sum"


def _under_load(act: Callable[[Handler, Request, int], object], *, every: int = _EVERY) -> Break:
    """Break streams, or every so many of them, while enough others run.

    Args:
        act: Coroutine that answers such a stream; it is told its number among those under load.
        every: Which of them are broken: the first and then each so many.
    """

    def breaks(handler: Handler) -> Handler:
        running = seen = 0

        def leave(_complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
            nonlocal running
            running -= 1

        async def chosen(request: Request) -> Reply:
            nonlocal seen
            if running <= _LOAD:
                return await handler(request)
            seen += 1
            if (seen - 1) % every:
                return await handler(request)
            reply: Reply = await act(handler, request, seen)  # type: ignore[misc]
            return reply

        async def broken(request: Request) -> Reply:
            nonlocal running
            body = request.document() if request.path in GENERATING else None
            if body is None or not body.get("stream"):
                return await handler(request)
            running += 1
            return await followed(chosen, request, ending=leave)

        return broken

    return breaks


def _events(change: Callable[[Stream, int], Stream], *, every: int = _EVERY) -> Break:
    """Change the events of streams under load."""

    async def act(handler: Handler, request: Request, number: int) -> Reply:
        reply = await handler(request)
        if not isinstance(reply, EventStream):
            return reply
        events = Events(change(reply.events, number), source=reply.events)
        return replace(reply, events=events)

    return _under_load(act, every=every)


async def _refused(_handler: Handler, _request: Request, _number: int) -> Reply:
    return refusal(503, "The server is overloaded", kind="ServiceUnavailableError")


async def _shorter(handler: Handler, request: Request, _number: int) -> Reply:
    body = request.document() or {}
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        if isinstance(body.get(name), int):
            body[name] = max(1, body[name] - 1)
    return await handler(request.with_document(body))


async def _reset(events: Stream, _number: int) -> Stream:
    number = 0
    async for event in events:
        yield event
        number += 1
        if number == _AT:
            raise ConnectionResetError("a defect")


async def _without_end(events: Stream, _number: int) -> Stream:
    async for event in events:
        if event != DONE:
            yield event


async def _without_usage(events: Stream, _number: int) -> Stream:
    async for event in events:
        chunk = data_of(event)
        if chunk is None or chunk.get("choices") != []:
            yield event


async def _stalling(events: Stream, _number: int) -> Stream:
    number = 0
    async for event in events:
        yield event
        number += 1
        if number == _AT:
            await asyncio.sleep(_STALL_S)


async def _slowly(events: Stream, _number: int) -> Stream:
    async for event in events:
        await asyncio.sleep(_TOKEN_S)
        yield event


async def _later(events: Stream, number: int) -> Stream:
    await asyncio.sleep(number * _LATER_S)
    async for event in events:
        yield event


def _lying(handler: Handler) -> Handler:
    async def broken(request: Request) -> Reply:
        reply = await handler(request)
        if request.path == METRICS and isinstance(reply, Answer):
            return with_samples(reply, lambda name: name == _E2E_SUM, lambda value: value / 2)
        return reply

    return broken


DEFECTS = (
    Defect(
        name="load-refused",
        summary="Of the streams above the fourth at a time, every tenth is answered 503.",
        breaks=_under_load(_refused),
    ),
    Defect(
        name="load-resets",
        summary="Of the streams above the fourth at a time, every tenth breaks off in its middle.",
        breaks=_events(_reset),
    ),
    Defect(
        name="load-truncated",
        summary="Of the streams above the fourth at a time, every tenth ends without `[DONE]`.",
        breaks=_events(_without_end),
    ),
    Defect(
        name="load-short-answers",
        summary="Of the streams above the fourth at a time, every tenth is a token short.",
        breaks=_under_load(_shorter),
    ),
    Defect(
        name="load-usage-missing",
        summary="Of the streams above the fourth at a time, every tenth tells no usage.",
        breaks=_events(_without_usage),
    ),
    Defect(
        name="load-stalls",
        summary="Of the streams above the fourth at a time, every tenth stands still for 7 s.",
        breaks=_events(_stalling),
    ),
    Defect(
        name="load-slow-decode",
        summary="Streams above the fourth at a time get a token every 0.3 s.",
        breaks=_events(_slowly, every=1),
    ),
    Defect(
        name="load-slows-down",
        summary="Each stream above the fourth at a time makes all later ones 24 ms slower.",
        breaks=_events(_later, every=1),
    ),
    Defect(
        name="load-histogram-lies",
        summary="The histogram of E2E latency adds up half of the time that requests took.",
        breaks=_lying,
    ),
)
