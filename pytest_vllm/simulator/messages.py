"""`POST /v1/messages`, Anthropic's way to ask, on top of chat."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.chat import read_chat
from pytest_vllm.simulator.completion_events import EVENT_HEADERS
from pytest_vllm.simulator.errors import ApiError, InvalidFieldsError, dump, invalid, json_answer
from pytest_vllm.simulator.serving import collect, merge
from pytest_vllm.simulator.wire import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pytest_vllm.simulator.chat_events import ChatCall
    from pytest_vllm.simulator.engine import Step
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.wire import Reply, Request

_FIELDS = {
    "model": fields.string,
    "max_tokens": fields.integer,
    "messages": fields.array,
    "stop_sequences": fields.strings,
    "stream": fields.boolean,
    "temperature": fields.number,
    "top_p": fields.number,
    "top_k": fields.integer,
    "tools": fields.array,
    "tool_choice": fields.mapping,
    "metadata": fields.mapping,
}
_ROLES = ("user", "assistant", "system")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


async def messages(serving: Serving, request: Request) -> Reply:
    """Answer a conversation.

    Raises:
        ApiError: The request is refused.
    """
    document = serving.document(request)
    fields.required(document, "model", "messages", "max_tokens")
    values = fields.read(document, _FIELDS)
    _check(values)
    try:
        call = await read_chat(serving, request, _as_chat(document, values))
    except ApiError as error:
        if error.status == 404:  # noqa: PLR2004 - the only refusal in Anthropic's shape
            said = {"type": error.kind, "message": error.message}
            return json_answer({"type": "error", "error": said}, status=404)
        raise
    if values.get("stream"):
        return EventStream(headers=EVENT_HEADERS, events=_events(serving, call))
    steps = (await collect(serving.engine, call.jobs))[0]
    return json_answer(_body(serving, call, steps))


async def count_tokens(serving: Serving, request: Request) -> Reply:
    """Count the tokens of a conversation.

    Raises:
        ApiError: The request is refused.
    """
    document = serving.document(request)
    fields.required(document, "model", "messages")
    values = fields.read(document, _FIELDS)
    _check_roles(values["messages"])
    call = await read_chat(serving, request, _as_chat(document, {**values, "max_tokens": 1}))
    count = len(call.prompt)
    context = {"original_input_tokens": count}
    return json_answer({"input_tokens": count, "context_management": context})


def _check(values: Mapping[str, Any]) -> None:
    if values["max_tokens"] <= 0:
        entry = invalid(
            "value_error",
            "body.max_tokens",
            "Value error, max_tokens must be positive",
            values["max_tokens"],
        )
        raise InvalidFieldsError([entry])
    _check_roles(values["messages"])


def _check_roles(turns: Sequence[Any]) -> None:
    expected = "'user', 'assistant' or 'system'"
    for at, turn in enumerate(turns):
        place = f"body.messages.{at}"
        if not isinstance(turn, dict):
            text = "Input should be a valid dictionary or object to extract fields from"
            raise InvalidFieldsError([invalid("model_attributes_type", place, text, turn)])
        for name in ("role", "content"):
            if name not in turn:
                entry = invalid("missing", f"{place}.{name}", "Field required", turn)
                raise InvalidFieldsError([entry])
        if turn["role"] not in _ROLES:
            text = f"Input should be {expected}"
            entry = invalid("literal_error", f"{place}.role", text, turn["role"], expected=expected)
            raise InvalidFieldsError([entry])
        if not isinstance(turn["content"], str | list):
            text = "Input should be a valid string"
            entry = invalid("string_type", f"{place}.content.str", text, turn["content"])
            raise InvalidFieldsError([entry])


# --- as chat -------------------------------------------------------------------------------------


def _as_chat(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same request for the chat endpoint."""
    turns: list[dict[str, Any]] = []
    system = document.get("system")
    if system:
        turns.append({"role": "system", "content": _text(system)})
    for turn in values["messages"]:
        turns += _turns(turn)
    chat: dict[str, Any] = {"model": values["model"], "messages": turns}
    for name in ("max_tokens", "stream", "temperature", "top_p", "top_k"):
        if name in values:
            chat[name] = values[name]
    if values.get("stop_sequences"):
        chat["stop"] = values["stop_sequences"]
    if values.get("tools"):
        chat["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.get("name"),
                    "description": tool.get("description") or "",
                    "parameters": tool.get("input_schema") or {},
                },
            }
            for tool in values["tools"]
        ]
        choice = values.get("tool_choice") or {"type": "auto"}
        if choice.get("type") == "tool":
            chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
        else:
            chat["tool_choice"] = _CHOICES.get(choice.get("type", ""), "auto")
    return chat


