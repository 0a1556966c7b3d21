"""Defects of structured outputs and tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.defects.defect import Break, Defect
from pytest_vllm.simulator.defects.hooks import (
    CHAT,
    GENERATING,
    Document,
    each,
    followed,
    in_asked_documents,
    in_bodies,
    in_choices,
    in_chunks,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.simulator.wire import Handler, Reply, Request

_BAD = 400
_FIELDS = ("structured_outputs", "response_format")


def _without_kind(kind: str) -> Callable[[Document], None]:
    """Drop one kind of structured outputs from a request."""

    def drop(body: Document) -> None:
        kinds = body.get("structured_outputs")
        if isinstance(kinds, dict) and kinds.pop(kind, None) is not None and not kinds:
            del body["structured_outputs"]

    return drop


def _without_format(kind: str) -> Callable[[Document], None]:
    def drop(body: Document) -> None:
        wanted = body.get("response_format")
        if isinstance(wanted, dict) and wanted.get("type") == kind:
            del body["response_format"]

    return drop


def _without_schema(body: Document) -> None:
    _without_format("json_schema")(body)
    _without_kind("json")(body)


def _free_stream(body: Document) -> None:
    if body.get("stream"):
        for name in _FIELDS:
            body.pop(name, None)


def _retried_without(*names: str) -> Break:
    """Serve a refused request as if some of its fields were not there."""

    async def broken(request: Request, handler: Handler) -> Reply:
        reply = await handler(request)
        body = request.document() or {}
        if request.path not in GENERATING or reply.status != _BAD:
            return reply
        if not any(name in body for name in names):
            return reply
        rest = {name: value for name, value in body.items() if name not in names}
        return await handler(request.with_document(rest))

    return each(broken)


def _mixed_up(handler: Handler) -> Handler:
    """Hold a request to the constraint of another one that runs."""
    running: dict[int, Document] = {}

    async def broken(request: Request) -> Reply:
        body = request.document() or {}
        wanted = {name: body[name] for name in _FIELDS if body.get(name)}
        if request.path not in GENERATING or not wanted:
            return await handler(request)
        number = max(running, default=0) + 1
        other = next((found for found in running.values() if found != wanted), wanted)
        running[number] = wanted
        rest = {name: value for name, value in body.items() if name not in _FIELDS}

        def leave(_complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
            del running[number]

        return await followed(handler, request.with_document({**rest, **other}), ending=leave)

    return broken


def _call(document: Document, asked: Document) -> None:
    """Call the first tool where none was wanted."""
    tools = asked.get("tools")
    if asked.get("tool_choice") != "none" or not tools:
        return
    for choice in document["choices"]:
        function = {"name": tools[0]["function"]["name"], "arguments": "{}"}
        call = {"id": "call_0", "type": "function", "function": function}
        choice["message"]["tool_calls"] = [call]
        choice["finish_reason"] = "tool_calls"


def _free_choice(body: Document) -> None:
    if body.get("tool_choice") == "required" or isinstance(body.get("tool_choice"), dict):
        body.pop("tool_choice")
        body.pop("tools", None)


def _calls(change: Callable[[Document], object]) -> Callable[[Document], None]:
    """Change each tool call of a choice, in place."""

    def changed(choice: Document) -> None:
        part = choice.get("message") or choice.get("delta") or {}
        for call in part.get("tool_calls") or []:
            change(call)

    return changed


def _cut_arguments(call: Document) -> None:
    call["function"]["arguments"] = call["function"]["arguments"][:-1]


def _rename(call: Document) -> None:
    call["function"]["name"] += "_v2"


def _no_calls(choice: Document) -> None:
    if choice["message"].get("tool_calls"):
        choice["message"]["tool_calls"] = []


def _as_stopped(choice: Document) -> None:
    if choice["message"].get("tool_calls"):
        choice["finish_reason"] = "stop"


def _lose_tail(call: Document) -> None:
    function = call.get("function") or {}
    if str(function.get("arguments") or "").endswith("}"):
        function["arguments"] = ""


def _call_twice(choice: Document) -> None:
    calls: list[Any] = choice["message"].get("tool_calls") or []
    choice["message"]["tool_calls"] = calls + [
        {**call, "id": f"{call['id']}-again"} for call in calls
    ]


def _in_tool_deltas(change: Callable[[Document], object]) -> Break:
    def changed(chunk: Document) -> None:
        for choice in chunk.get("choices", []):
            _calls(change)(choice)

    return in_chunks(changed, paths=CHAT)


def _hide_tools(body: Document) -> None:
    """Drop the tools that a model may, but need not call."""
    if body.get("tool_choice") in (None, "auto"):
        body.pop("tools", None)
        body.pop("tool_choice", None)


DEFECTS = (
    Defect(
        name="json-object-ignored",
        summary="`response_format` `json_object` is ignored.",
        issue="vllm#12692",
        breaks=in_bodies(_without_format("json_object")),
    ),
    Defect(
        name="schema-ignored",
        summary="A JSON Schema is ignored: the text is free.",
        issue="vllm#53975",
        breaks=in_bodies(_without_schema),
    ),
    Defect(
        name="regex-ignored",
        summary="`structured_outputs.regex` is ignored.",
        breaks=in_bodies(_without_kind("regex")),
    ),
    Defect(
        name="choice-ignored",
        summary="`structured_outputs.choice` is ignored.",
        breaks=in_bodies(_without_kind("choice")),
    ),
    Defect(
        name="grammar-ignored",
        summary="`structured_outputs.grammar` is ignored.",
        breaks=in_bodies(_without_kind("grammar")),
    ),
    Defect(
        name="stream-constraint-ignored",
        summary="Constraints are ignored in streams.",
        breaks=in_bodies(_free_stream),
    ),
    Defect(
        name="bad-constraint-accepted",
        summary="An invalid constraint gives free text instead of a refusal.",
        issue="vllm#12692",
        breaks=_retried_without(*_FIELDS),
    ),
    Defect(
        name="constraints-mixed-up",
        summary="Requests that run together get each other's constraint.",
        breaks=_mixed_up,
    ),
    Defect(
        name="tool-choice-none-ignored",
        summary="A tool is called although `tool_choice` is `none`.",
        breaks=in_asked_documents(_call, paths=CHAT),
    ),
    Defect(
        name="tool-choice-ignored",
        summary="`tool_choice` `required` or a named tool gives plain text.",
        breaks=in_bodies(_free_choice, paths=CHAT),
    ),
    Defect(
        name="tool-arguments-not-json",
        summary="The arguments of a tool call are cut and no JSON.",
        issue="vllm PR42683",
        breaks=in_choices(_calls(_cut_arguments), paths=CHAT),
    ),
    Defect(
        name="tool-name-wrong",
        summary="A tool call names a function that was not offered.",
        breaks=in_choices(_calls(_rename), paths=CHAT),
    ),
    Defect(
        name="tool-calls-empty",
        summary="The finish reason is `tool_calls`, and there are none.",
        issue="vllm#53255",
        breaks=in_choices(_no_calls, paths=CHAT),
    ),
    Defect(
        name="tool-finish-stop",
        summary="A reply that calls tools ends with `stop`.",
        breaks=in_choices(_as_stopped, paths=CHAT),
    ),
    Defect(
        name="stream-tool-arguments-lost",
        summary="The tail of a tool call's arguments is lost in a stream.",
        issue="vllm#9693",
        breaks=_in_tool_deltas(_lose_tail),
    ),
    Defect(
        name="stream-tool-id-missing",
        summary="No delta of a tool call has its ID.",
        breaks=_in_tool_deltas(lambda call: call.pop("id", None)),
    ),
    Defect(
        name="parallel-tools-forced",
        summary="Every tool call is made twice, also when parallel calls are off.",
        breaks=in_choices(_call_twice, paths=CHAT),
    ),
    Defect(
        name="tools-not-rendered",
        summary="Tools do not reach the prompt.",
        breaks=in_bodies(_hide_tools, paths=CHAT),
    ),
    Defect(
        name="bad-tools-accepted",
        summary="A bad tool or tool choice is dropped instead of refused.",
        breaks=_retried_without("tools", "tool_choice"),
    ),
)
