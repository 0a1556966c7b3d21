"""Defects of the other surfaces: `/v1/responses`, `/v1/messages`, tokenization."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.defects.defect import Defect
from pytest_vllm.simulator.defects.hooks import (
    MESSAGES,
    RESPONSES,
    Document,
    chained,
    in_asked_documents,
    in_bodies,
    in_chunks,
    in_documents,
    in_events,
    in_replies,
    without_fields,
)
from pytest_vllm.simulator.events import data_of, with_data

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pytest_vllm.simulator.wire import Reply, Request

_TOKENIZE = ("/tokenize",)
_COUNT = ("/v1/messages/count_tokens",)
_NEVER = "response-that-never-was"


# --- /v1/responses -------------------------------------------------------------------------------


def _rename_response(document: Document) -> None:
    document["id"] = str(document.get("id")).replace("resp_", "chatcmpl-")


def _complete(document: Document) -> None:
    document["status"] = "completed"
    document["incomplete_details"] = None


def _more_total(document: Document) -> None:
    if document.get("usage"):
        document["usage"]["total_tokens"] += 1


async def _mislabelled(events: AsyncIterator[str]) -> AsyncIterator[str]:
    async for event in events:
        name, _, rest = event.partition("\n")
        yield f"event: message\n{rest}" if name == "event: response.output_text.delta" else event


async def _delta_lost(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Empty the second text delta."""
    number = 0
    async for event in events:
        chunk = data_of(event)
        if chunk is not None and chunk.get("type") == "response.output_text.delta":
            number += 1
            if number == 2:  # noqa: PLR2004 - the second
                event = with_data(event, {**chunk, "delta": ""})  # noqa: PLW2901 - what goes on
        yield event


def _unknown_fails(reply: Reply, request: Request) -> Reply:
    """Fail where an unknown response is asked for: GET or cancel of `/v1/responses/ID`."""
    wanted = request.path.startswith("/v1/responses/")
    return replace(reply, status=500) if wanted and reply.status == 404 else reply  # noqa: PLR2004


# --- /v1/messages --------------------------------------------------------------------------------


def _end_turn(document: Document) -> None:
    for place in (document, document.get("delta")):
        if isinstance(place, dict) and place.get("stop_reason"):
            place["stop_reason"] = "end_turn"


async def _disordered(events: AsyncIterator[str]) -> AsyncIterator[str]:
    held = ""
    async for event in events:
        kind = (data_of(event) or {}).get("type")
        if kind == "content_block_stop":
            held = event
            continue
        yield event
        if kind == "message_delta" and held:
            yield held


async def _without_stop(events: AsyncIterator[str]) -> AsyncIterator[str]:
    async for event in events:
        if (data_of(event) or {}).get("type") != "message_stop":
            yield event


def _count_less(document: Document) -> None:
    if isinstance(document.get("input_tokens"), int):
        document["input_tokens"] -= 1


# --- tokenization --------------------------------------------------------------------------------


def _of_tokens(change: Callable[[list[Any]], list[Any]], name: str) -> Callable[[Document], None]:
    def changed(document: Document) -> None:
        if document.get(name):
            document[name] = change(document[name])

    return changed


def _count_more(document: Document) -> None:
    document["count"] += 1


def _strip(document: Document) -> None:
    if isinstance(document.get("prompt"), str):
        document["prompt"] = document["prompt"].strip()


def _without_template(body: Document) -> None:
    messages = body.pop("messages", None)
    if messages is not None:
        body["prompt"] = "\n".join(str(turn.get("content")) for turn in messages)


def _without_model(body: Document) -> None:
    body.pop("model", None)


def _some_tokens(document: Document, asked: Document) -> None:
    if asked.get("return_token_strs") and document.get("token_strs"):
        document["token_strs"] = document["token_strs"][:-1]


