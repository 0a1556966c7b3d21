"""`POST /v1/chat/completions/batch`: several conversations in one request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.chat import chat_body, read_chat
from pytest_vllm.simulator.errors import InvalidFieldsError, invalid, json_answer

if TYPE_CHECKING:
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.wire import Reply, Request

_SUMMED = ("prompt_tokens", "total_tokens", "completion_tokens")


async def chat_batch(serving: Serving, request: Request) -> Reply:
    """Answer conversations, one choice for each.

    Raises:
        ApiError: The request is refused.
    """
    document = serving.document(request)
    fields.required(document, "messages")
    conversations = document["messages"]
    if not isinstance(conversations, list) or not conversations:
        text = "Input should be a valid list"
        raise InvalidFieldsError([invalid("list_type", "body.messages", text, conversations)])
    document = {**document, "stream": False}
    calls = [
        await read_chat(serving, request, {**document, "messages": messages})
        for messages in conversations
    ]
    bodies: list[dict[str, Any]] = await asyncio.gather(
        *(chat_body(serving, call) for call in calls)
    )
    choices = [choice for body in bodies for choice in body["choices"]]
    usage = bodies[0]["usage"] | {
        name: sum(body["usage"][name] for body in bodies) for name in _SUMMED
    }
    numbered = [{**choice, "index": index} for index, choice in enumerate(choices)]
    return json_answer({**bodies[0], "choices": numbered, "usage": usage})
