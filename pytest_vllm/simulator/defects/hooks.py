"""The places where a defect can take hold of what goes in and out of a server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.events import Events, data_of, with_data
from pytest_vllm.simulator.wire import Answer, EventStream, Handler, Reply, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from pytest_vllm.simulator.defects.defect import Break

Document = dict[str, Any]

COMPLETIONS = ("/v1/completions",)
CHAT = ("/v1/chat/completions",)
GENERATING = COMPLETIONS + CHAT
RESPONSES = ("/v1/responses",)
MESSAGES = ("/v1/messages",)
API = (
    *GENERATING,
    *RESPONSES,
    *MESSAGES,
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
"""Every path that takes a JSON body."""

_OK = 200
_BAD = 400


def in_requests(change: Callable[[Request], Request], *, paths: Iterable[str]) -> Break:
    """Change requests before the server sees them."""
    wanted = frozenset(paths)

    def breaks(handler: Handler) -> Handler:
        async def broken(request: Request) -> Reply:
            return await handler(change(request) if request.path in wanted else request)

        return broken

    return breaks


def in_bodies(change: Callable[[Document], object], *, paths: Iterable[str] = GENERATING) -> Break:
    """Change the JSON object of requests, in place."""

    def changed(request: Request) -> Request:
        document = request.document()
        if document is None:
            return request
        change(document)
        return request.with_document(document)

    return in_requests(changed, paths=paths)


def without_fields(*names: str, paths: Iterable[str] = GENERATING) -> Break:
    """Ignore fields of requests."""

    def drop(body: Document) -> None:
        for name in names:
            body.pop(name, None)

    return in_bodies(drop, paths=paths)


def in_replies(change: Callable[[Reply, Request], Reply], *, paths: Iterable[str] = ()) -> Break:
    """Change whatever is replied; without paths, everywhere."""
    wanted = frozenset(paths)

    def breaks(handler: Handler) -> Handler:
        async def broken(request: Request) -> Reply:
            reply = await handler(request)
            return change(reply, request) if not wanted or request.path in wanted else reply

        return broken

    return breaks


def in_answers(change: Callable[[Answer], Answer], *, paths: Iterable[str] = GENERATING) -> Break:
    """Change good complete replies."""

    def changed(reply: Reply, _request: Request) -> Reply:
        return change(reply) if isinstance(reply, Answer) and reply.status == _OK else reply

    return in_replies(changed, paths=paths)


def in_refusals(change: Callable[[Answer], Reply]) -> Break:
    """Change refusals of the API, replies of status 400 and above."""

    def changed(reply: Reply, _request: Request) -> Reply:
        return change(reply) if isinstance(reply, Answer) and reply.status >= _BAD else reply

    return in_replies(changed, paths=API)


def in_documents(
    change: Callable[[Document], object], *, paths: Iterable[str] = GENERATING
) -> Break:
    """Change the JSON object of good complete replies, in place."""
    return in_asked_documents(lambda document, _asked: change(document), paths=paths)


def in_asked_documents(
    change: Callable[[Document, Document], object], *, paths: Iterable[str] = GENERATING
) -> Break:
    """Change the JSON object of good complete replies, in place, knowing that of the request."""

    def changed(reply: Reply, request: Request) -> Reply:
        if not isinstance(reply, Answer) or reply.status != _OK:
            return reply
        document = reply.document()
        if not isinstance(document, dict):
            return reply
        change(document, request.document() or {})
        return reply.with_document(document)

    return in_replies(changed, paths=paths)


def in_choices(change: Callable[[Document], object], *, paths: Iterable[str] = GENERATING) -> Break:
    """Change each choice of good complete replies, in place."""

    def changed(document: Document) -> None:
        for choice in document.get("choices", []):
            change(choice)

    return in_documents(changed, paths=paths)


def in_events(
    change: Callable[[AsyncIterator[str]], AsyncIterator[str]],
    *,
    paths: Iterable[str] = GENERATING,
) -> Break:
    """Change the events of streams; nothing is held back unless the change does so."""

    def changed(reply: Reply, _request: Request) -> Reply:
        if not isinstance(reply, EventStream):
            return reply
        return replace(reply, events=Events(change(reply.events), source=reply.events))

    return in_replies(changed, paths=paths)


def in_chunks(change: Callable[[Document], object], *, paths: Iterable[str] = GENERATING) -> Break:
    """Change the JSON object of every event of a stream, in place."""

    async def changed(events: AsyncIterator[str]) -> AsyncIterator[str]:
        async for event in events:
            document = data_of(event)
            if document is None:
                yield event
                continue
            change(document)
            yield with_data(event, document)

    return in_events(changed, paths=paths)


def in_all_choices(
    change: Callable[[Document], object], *, paths: Iterable[str] = GENERATING
) -> Break:
    """Change each choice of good complete replies and of the chunks of streams, in place."""

    def changed(document: Document) -> None:
        for choice in document.get("choices", []):
            change(choice)

    return chained(in_documents(changed, paths=paths), in_chunks(changed, paths=paths))


def chained(*breaks: Break) -> Break:
    """Break a handler in several ways at once."""

    def all_of(handler: Handler) -> Handler:
        for one in breaks:
            handler = one(handler)
        return handler

    return all_of


def each(change: Callable[[Request, Handler], Any]) -> Break:
    """Answer every request by a coroutine that has the sound handler at hand."""

    def breaks(handler: Handler) -> Handler:
        async def broken(request: Request) -> Reply:
            reply: Reply = await change(request, handler)
            return reply

        return broken

    return breaks


async def followed(handler: Handler, request: Request, *, ending: Callable[[bool], None]) -> Reply:
    """Answer a request and tell when it is over, also when the client goes away.

    Args:
        handler: Answers the request.
        request: The request.
        ending: Called once, with whether the reply came to its end by itself.
    """
    try:
        reply = await handler(request)
    except BaseException:
        ending(False)  # noqa: FBT003 - the one thing that it is told
        raise
    if isinstance(reply, EventStream):
        return replace(reply, events=Events(reply.events, ending=ending))
    ending(True)  # noqa: FBT003 - the one thing that it is told
    return reply


def text_of(choice: Document) -> str:
    """Return the text of a choice of either endpoint, complete or a delta."""
    part, key = _text_place(choice)
    return part.get(key) or ""


def set_text(choice: Document, text: str) -> None:
    """Replace the text of a choice of either endpoint, complete or a delta."""
    part, key = _text_place(choice)
    part[key] = text


def _text_place(choice: Document) -> tuple[Document, str]:
    for name in ("message", "delta"):
        if isinstance(choice.get(name), dict):
            return choice[name], "content"
    return choice, "text"


def refusal(status: int, message: str, *, kind: str = "BadRequestError") -> Answer:
    """Return an error in vLLM's words."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    answer = Answer(status=status, headers={"content-type": "application/json"})
    return answer.with_document({"error": error})
