"""Defects of everything around generation: health, version, models, headers, unknown routes."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from dataclasses import replace

from pytest_vllm.simulator.defects.defect import Break, Defect
from pytest_vllm.simulator.defects.hooks import (
    API,
    GENERATING,
    Document,
    chained,
    each,
    followed,
    in_all_choices,
    in_answers,
    in_chunks,
    in_documents,
    in_replies,
    in_requests,
    refusal,
    set_text,
    text_of,
)
from pytest_vllm.simulator.wire import Answer, Handler, Reply, Request

SLOW_S = 6.0
"""Seconds of a delay that a client notices: more than the five that checks allow."""

_JSON = "application/json"
_MODELS = ("/v1/models",)
_KNOWN_STATUSES = (404, 405)


def _health_error(handler: Handler) -> Handler:
    generated = False

    async def broken(request: Request) -> Reply:
        nonlocal generated
        if request.path == "/health" and generated:
            return Answer(status=500, headers={})
        reply = await handler(request)
        generated = generated or request.path in GENERATING
        return reply

    return broken


def _health_slow(handler: Handler) -> Handler:
    running = 0

    def leave(_complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        nonlocal running
        running -= 1

    async def broken(request: Request) -> Reply:
        nonlocal running
        if request.path == "/health" and running:
            await asyncio.sleep(SLOW_S)
        if request.path not in GENERATING:
            return await handler(request)
        running += 1
        return await followed(handler, request, ending=leave)

    return broken


def _answering(path: str, answer: Answer) -> Break:
    async def broken(request: Request, handler: Handler) -> Reply:
        return answer if request.path == path else await handler(request)

    return each(broken)


def _welcome(reply: Reply, _request: Request) -> Reply:
    if reply.status != 404:  # noqa: PLR2004 - the status of an unknown route
        return reply
    document = reply.document() if isinstance(reply, Answer) else None
    if isinstance(document, dict) and document.get("detail") != "Not Found":
        return reply  # a known route that does not know a model or an id
    return Answer(headers={"content-type": "text/html"}, body=b"<html>Welcome</html>")


def _wrong_method(reply: Reply, _request: Request) -> Reply:
    return replace(reply, status=500) if reply.status == 405 else reply  # noqa: PLR2004


def _more_models(document: Document) -> None:
    document["data"].append({**document["data"][0], "id": f"{document['data'][0]['id']}-next"})


def _twice(document: Document) -> None:
    document["data"] *= 2


def _double_length(document: Document) -> None:
    for entry in document["data"]:
        if entry.get("max_model_len"):
            entry["max_model_len"] *= 2


def _drop_root(document: Document) -> None:
    for entry in document["data"]:
        entry["root"] = ""


def _plain_text(answer: Answer) -> Answer:
    return replace(answer, headers={**answer.headers, "content-type": "text/plain"})


def _as_plain_text(reply: Reply, _request: Request) -> Reply:
    return _plain_text(reply) if isinstance(reply, Answer) else reply


def _zipped(answer: Answer) -> Answer:
    headers = {**answer.headers, "content-encoding": "gzip"}
    return replace(answer, headers=headers, body=gzip.compress(answer.body))


def _with_old_date(reply: Reply, _request: Request) -> Reply:
    return replace(reply, headers={**reply.headers, "date": "Thu, 01 Jan 1970 00:00:00 GMT"})


def _garble(choice: Document) -> None:
    text = text_of(choice)
    if not text.isascii():
        set_text(choice, text.encode("utf-8", "replace").decode("latin-1"))


def _garble_prompt(document: Document) -> None:
    prompt = document.get("prompt")
    if isinstance(prompt, str):
        document["prompt"] = prompt.encode("utf-8", "replace").decode("latin-1")


def _one_id(document: Document) -> None:
    if isinstance(document.get("id"), str):
        document["id"] = f"{document['id'].partition('-')[0]}-0123456789abcdef"


def _without_request_id(request: Request) -> Request:
    headers = {name: text for name, text in request.headers.items() if name != "x-request-id"}
    document = request.document()
    if document is None or "request_id" not in document:
        return replace(request, headers=headers)
    del document["request_id"]
    return replace(request.with_document(document), headers=headers)


def _served_anyway(handler: Handler) -> Handler:
    """Serve unknown models by the loaded one and call it by the name that was asked for."""

    async def broken(request: Request) -> Reply:
        reply = await handler(request)
        body = request.document()
        if request.path not in API or reply.status != 404 or not body:  # noqa: PLR2004
            return reply
        models = await handler(Request(method="GET", path="/v1/models", headers=request.headers))
        document = models.document() if isinstance(models, Answer) else None
        if not document:
            return reply
        asked = body.get("model")
        body["model"] = document["data"][0]["id"]
        again = await handler(request.with_document(body))
        if not isinstance(again, Answer) or not isinstance(found := again.document(), dict):
            return again
        return again.with_document({**found, "model": asked} if "model" in found else found)

    return broken


def _request_lost(handler: Handler) -> Handler:
    numbers = itertools.count(1)

    async def broken(request: Request) -> Reply:
        if request.path in GENERATING and next(numbers) % 50 == 0:
            return refusal(503, "the server is overloaded", kind="ServiceUnavailableError")
        return await handler(request)

    return broken


DEFECTS = (
    Defect(
        name="health-error",
        summary="`/health` answers 500 once the first text was generated, which still works.",
        breaks=_health_error,
    ),
    Defect(
        name="health-slow",
        summary="`/health` takes six seconds while requests run.",
        breaks=_health_slow,
    ),
    Defect(
        name="version-unknown",
        summary="`/version` says `unknown` instead of a version number.",
        breaks=in_documents(lambda body: body.update(version="unknown"), paths=("/version",)),
    ),
    Defect(
        name="ping-missing",
        summary="`/ping` is not there.",
        breaks=_answering(
            "/ping",
            Answer(status=404, headers={"content-type": _JSON}, body=b'{"detail":"Not Found"}'),
        ),
    ),
    Defect(
        name="load-text",
        summary="`/load` tells the load as a text instead of a number.",
        breaks=in_documents(
            lambda body: body.update(server_load=str(body.get("server_load"))), paths=("/load",)
        ),
    ),
    Defect(
        name="openapi-empty",
        summary="`/openapi.json` names no route of the API.",
        breaks=in_documents(lambda body: body.update(paths={}), paths=("/openapi.json",)),
    ),
    Defect(
        name="unknown-route-200",
        summary="An unknown route is answered 200 with a web page.",
        breaks=in_replies(_welcome),
    ),
    Defect(
        name="wrong-method-500",
        summary="A wrong method on a known route is answered 500.",
        breaks=in_replies(_wrong_method),
    ),
    Defect(
        name="model-id-unusable",
        summary="`/v1/models` lists a second name that no request can use.",
        breaks=in_documents(_more_models, paths=_MODELS),
    ),
    Defect(
        name="models-duplicate",
        summary="`/v1/models` lists each model twice.",
        breaks=in_documents(_twice, paths=_MODELS),
    ),
    Defect(
        name="models-object-wrong",
        summary="`/v1/models` calls itself `models` instead of `list`.",
        breaks=in_documents(lambda body: body.update(object="models"), paths=_MODELS),
    ),
    Defect(
        name="context-length-doubled",
        summary="`/v1/models` tells twice the context length that the server takes.",
        breaks=in_documents(_double_length, paths=_MODELS),
    ),
    Defect(
        name="model-root-missing",
        summary="`root` of `/v1/models` is empty: nobody can tell which weights run.",
        breaks=in_documents(_drop_root, paths=_MODELS),
    ),
    Defect(
        name="model-rewritten",
        summary="Replies name another model than the one asked for.",
        breaks=in_documents(lambda body: body.update(model="another")),
    ),
    Defect(
        name="other-model-served",
        summary="A request for an unknown model is served by the loaded one.",
        breaks=_served_anyway,
    ),
    Defect(
        name="created-zero",
        summary="`created` is 0.",
        breaks=in_documents(lambda body: body.update(created=0)),
    ),
    Defect(
        name="created-an-hour-ago",
        summary="`created` is an hour old.",
        breaks=in_documents(lambda body: body.update(created=body["created"] - 3600)),
    ),
    Defect(
        name="date-wrong",
        summary="The `Date` header is of 1970.",
        breaks=in_replies(_with_old_date),
    ),
    Defect(
        name="content-type-plain",
        summary="JSON is sent as `text/plain`.",
        breaks=in_replies(_as_plain_text, paths=GENERATING),
    ),
    Defect(
        name="gzip-unasked",
        summary="JSON is compressed although the client accepts it as it is only.",
        breaks=in_answers(_zipped),
    ),
    Defect(
        name="mojibake",
        summary="Every character beyond ASCII is garbled: UTF-8 was read as Latin-1.",
        breaks=chained(
            in_all_choices(_garble), in_documents(_garble_prompt, paths=("/detokenize",))
        ),
    ),
    Defect(
        name="id-empty",
        summary="`id` of a reply is empty.",
        breaks=in_documents(lambda body: body.update(id="")),
    ),
    Defect(
        name="id-repeated",
        summary="All replies have the same `id`.",
        breaks=chained(in_documents(_one_id), in_chunks(_one_id)),
    ),
    Defect(
        name="request-id-ignored",
        summary="`X-Request-Id` and `request_id` do not come back in `id`.",
        breaks=in_requests(_without_request_id, paths=GENERATING),
    ),
    Defect(
        name="request-lost-503",
        summary="Every fiftieth request is answered 503 on an idle server.",
        breaks=_request_lost,
    ),
)
