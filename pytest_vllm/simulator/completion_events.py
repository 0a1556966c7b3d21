"""A completion as server-sent events."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.errors import dump
from pytest_vllm.simulator.serving import gathered, merge
from pytest_vllm.simulator.shapes import completion_logprobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pytest_vllm.simulator.engine import Job, Step
    from pytest_vllm.simulator.logprobs import TokenLogprobs
    from pytest_vllm.simulator.sampling import SamplingParams
    from pytest_vllm.simulator.serving import Serving

EVENT_HEADERS = {"content-type": "text/event-stream; charset=utf-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInput:
    """A prompt with its tokens, its text, and what it may generate."""

    tokens: list[int]
    text: str
    first: str
    params: SamplingParams
    scores: Sequence[TokenLogprobs | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCall:
    """A request that was found good."""

    values: Mapping[str, Any]
    prompts: Sequence[PromptInput]
    jobs: Sequence[Job]
    identity: Mapping[str, Any]

    def prompt_of(self, number: int) -> PromptInput:
        """Return the prompt of a choice; those of the first prompt come first."""
        return self.prompts[number // self.prompts[0].params.n]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(prompt.tokens) for prompt in self.prompts)


def as_ids(values: Mapping[str, Any]) -> bool:
    """Tell whether tokens are told as `token_id:7`."""
    return bool(values.get("return_tokens_as_token_ids", False))


async def completion_events(serving: Serving, call: CompletionCall) -> AsyncIterator[str]:
    """Generate a completion as server-sent events."""
    values, choices = call.values, len(call.jobs)
    options = values.get("stream_options") or {}
    usage = bool(options.get("include_usage"))
    continuous = usage and bool(options.get("continuous_usage_stats"))
    counts, offsets, left, cached = [0] * choices, [0] * choices, choices, 0
    interval = max(1, values.get("stream_interval", 1))
    async with aclosing(merge(serving.engine, call.jobs)) as steps:
        async for number, group in gathered(steps, interval):
            prompt = call.prompt_of(number)
            first = not counts[number]
            if first:
                cached += group[0].cached
            counts[number] += len(group)
            part, offsets[number] = _part(call, number, group, first=first, offset=offsets[number])
            left -= part["finish_reason"] is not None
            chunk = {**call.identity, "choices": [part]}
            if continuous:
                chunk["usage"] = serving.stream_usage(len(prompt.tokens), counts[number], None)
            if not left and not usage:
                chunk["system_fingerprint"] = serving.fingerprint
            yield f"data: {streamed(chunk)}"
    if usage:
        total = serving.stream_usage(call.prompt_tokens, sum(counts), cached)
        last = {**call.identity, "choices": [], "usage": total}
        yield f"data: {dump({**last, 'system_fingerprint': serving.fingerprint})}"
    yield "data: [DONE]"


def _part(
    call: CompletionCall, number: int, group: Sequence[Step], *, first: bool, offset: int
) -> tuple[dict[str, Any], int]:
    """Return one choice of a chunk and the text offset behind it."""
    values, prompt = call.values, call.prompt_of(number)
    echoed = first and values.get("echo", False)
    hidden = values.get("echo", False) and values.get("max_tokens") == 0
    shown = () if hidden else group
    logprobs = None
    if prompt.params.logprobs is not None:
        entries = [*((prompt.scores or ()) if echoed else ()), *(step.logprobs for step in shown)]
        tokens = [*(prompt.tokens if echoed else ()), *(step.token for step in shown)]
        logprobs = completion_logprobs(entries, tokens, as_ids(values), prompt.first, offset)
        offset += sum(map(len, logprobs["tokens"]))
    ids = values.get("return_token_ids", False)
    part = {
        "index": number,
        "text": (prompt.text if echoed else "") + "".join(step.text for step in shown),
        "logprobs": logprobs,
        "finish_reason": "length" if hidden else group[-1].finish_reason,
        "stop_reason": group[-1].stop_reason,
        "prompt_token_ids": prompt.tokens if first and (ids or echoed) else None,
        "token_ids": [step.token for step in shown] if ids else None,
    }
    return part, offset


def streamed(chunk: Mapping[str, Any]) -> str:
    """Return a chunk as JSON; numbers that JSON cannot say become `null`, as in vLLM's streams."""
    try:
        return dump(chunk)
    except ValueError:
        return dump(_without_nan(chunk))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
