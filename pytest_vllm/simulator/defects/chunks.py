"""Defects of what the chunks of a stream say: identity, reasons, accounting, text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from pytest_vllm.simulator.defects.defect import Break, Defect
from pytest_vllm.simulator.defects.hooks import (
    COMPLETIONS,
    GENERATING,
    Document,
    in_bodies,
    in_chunks,
    in_events,
    in_replies,
    set_text,
    text_of,
)
from pytest_vllm.simulator.events import Events, data_of, with_data
from pytest_vllm.simulator.wire import EventStream, Reply, Request

_PLACE = 4
"""Number, from 0, of the event that something happens to: the fifth."""
_LONG_PROMPT_CHARS = 2000
_LONG_PROMPT_TOKENS = 512

_Stream = AsyncIterator[str]
_Change = Callable[[_Stream], _Stream]


def _from_fifth(change: Callable[[Document], object], *, chunks: int | None = None) -> _Change:
    """Change the fifth chunk and those after it, or so many from there on."""

    async def changed(events: _Stream) -> _Stream:
        number = 0
        async for event in events:
            wanted = number >= _PLACE and (chunks is None or number < _PLACE + chunks)
            chunk = data_of(event) if wanted else None
            if chunk is not None:
                change(chunk)
            yield event if chunk is None else with_data(event, chunk)
            number += 1

    return changed


async def _finish_twice(events: _Stream) -> _Stream:
    """Name a finish reason in the second chunk already."""
    number = 0
    async for event in events:
        chunk = data_of(event) if number == 1 else None
        for choice in (chunk or {}).get("choices", []):
            choice["finish_reason"] = choice.get("finish_reason") or "length"
        yield event if chunk is None else with_data(event, chunk)
        number += 1


def _choices(change: Callable[[Document], object]) -> Callable[[Document], None]:
    def changed(chunk: Document) -> None:
        for choice in chunk.get("choices", []):
            change(choice)

    return changed


def _drop_open_reason(choice: Document) -> None:
    if choice.get("finish_reason") is None:
        choice.pop("finish_reason", None)


def _count_more(chunk: Document) -> None:
    if chunk.get("usage") and not chunk.get("choices"):
        chunk["usage"]["completion_tokens"] += 1
        chunk["usage"]["total_tokens"] += 1


def _count_constantly(chunk: Document) -> None:
    if chunk.get("usage") and chunk.get("choices"):
        chunk["usage"]["completion_tokens"] = 1
        chunk["usage"]["total_tokens"] = chunk["usage"]["prompt_tokens"] + 1


def _tear(choice: Document) -> None:
    text = text_of(choice)
    if text:
        set_text(choice, "".join("\ufffd\ufffd" if ord(c) > 0x7FF else c for c in text))  # noqa: PLR2004


def _leak_stop(choice: Document) -> None:
    stop = choice.get("stop_reason")
    if choice.get("finish_reason") == "stop" and isinstance(stop, str):
        set_text(choice, text_of(choice) + stop[:1])


def _ask_usage(body: Document) -> None:
    if body.get("stream"):
        options = body.get("stream_options") or {}
        body["stream_options"] = {**options, "include_usage": True}


def _without_echo(body: Document) -> None:
    if body.get("stream"):
        body.pop("echo", None)


def _asked(change: Callable[[Document], Any], wanted: Callable[[Document], bool]) -> Break:
    """Change the chunks of streams whose request is of some kind."""

    async def changed(events: _Stream) -> _Stream:
        async for event in events:
            chunk = data_of(event)
            if chunk is not None:
                change(chunk)
            yield event if chunk is None else with_data(event, chunk)

    def reply(given: Reply, request: Request) -> Reply:
        if not isinstance(given, EventStream) or not wanted(request.document() or {}):
            return given
        return replace(given, events=Events(changed(given.events), source=given.events))

    return in_replies(reply, paths=GENERATING)


def _has_long_prompt(body: Document) -> bool:
    prompt = body.get("prompt", body.get("messages"))
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return len(prompt) > _LONG_PROMPT_TOKENS
    return len(str(prompt)) > _LONG_PROMPT_CHARS


def _say_nothing(choice: Document) -> None:
    set_text(choice, "")
    choice["logprobs"] = None


def _lose_tail(choice: Document) -> None:
    if choice.get("finish_reason") == "length":
        set_text(choice, "")


DEFECTS = (
    Defect(
        name="id-changes",
        summary="The `id` of a stream changes at the fifth chunk.",
        breaks=in_events(_from_fifth(lambda chunk: chunk.update(id="another"))),
    ),
    Defect(
        name="created-changes",
        summary="The `created` of a stream changes at the fifth chunk.",
        breaks=in_events(_from_fifth(lambda chunk: chunk.update(created=chunk["created"] + 1))),
    ),
    Defect(
        name="object-wrong",
        summary="Chunks call themselves what a complete reply is called.",
        breaks=in_chunks(lambda chunk: chunk.update(object="chat.completion"), paths=GENERATING),
    ),
    Defect(
        name="finish-reason-key-missing",
        summary="Chunks before the last lack the key `finish_reason`.",
        issue="vllm PR19662",
        breaks=in_chunks(_choices(_drop_open_reason)),
    ),
    Defect(
        name="finish-reason-absent",
        summary="No chunk of a stream has a finish reason.",
        breaks=in_chunks(_choices(lambda choice: choice.update(finish_reason=None))),
    ),
    Defect(
        name="finish-reason-twice",
        summary="Two chunks of a stream have a finish reason.",
        breaks=in_events(_finish_twice),
    ),
    Defect(
        name="usage-unasked",
        summary="A stream tells its usage although nobody asked.",
        breaks=in_bodies(_ask_usage),
    ),
    Defect(
        name="stream-usage-wrong",
        summary="The usage of a stream has one token too many.",
        issue="vllm#8625",
        breaks=in_chunks(_count_more),
    ),
    Defect(
        name="continuous-usage-constant",
        summary="Continuous usage does not grow.",
        breaks=in_chunks(_count_constantly),
    ),
    Defect(
        name="stream-logprobs-lost",
        summary="The fifth chunk of a stream lacks its log probabilities.",
        breaks=in_events(
            _from_fifth(_choices(lambda choice: choice.update(logprobs=None)), chunks=1)
        ),
    ),
    Defect(
        name="stream-index-zero",
        summary="All chunks of a stream with several choices have the index 0.",
        breaks=in_chunks(_choices(lambda choice: choice.update(index=0))),
    ),
    Defect(
        name="characters-torn",
        summary="Characters of several bytes are torn apart in a stream.",
        breaks=in_chunks(_choices(_tear)),
    ),
    Defect(
        name="stop-prefix-leaked",
        summary="The beginning of a stop text stays at the end of a stream.",
        issue="vllm#3574",
        breaks=in_chunks(_choices(_leak_stop)),
    ),
    Defect(
        name="stop-tail-lost",
        summary="Text that was held back for a stop text is lost at the end of a stream.",
        issue="vllm PR8468",
        breaks=_asked(_choices(_lose_tail), lambda body: bool(body.get("stop"))),
    ),
    Defect(
        name="stream-long-prompt-dies",
        summary="A stream with a prompt of more than 512 tokens has no text.",
        issue="vllm#10126",
        breaks=_asked(_choices(_say_nothing), _has_long_prompt),
    ),
    Defect(
        name="stream-echo-dropped",
        summary="`echo` is ignored in streams.",
        breaks=in_bodies(_without_echo, paths=COMPLETIONS),
    ),
)
