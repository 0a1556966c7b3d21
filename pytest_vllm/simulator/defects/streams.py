"""Defects of streams: framing, order, what comes when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from pytest_vllm.simulator.defects.defect import Defect
from pytest_vllm.simulator.defects.hooks import (
    CHAT,
    GENERATING,
    in_events,
    in_replies,
    set_text,
    text_of,
)
from pytest_vllm.simulator.defects.service import SLOW_S
from pytest_vllm.simulator.events import DONE, data_of, event_of, with_data
from pytest_vllm.simulator.wire import Answer, EventStream, Reply, Request

_PLACE = 4
"""Number, from 0, of the event that something happens to: the fifth."""
_STALL_AFTER = 20
"""Events before a stall: only streams that are long enough to show it are slow."""
_SLOWER_S = 0.0003
_SLOWEST_S = 1.0
_BAD = 400

_Stream = AsyncIterator[str]


async def _without_done(events: _Stream) -> _Stream:
    async for event in events:
        if event != DONE:
            yield event


async def _done_twice(events: _Stream) -> _Stream:
    async for event in events:
        yield event
        if event == DONE:
            yield event


async def _more_after_done(events: _Stream) -> _Stream:
    last = ""
    async for event in events:
        yield event
        if event == DONE:
            yield last
        last = event


async def _as_python(events: _Stream) -> _Stream:
    async for event in events:
        chunk = data_of(event)
        yield event if chunk is None else f"data: {chunk!r}"


async def _drop_fifth(events: _Stream) -> _Stream:
    number = 0
    async for event in events:
        if number != _PLACE:
            yield event
        number += 1


async def _double_fifth(events: _Stream) -> _Stream:
    number = 0
    async for event in events:
        yield event
        if number == _PLACE:
            yield event
        number += 1


async def _swap_fifth(events: _Stream) -> _Stream:
    """Swap the fifth chunk with the sixth, unless that ends the stream."""
    number, held = 0, ""
    async for event in events:
        if number == _PLACE and event != DONE:
            held = event
        else:
            yield event
            if held:
                yield held
                held = ""
        number += 1
    if held:
        yield held


async def _cut(events: _Stream) -> _Stream:
    number = 0
    async for event in events:
        if number == _PLACE:
            yield DONE
            return
        yield event
        number += 1


async def _burst(events: _Stream) -> _Stream:
    for event in [event async for event in events]:
        yield event


async def _stall(events: _Stream) -> _Stream:
    number = 0
    async for event in events:
        if number == _STALL_AFTER:
            await asyncio.sleep(SLOW_S)
        yield event
        number += 1


async def _slower_and_slower(events: _Stream) -> _Stream:
    number = 0
    async for event in events:
        await asyncio.sleep(min(_SLOWEST_S, _SLOWER_S * number * number))
        yield event
        number += 1


async def _fail_inside(events: _Stream) -> _Stream:
    number = 0
    async for event in events:
        if number == _PLACE:
            error = {"message": "EngineCore died", "type": "InternalServerError", "code": 500}
            yield event_of({"error": error})
            yield DONE
            return
        yield event
        number += 1


async def _without_first(events: _Stream) -> _Stream:
    first = True
    async for event in events:
        if not first:
            yield event
        first = False


def _is_usage(event: str) -> bool:
    chunk = data_of(event)
    return chunk is not None and chunk.get("choices") == [] and bool(chunk.get("usage"))


async def _without_usage(events: _Stream) -> _Stream:
    async for event in events:
        if not _is_usage(event):
            yield event


async def _usage_first(events: _Stream) -> _Stream:
    """Tell the usage before all else, so that the stream is held back to its end."""
    complete = [event async for event in events]
    for event in [event for event in complete if _is_usage(event)]:
        yield event
    for event in complete:
        if not _is_usage(event):
            yield event


async def _cumulative(events: _Stream) -> _Stream:
    texts: dict[int, str] = {}
    async for event in events:
        chunk = data_of(event)
        if chunk is None:
            yield event
            continue
        for choice in chunk.get("choices", []):
            index = choice.get("index", 0)
            texts[index] = texts.get(index, "") + text_of(choice)
            set_text(choice, texts[index])
        yield with_data(event, chunk)


def _refused_inside(reply: Reply, request: Request) -> Reply:
    asked = (request.document() or {}).get("stream")
    if not asked or not isinstance(reply, Answer) or reply.status < _BAD:
        return reply

    async def events() -> _Stream:
        yield event_of(reply.document())
        yield DONE

    return EventStream(headers={"content-type": "text/event-stream"}, events=events())


def _as_json(reply: Reply, _request: Request) -> Reply:
    if not isinstance(reply, EventStream):
        return reply
    return replace(reply, headers={**reply.headers, "content-type": "application/json"})


DEFECTS = (
    Defect(
        name="done-missing",
        summary="A stream ends without `[DONE]`.",
        breaks=in_events(_without_done),
    ),
    Defect(
        name="done-doubled",
        summary="A stream says `[DONE]` twice.",
        breaks=in_events(_done_twice),
    ),
    Defect(
        name="event-after-done",
        summary="A chunk comes after `[DONE]`.",
        breaks=in_events(_more_after_done),
    ),
    Defect(
        name="stream-type-json",
        summary="A stream is sent as `application/json`.",
        breaks=in_replies(_as_json, paths=GENERATING),
    ),
    Defect(
        name="chunk-not-json",
        summary="Chunks are Python literals instead of JSON.",
        breaks=in_events(_as_python),
    ),
    Defect(
        name="chunk-dropped",
        summary="The fifth chunk of a stream is lost.",
        breaks=in_events(_drop_fifth),
    ),
    Defect(
        name="chunk-duplicated",
        summary="The fifth chunk of a stream comes twice.",
        breaks=in_events(_double_fifth),
    ),
    Defect(
        name="chunks-swapped",
        summary="The fifth and the sixth chunk of a stream are swapped.",
        breaks=in_events(_swap_fifth),
    ),
    Defect(
        name="cumulative-deltas",
        summary="Each chunk repeats the whole text so far.",
        breaks=in_events(_cumulative),
    ),
    Defect(
        name="stream-cut",
        summary="A stream ends after four chunks as if it were complete.",
        breaks=in_events(_cut),
    ),
    Defect(
        name="one-burst",
        summary="All events of a stream come at its end.",
        breaks=in_events(_burst),
    ),
    Defect(
        name="stream-stall",
        summary="A stream stalls for six seconds after its twentieth event.",
        breaks=in_events(_stall),
    ),
    Defect(
        name="decode-slows",
        summary="Each token takes longer than the one before.",
        breaks=in_events(_slower_and_slower),
    ),
    Defect(
        name="role-chunk-missing",
        summary="The first chunk of a chat stream, which names the role, is missing.",
        breaks=in_events(_without_first, paths=CHAT),
    ),
    Defect(
        name="usage-chunk-missing",
        summary="The usage chunk that was asked for never comes.",
        breaks=in_events(_without_usage),
    ),
    Defect(
        name="usage-chunk-first",
        summary="The usage chunk comes before all others.",
        breaks=in_events(_usage_first),
    ),
    Defect(
        name="error-inside",
        summary="An error comes in the middle of a stream under status 200.",
        breaks=in_events(_fail_inside),
    ),
    Defect(
        name="stream-refusal-inside",
        summary="A bad request for a stream is refused inside of a stream under status 200.",
        breaks=in_replies(_refused_inside, paths=GENERATING),
    ),
)
