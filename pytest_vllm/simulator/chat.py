"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.chat_events import ChatCall, chat_events, told_logprobs
from pytest_vllm.simulator.completion_events import EVENT_HEADERS
from pytest_vllm.simulator.engine import Job
from pytest_vllm.simulator.errors import ApiError, about, json_answer
from pytest_vllm.simulator.messages_in import check_messages, rendered
from pytest_vllm.simulator.params import FIELDS, check_early, sampling_params
from pytest_vllm.simulator.serving import collect
from pytest_vllm.simulator.shapes import prompt_logprobs
from pytest_vllm.simulator.structured import constraint_factory
from pytest_vllm.simulator.template import text_of
from pytest_vllm.simulator.tools import read_tools
from pytest_vllm.simulator.wire import EventStream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.simulator.engine import Step
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.wire import Reply, Request

CHAT_FIELDS = FIELDS | {
    "logprobs": fields.boolean,
    "max_completion_tokens": fields.integer,
    "add_generation_prompt": fields.boolean,
    "continue_final_message": fields.boolean,
    "chat_template": fields.string,
    "return_prompt_text": fields.boolean,
    "parallel_tool_calls": fields.boolean,
}


async def chat_completions(serving: Serving, request: Request) -> Reply:
    """Answer a conversation.

    Raises:
        ApiError: The request is refused.
    """
    call = await read_chat(serving, request, serving.document(request))
    if call.values.get("stream"):
        return EventStream(headers=EVENT_HEADERS, events=chat_events(serving, call))
    return json_answer(await chat_body(serving, call))


async def read_chat(serving: Serving, request: Request, document: dict[str, Any]) -> ChatCall:
    """Judge a chat request and make its prompt.

    Raises:
        ApiError: The request is refused.
    """
    fields.required(document, "messages")
    values = fields.read(document, CHAT_FIELDS)
    messages = check_messages(serving, document["messages"])
    top = _top(document, values)
    check_early(values)
    tools = read_tools(serving, document)
    serving.check_model(values)
    tools.check_choice()
    text = rendered(serving, messages, values, tools.told)
    tokens = serving.truncated(serving.encode(text), values)
    serving.check_length(tokens)
    asked = values.get("max_completion_tokens", values.get("max_tokens"))
    echo = bool(values.get("echo"))
    params = sampling_params(
        values,
        serving.engine.tokenizer,
        max_tokens=serving.bound(asked, len(tokens)),
        logprobs=top,
        prompt_logprobs=values.get("prompt_logprobs", (top or 0) if echo else None),
    )
    make = tools.constraint_factory(serving.engine.tokenizer, values) or constraint_factory(
        serving.engine.tokenizer, values
    )
    scores = None
    if params.prompt_logprobs is not None:
        scores = await serving.engine.score(tokens, params.prompt_logprobs)
    last = messages[-1]
    return ChatCall(
        values=values,
        text=text,
        role="assistant" if values.get("add_generation_prompt", True) else str(last["role"]),
        jobs=[
            Job(
                prompt=tokens,
                params=params,
                index=index,
                salt=values.get("cache_salt"),
                constraint=make() if make else None,
            )
            for index in range(params.n)
        ],
        top=top,
        scores=scores,
        tools=tools,
        identity={
            "id": serving.request_id(request, values, "chatcmpl"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": serving.name,
        },
        echoed=text_of(last.get("content")) if echo else "",
    )


def _top(document: Mapping[str, Any], values: Mapping[str, Any]) -> int | None:
    """Return how many alternatives are asked for, `None` for no log probabilities."""
    name = "top_logprobs"
    top = document.get(name)
    if top is not None:
        if isinstance(top, bool) or not isinstance(top, int):
            raise ApiError(f"`{name}` must be an integer.", param=name, value=top)
        if top < -1:
            raise ApiError(f"`{name}` must be a positive value or -1.", param=name, value=top)
        if (top == -1 or top > 0) and not values.get("logprobs"):
            raise about(f"when using `{name}`, `logprobs` must be set to true.", name)
    return (top or 0) if values.get("logprobs") else None


# --- whole replies -------------------------------------------------------------------------------


async def chat_body(serving: Serving, call: ChatCall) -> dict[str, Any]:
    """Generate a whole reply and return its JSON object."""
    results = await collect(serving.engine, call.jobs)
    choices = [_choice(call, index, steps) for index, steps in enumerate(results)]
    generated = sum(map(len, results))
    usage = serving.usage(len(call.prompt), generated, results[0][0].cached)
    if usage["prompt_tokens_details"]:
        usage["prompt_tokens_details"]["created_cache_tokens"] = 0
    ids = call.values.get("return_token_ids", False)
    return {
        **call.identity,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": serving.fingerprint,
        "usage": usage,
        "prompt_logprobs": None if call.scores is None else prompt_logprobs(call.scores),
        "prompt_token_ids": call.prompt if ids else None,
        "prompt_text": call.text if call.values.get("return_prompt_text") else None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _choice(call: ChatCall, index: int, steps: Sequence[Step]) -> dict[str, Any]:
    text = "".join(step.text for step in steps)
    content, calls = call.tools.split(text)
    message: dict[str, Any] = {
        "role": call.role,
        "content": call.echoed + content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if calls:
        message["tool_calls"] = calls
    message["reasoning"] = None
    reason = steps[-1].finish_reason
    ids = call.values.get("return_token_ids", False)
    return {
        "index": index,
        "message": message,
        "logprobs": told_logprobs(call, steps),
        "finish_reason": call.tools.finish_reason(reason, called=bool(calls)),
        "stop_reason": steps[-1].stop_reason,
        "token_ids": [step.token for step in steps] if ids else None,
        "routed_experts": None,
    }
