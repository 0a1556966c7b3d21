"""A chat completion as server-sent events."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.completion_events import streamed
from pytest_vllm.simulator.errors import dump
from pytest_vllm.simulator.serving import gathered, merge
from pytest_vllm.simulator.shapes import chat_logprobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pytest_vllm.simulator.engine import Job, Step
    from pytest_vllm.simulator.logprobs import TokenLogprobs
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.tools import Tools


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


def told_logprobs(call: ChatCall, steps: Sequence[Step]) -> dict[str, Any] | None:
    """Return the log probabilities of some tokens, `None` when they are not asked for."""
    if call.top is None:
        return None
    entries = [step.logprobs for step in steps if step.logprobs]
    as_ids = bool(call.values.get("return_tokens_as_token_ids", False))
    return chat_logprobs(entries, call.top, as_ids)


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
        "logprobs": told_logprobs(call, group) if group else None,
        "finish_reason": call.tools.finish_reason(reason, called=called),
    }
    if reason is not None:
        part["stop_reason"] = group[-1].stop_reason
    part["token_ids"] = [step.token for step in group] if ids else None
    return part