def _turns(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one turn as messages of chat: tool results are messages of their own."""
    content = turn["content"]
    if isinstance(content, str):
        return [{"role": turn["role"], "content": content}]
    results, calls, texts = [], [], []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result":
            results.append({"role": "tool", "content": _text(block.get("content") or "")})
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input"))}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "image":
            texts.append({"type": "image_url", "image_url": {"url": ""}})
        else:
            texts.append({"type": "text", "text": str((block or {}).get("text") or "")})
    said: dict[str, Any] = {"role": turn["role"], "content": texts}
    if calls:
        said["tool_calls"] = calls
    return [*results, said] if texts or calls else results


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(block.get("text") or "") for block in content if isinstance(block, dict))


# --- replies -------------------------------------------------------------------------------------


def _stop(steps: Sequence[Step], *, called: bool) -> tuple[str, str | None]:
    """Return why a reply ended, and the stop sequence that ended it."""
    last = steps[-1]
    if last.finish_reason == "length":
        return "max_tokens", None
    if called:
        return "tool_use", None
    if isinstance(last.stop_reason, str):
        return "stop_sequence", last.stop_reason
    return "end_turn", None


def _usage(serving: Serving, call: ChatCall, steps: Sequence[Step]) -> dict[str, Any]:
    usage = {"input_tokens": len(call.prompt), "output_tokens": len(steps)}
    if serving.settings.enable_prompt_tokens_details and steps:
        # Anthropic counts what came from the cache apart from the input.
        usage["input_tokens"] -= steps[0].cached
        usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": steps[0].cached}
    return usage


def _body(serving: Serving, call: ChatCall, steps: Sequence[Step]) -> dict[str, Any]:
    content, calls = call.tools.split("".join(step.text for step in steps))
    blocks: list[dict[str, Any]] = []
    if content or not calls:
        blocks.append({"type": "text", "text": content})
    blocks += [
        {
            "type": "tool_use",
            "id": made["id"],
            "name": made["function"]["name"],
            "input": json.loads(made["function"]["arguments"]),
        }
        for made in calls
    ]
    reason, sequence = _stop(steps, called=bool(calls))
    body = {
        "id": call.identity["id"],
        "type": "message",
        "role": "assistant",
        "content": blocks,
        "model": serving.name,
        "stop_reason": reason,
    }
    if sequence is not None:
        body["stop_sequence"] = sequence
    return {**body, "usage": _usage(serving, call, steps)}


def _event(name: str, **data: Any) -> str:
    return f"event: {name}\ndata: {dump({'type': name, **data})}"


async def _events(serving: Serving, call: ChatCall) -> AsyncIterator[str]:
    message = {
        "id": call.identity["id"],
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": serving.name,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": len(call.prompt), "output_tokens": 0},
    }
    yield _event("message_start", message=message)
    reader = call.tools.reader()
    steps: list[Step] = []
    index, open_kind = -1, ""
    async with aclosing(merge(serving.engine, call.jobs)) as generated:
        async for _, step in generated:
            steps.append(step)
            for block, delta in _blocks(reader.deltas(step.text, step.finish_reason)):
                if block is not None and (block["type"] != "text" or open_kind != "text"):
                    if open_kind:
                        yield _event("content_block_stop", index=index)
                    index, open_kind = index + 1, block["type"]
                    yield _event("content_block_start", content_block=block, index=index)
                if delta is not None:
                    yield _event("content_block_delta", delta=delta, index=index)
    if open_kind:
        yield _event("content_block_stop", index=index)
    reason, sequence = _stop(steps, called=reader.called)
    stop = {"stop_reason": reason, "stop_sequence": sequence}
    yield _event("message_delta", delta=stop, usage=_usage(serving, call, steps))
    yield _event("message_stop")


def _blocks(
    deltas: Sequence[Mapping[str, Any]],
) -> list[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """Return, for each delta of chat, the block that it belongs to if it begins one, and itself."""
    found: list[tuple[dict[str, Any] | None, dict[str, Any] | None]] = []
    for delta in deltas:
        if delta.get("content"):
            text = {"type": "text_delta", "text": delta["content"]}
            found.append(({"type": "text", "text": ""}, text))
        for part in delta.get("tool_calls") or ():
            function = part["function"]
            if "id" in part:
                block = {"type": "tool_use", "id": part["id"], "name": function["name"]}
                found.append(({**block, "input": {}}, None))
            else:
                said = {"type": "input_json_delta", "partial_json": function["arguments"]}
                found.append((None, said))
    return found