DEFECTS = (
    Defect(
        name="responses-id-wrong",
        summary="The ID of a response does not begin with `resp_`.",
        breaks=in_documents(_rename_response, paths=RESPONSES),
    ),
    Defect(
        name="responses-status-wrong",
        summary="A response that was cut says that it is completed.",
        breaks=in_documents(_complete, paths=RESPONSES),
    ),
    Defect(
        name="responses-usage-wrong",
        summary="`total_tokens` of a response is not the sum of its parts.",
        breaks=in_documents(_more_total, paths=RESPONSES),
    ),
    Defect(
        name="responses-sequence-stuck",
        summary="`sequence_number` of a response's events does not rise.",
        breaks=in_chunks(lambda chunk: chunk.update(sequence_number=0), paths=RESPONSES),
    ),
    Defect(
        name="responses-event-mislabelled",
        summary="The name of a response's event is not its type.",
        breaks=in_events(_mislabelled, paths=RESPONSES),
    ),
    Defect(
        name="responses-delta-lost",
        summary="A piece of text is lost in the stream of a response.",
        breaks=in_events(_delta_lost, paths=RESPONSES),
    ),
    Defect(
        name="responses-unknown-500",
        summary="Asking for an unknown response is answered 500.",
        breaks=in_replies(_unknown_fails),
    ),
    Defect(
        name="responses-instructions-ignored",
        summary="`instructions` of a response do not reach the model.",
        breaks=without_fields("instructions", paths=RESPONSES),
    ),
    Defect(
        name="messages-stop-reason-wrong",
        summary="`stop_reason` of a message is always `end_turn`.",
        breaks=chained(
            in_documents(_end_turn, paths=MESSAGES), in_chunks(_end_turn, paths=MESSAGES)
        ),
    ),
    Defect(
        name="messages-stop-ignored",
        summary="`stop_sequences` of a message is ignored.",
        breaks=without_fields("stop_sequences", paths=MESSAGES),
    ),
    Defect(
        name="messages-system-ignored",
        summary="`system` of a message does not reach the model.",
        breaks=without_fields("system", paths=MESSAGES),
    ),
    Defect(
        name="messages-events-disordered",
        summary="`message_delta` comes before the end of the content.",
        breaks=in_events(_disordered, paths=MESSAGES),
    ),
    Defect(
        name="messages-stop-missing",
        summary="The stream of a message has no `message_stop`.",
        breaks=in_events(_without_stop, paths=MESSAGES),
    ),
    Defect(
        name="count-tokens-off",
        summary="`count_tokens` counts one token less than the usage.",
        breaks=in_documents(_count_less, paths=_COUNT),
    ),
    Defect(
        name="tokenize-count-off",
        summary="`count` of `/tokenize` is not the number of its tokens.",
        breaks=in_documents(_count_more, paths=_TOKENIZE),
    ),
    Defect(
        name="tokenize-ids-shifted",
        summary="The IDs of `/tokenize` are those of the tokens before in the vocabulary.",
        breaks=in_documents(
            _of_tokens(lambda ids: [max(0, token - 1) for token in ids], "tokens"),
            paths=_TOKENIZE,
        ),
    ),
    Defect(
        name="detokenize-strips",
        summary="`/detokenize` drops the blanks at both ends.",
        breaks=in_documents(_strip, paths=("/detokenize",)),
    ),
    Defect(
        name="token-strings-short",
        summary="`token_strs` of `/tokenize` lacks the last token.",
        breaks=in_asked_documents(_some_tokens, paths=_TOKENIZE),
    ),
    Defect(
        name="tokenize-template-missing",
        summary="`/tokenize` of messages leaves the chat template out.",
        breaks=in_bodies(_without_template, paths=_TOKENIZE),
    ),
    Defect(
        name="tokenize-any-model",
        summary="`/tokenize` takes the name of an unknown model.",
        breaks=in_bodies(_without_model, paths=_TOKENIZE),
    ),
)
