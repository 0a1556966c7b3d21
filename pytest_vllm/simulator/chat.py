"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.completions import EVENT_HEADERS, streamed
from pytest_vllm.simulator.engine import Job
from pytest_vllm.simulator.errors import ApiError, about, dump, json_answer
from pytest_vllm.simulator.messages_in import check_messages, rendered
from pytest_vllm.simulator.params import FIELDS, check_early, sampling_params
from pytest_vllm.simulator.serving import collect, gathered, merge
from pytest_vllm.simulator.shapes import chat_logprobs, prompt_logprobs
from pytest_vllm.simulator.structured import constraint_factory
from pytest_vllm.simulator.template import text_of
from pytest_vllm.simulator.tools import Tools, read_tools
from pytest_vllm.simulator.wire import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pytest_vllm.simulator.engine import Step
    from pytest_vllm.simulator.logprobs import TokenLogprobs
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """A chat request that was found good.

    Attributes:
        values: Its fields.
        text: The prompt as the template rendered it.
        role: Role of the reply.
        jobs: One for each choice.
        top: Alternatives to tell for each token, `None` for no log probabilities.
        scores: Log probabilities of the prompt, if asked for.
        tools: What the model may call.
        identity: What all chunks of the reply say.
        echoed: Text that comes before what is generated.
    """

    values: Mapping[str, Any]
    text: str
    role: str
    jobs: Sequence[Job]
    top: int | None
    scores: Sequence[TokenLogprobs | None] | None
    tools: Tools
    identity: Mapping[str, Any]
    echoed: str

    @property
    def prompt(self) -> Sequence[int]:
        """Tokens of the prompt."""
        return self.jobs[0].prompt


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
        "logprobs": _logprobs(call, steps),
        "finish_reason": call.tools.finish_reason(reason, called=bool(calls)),
        "stop_reason": steps[-1].stop_reason,
        "token_ids": [step.token for step in steps] if ids else None,
        "routed_experts": None,
    }


def _logprobs(call: ChatCall, steps: Sequence[Step]) -> dict[str, Any] | None:
    if call.top is None:
        return None
    entries = [step.logprobs for step in steps if step.logprobs]
    as_ids = bool(call.values.get("return_tokens_as_token_ids", False))
    return chat_logprobs(entries, call.top, as_ids)


# --- streams -------------------------------------------------------------------------------------


async def chat_events(serving: Serving, call: ChatCall) -> AsyncIterator[str]:
    """Generate a reply as server-sent events."""
    values, count = call.values, len(call.jobs)
    identity = {**call.identity, "object": "chat.completion.chunk"}
    options = values.get("stream_options") or {}
    usage = bool(options.get("include_usage"))
    continuous = usage and bool(options.get("continuous_usage_stats"))
    counts, left, cached = [0] * count, count, 0
    readers = [call.tools.reader() for _ in call.jobs]
    begun = False

    def told(number: int) -> dict[str, Any]:
        if not continuous:
            return {}
        tokens = serving.stream_usage(len(call.prompt), counts[number], None)
        return {"usage": {**tokens, "completion_tokens_details": None}}

    async with aclosing(merge(serving.engine, call.jobs)) as steps:
        interval = max(1, values.get("stream_interval", 1))
        async for number, group in gathered(steps, interval):
            if not begun:
                begun, cached = True, group[0].cached
                for chunk in _opening(call, identity):
                    number_of = chunk["choices"][0]["index"]
                    ids = {name: chunk.pop(name) for name in ("prompt_token_ids", "prompt_text")}
                    yield f"data: {dump({**chunk, **told(number_of), **ids})}"
            counts[number] += len(group)
            reason = group[-1].finish_reason
            left -= reason is not None
            deltas = readers[number].deltas("".join(step.text for step in group), reason)
            for at, delta in enumerate(deltas):
                last = at == len(deltas) - 1
                part = _part(call, number, delta, group if last else (), readers[number].called)
                chunk = {**identity, "choices": [part], **told(number)}
                if last and not left and not usage:
                    chunk["system_fingerprint"] = serving.fingerprint
                yield f"data: {streamed(chunk)}"
    if usage:
        total = serving.stream_usage(len(call.prompt), sum(counts), cached)
        if "prompt_tokens_details" in total:
            total["prompt_tokens_details"]["created_cache_tokens"] = 0
        chunk = {**identity, "choices": [], "usage": total}
        yield f"data: {dump({**chunk, 'system_fingerprint': serving.fingerprint})}"
    yield "data: [DONE]"


def _opening(call: ChatCall, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the chunks that name the role, and one with the text that is continued, if echoed."""
    values = call.values
    ids = values.get("return_token_ids", False)
    deltas: list[dict[str, Any]] = [{"role": call.role, "content": ""}]
    if call.echoed:
        deltas.append({"content": call.echoed})
    return [
        {
            **identity,
            "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}],
            "prompt_token_ids": call.prompt if ids else None,
            "prompt_text": call.text if values.get("return_prompt_text") else None,
        }
        for index in range(len(call.jobs))
        for delta in deltas
    ]


def _part(
    call: ChatCall,
    index: int,
    delta: Mapping[str, Any],
    group: Sequence[Step],
    called: bool,  # noqa: FBT001 - whether a tool was called
) -> dict[str, Any]:
    ids = call.values.get("return_token_ids", False)
    reason = group[-1].finish_reason if group else None
    part: dict[str, Any] = {
        "index": index,
        "delta": delta,
        "logprobs": _logprobs(call, group) if group else None,
        "finish_reason": call.tools.finish_reason(reason, called=called),
    }
    if reason is not None:
        part["stop_reason"] = group[-1].stop_reason
    part["token_ids"] = [step.token for step in group] if ids else None
    return part
