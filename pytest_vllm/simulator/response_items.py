"""Items of the Responses API: what goes in as messages, and what comes out."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.errors import InvalidFieldsError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.simulator.tools import Tools


def messages_of(given: str | list[Any], instructions: str | None) -> list[dict[str, Any]]:
    """Return the messages that an input stands for.

    Args:
        given: A text, or a list of items.
        instructions: What comes first, as a system message.

    Raises:
        InvalidFieldsError: An item is none.
    """
    first: list[dict[str, Any]] = []
    if instructions is not None:
        first.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*first, {"role": "user", "content": given}]
    return first + [_message(f"body.input.{at}", item) for at, item in enumerate(given)]


def _message(place: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise InvalidFieldsError(
            [invalid("dict_type", place, "Input should be a valid dictionary", item)]
        )
    if item.get("type") == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}
    if item.get("type") == "function_call_output":
        return {"role": "tool", "content": str(item.get("output", ""))}
    if "role" not in item:
        raise InvalidFieldsError([invalid("missing", f"{place}.role", "Field required", item)])
    return {"role": item["role"], "content": item.get("content", "")}


def tools_of(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return flat function tools as the chat endpoint takes them."""
    return [
        {
            "type": "function",
            "function": {
                name: tool[name]
                for name in ("name", "description", "parameters")
                if tool.get(name) is not None
            },
        }
        for tool in tools
    ]


def text_part(text: str, logprobs: list[Any] | None = None) -> dict[str, Any]:
    """Return a part of a message."""
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}


def message_item(text: str | None, item_id: str | None = None) -> dict[str, Any]:
    """Return a message; one without a text is in progress."""
    return {
        "id": item_id or f"msg_{secrets.token_hex(8)}",
        "content": [] if text is None else [text_part(text)],
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "type": "message",
        "phase": None,
    }


def call_item(call: Mapping[str, Any], item_id: str | None = None, *, done: bool) -> dict[str, Any]:
    """Return a call of a function.

    Args:
        call: The call as the chat endpoint tells it.
        item_id: ID of the item, a new one if not given.
        done: Whether its arguments are complete.
    """
    return {
        "arguments": call["function"].get("arguments", ""),
        "call_id": call["id"],
        "name": call["function"]["name"],
        "type": "function_call",
        "id": item_id or f"fc_{secrets.token_hex(8)}",
        "async": None,
        "caller": None,
        "namespace": None,
        "status": "completed" if done else "in_progress",
    }


def output_items(tools: Tools, text: str) -> list[dict[str, Any]]:
    """Return the items of a whole text: a message if there is content, then calls."""
    content, calls = tools.split(text)
    items = [message_item(content)] if content else []
    return items + [call_item(call, done=True) for call in calls]
