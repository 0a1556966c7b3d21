"""Defects of refusals, and of what bad requests leave behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.simulator.defects.defect import Break, Defect
from pytest_vllm.simulator.defects.hooks import (
    GENERATING,
    Document,
    followed,
    in_refusals,
    refusal,
)
from pytest_vllm.simulator.defects.service import SLOW_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.simulator.wire import Answer, Handler, Reply, Request

_BAD = 400
_LONG_BODY_BYTES = 6000
_HUGE_BYTES = 30_000
_CONSTRAINTS = ("structured_outputs", "response_format", "guided_json", "guided_regex")
_TRACEBACK = 'Traceback (most recent call last):\n  File "/usr/lib/x.py", line 3\nValueError: no'
_PATH = "no room in /usr/local/lib/python3.12/dist-packages/vllm/v1/engine/core.py:714"


def _message(text: str) -> Callable[[Answer], Answer]:
    """Say something else in an error, which stays an error of the same shape."""

    def changed(answer: Answer) -> Answer:
        document = answer.document()
        error = document.get("error") if isinstance(document, dict) else None
        if not isinstance(error, dict):
            return answer
        error["message"] = text
        return answer.with_document(document)

    return changed


def _html(answer: Answer) -> Answer:
    headers = {**answer.headers, "content-type": "text/html"}
    return replace(answer, headers=headers, body=b"<html><h1>Bad Request</h1></html>")


def _detail(answer: Answer) -> Answer:
    return answer.with_document({"detail": "There was an error parsing the body"})


def _other_code(answer: Answer) -> Answer:
    document = answer.document()
    if not isinstance(document, dict) or not isinstance(document.get("error"), dict):
        return answer
    document["error"]["code"] = 500
    return answer.with_document(document)


def _slow(handler: Handler) -> Handler:
    async def broken(request: Request) -> Reply:
        reply = await handler(request)
        if reply.status >= _BAD and len(request.body) > _LONG_BODY_BYTES:
            await asyncio.sleep(SLOW_S)
        return reply

    return broken


def _dead() -> Answer:
    return refusal(500, "EngineCore encountered an issue", kind="InternalServerError")


def _deadly(kills: Callable[[Request, Reply], bool]) -> Break:
    """End all generation, but not `/health`, after a request of some kind."""

    def breaks(handler: Handler) -> Handler:
        dead = False

        async def broken(request: Request) -> Reply:
            nonlocal dead
            if request.path not in GENERATING:
                return await handler(request)
            if dead:
                return _dead()
            reply = await handler(request)
            if kills(request, reply):
                dead = True
            return reply

        return broken

    return breaks


def _is_bad_token(request: Request, reply: Reply) -> bool:
    body = request.document() or {}
    names = ("logit_bias", "stop_token_ids", "allowed_token_ids")
    return reply.status >= _BAD and any(body.get(name) for name in names)


def _is_bad_constraint(request: Request, reply: Reply) -> bool:
    body = request.document() or {}
    return reply.status >= _BAD and any(body.get(name) for name in _CONSTRAINTS)


def _request_id(request: Request) -> str:
    body: Document = request.document() or {}
    return str(body.get("request_id") or request.headers.get("x-request-id") or "")


def _killed_by_twins(handler: Handler) -> Handler:
    running: Counter[str] = Counter()
    dead = False

    async def broken(request: Request) -> Reply:
        nonlocal dead
        if request.path not in GENERATING:
            return await handler(request)
        name = _request_id(request)
        if name and running[name]:
            dead = True
        if dead:
            return _dead()
        running[name] += 1

        def leave(_complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
            running[name] -= 1

        return await followed(handler, request, ending=leave)

    return broken


DEFECTS = (
    Defect(
        name="refusal-500",
        summary="What ought to be refused with 4xx is answered 500.",
        breaks=in_refusals(lambda answer: replace(answer, status=500)),
    ),
    Defect(
        name="refusal-200",
        summary="Refusals have the status 200.",
        breaks=in_refusals(lambda answer: replace(answer, status=200)),
    ),
    Defect(
        name="refusal-html",
        summary="Refusals are web pages.",
        breaks=in_refusals(_html),
    ),
    Defect(
        name="refusal-detail",
        summary='Refusals are `{"detail": ...}` instead of an error object.',
        breaks=in_refusals(_detail),
    ),
    Defect(
        name="refusal-empty",
        summary="Refusals have no body.",
        breaks=in_refusals(lambda answer: replace(answer, body=b"")),
    ),
    Defect(
        name="refusal-with-traceback",
        summary="Refusals show a traceback.",
        breaks=in_refusals(_message(_TRACEBACK)),
    ),
    Defect(
        name="refusal-with-path",
        summary="Refusals show a path of the server's file system.",
        breaks=in_refusals(_message(_PATH)),
    ),
    Defect(
        name="refusal-huge",
        summary="Refusals have bodies of 30 kB.",
        breaks=in_refusals(_message("x" * _HUGE_BYTES)),
    ),
    Defect(
        name="refusal-code-wrong",
        summary="`error.code` is not the status.",
        breaks=in_refusals(_other_code),
    ),
    Defect(
        name="refusal-slow",
        summary="A prompt that is too long is refused only after six seconds.",
        breaks=_slow,
    ),
    Defect(
        name="bad-token-kills",
        summary="A token ID out of the vocabulary kills the engine; `/health` stays 200.",
        issue="vllm PR16529",
        breaks=_deadly(_is_bad_token),
    ),
    Defect(
        name="bad-grammar-kills",
        summary="A malformed constraint kills the engine; `/health` stays 200.",
        issue="vllm#43920",
        breaks=_deadly(_is_bad_constraint),
    ),
    Defect(
        name="duplicate-id-kills",
        summary="Two running requests with one request ID kill the engine.",
        issue="vllm#15041",
        breaks=_killed_by_twins,
    ),
)
