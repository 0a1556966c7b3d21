"""`POST /v1/completions`."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.beam import beam_search
from pytest_vllm.simulator.detokenize import TokenText
from pytest_vllm.simulator.engine import Job
from pytest_vllm.simulator.errors import ApiError, about, dump, json_answer
from pytest_vllm.simulator.params import FIELDS, check_early, sampling_params
from pytest_vllm.simulator.serving import collect, gathered, merge
from pytest_vllm.simulator.shapes import completion_logprobs, prompt_logprobs
from pytest_vllm.simulator.structured import constraint_factory
from pytest_vllm.simulator.wire import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pytest_vllm.simulator.engine import Step
    from pytest_vllm.simulator.logprobs import TokenLogprobs
    from pytest_vllm.simulator.sampling import SamplingParams
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.wire import Reply, Request

COMPLETION_FIELDS = FIELDS | {"prompt": fields.prompt, "logprobs": fields.integer, "suffix": fields.string}
_DEFAULT_MAX_TOKENS = 16
_MAX_PROMPTS = 1024
EVENT_HEADERS = {"content-type": "text/event-stream; charset=utf-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A prompt with its tokens, its text, and what it may generate."""

    tokens: list[int]
    text: str
    first: str
    params: SamplingParams
    scores: Sequence[TokenLogprobs | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request that was found good."""

    values: Mapping[str, Any]
    prompts: Sequence[_Prompt]
    jobs: Sequence[Job]
    identity: Mapping[str, Any]

    def prompt_of(self, number: int) -> _Prompt:
        """Return the prompt of a choice; those of the first prompt come first."""
        return self.prompts[number // self.prompts[0].params.n]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(prompt.tokens) for prompt in self.prompts)


async def completions(serving: Serving, request: Request) -> Reply:
    """Complete prompts.

    Raises:
        ApiError: The request is refused.
    """
    values = fields.read(serving.document(request), COMPLETION_FIELDS)
    check_early(values)
    _check(serving, values)
    prompts = [await _prompt(serving, prompt, values) for prompt in _prompts(values)]
    make = constraint_factory(serving.engine.tokenizer, values)
    if values.get("use_beam_search"):
        return await _beams(serving, request, values, prompts)
    jobs = [
        Job(
            prompt=prompt.tokens,
            params=prompt.params,
            index=index,
            salt=values.get("cache_salt"),
            constraint=make() if make else None,
        )
        for prompt in prompts
        for index in range(prompt.params.n)
    ]
    call = _Call(
        values=values, prompts=prompts, jobs=jobs, identity=_identity(serving, request, values)
    )
    if values.get("stream"):
        return EventStream(headers=EVENT_HEADERS, events=_events(serving, call))
    results = await collect(serving.engine, jobs)
    choices = [_choice(call, number, steps) for number, steps in enumerate(results)]
    generated = sum(map(len, results))
    cached = sum(steps[0].cached for steps in results)
    return json_answer(_body(serving, call, choices, generated, cached))


# --- reading -------------------------------------------------------------------------------------


def _check(serving: Serving, values: Mapping[str, Any]) -> None:
    serving.check_model(values)
    if not values.get("prompt") and values.get("prompt") != []:
        raise about("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if values.get("prompt") == []:
        raise ApiError("You must pass at least one prompt")
    if values.get("suffix"):
        raise ApiError(
            "suffix is only supported for models with FIM completion rendering", param="suffix"
        )


def _prompts(values: Mapping[str, Any]) -> list[str | list[int]]:
    prompt = values["prompt"]
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    if len(prompt) > _MAX_PROMPTS:
        raise about(
            f"prompt list length {len(prompt)} exceeds the maximum allowed count of "
            f"{_MAX_PROMPTS}. To increase this limit, set the VLLM_MAX_COMPLETION_PROMPTS "
            "environment variable.",
            "prompt",
        )
    return list(prompt)


async def _prompt(
    serving: Serving, prompt: str | list[int], values: Mapping[str, Any]
) -> _Prompt:
    tokenizer = serving.engine.tokenizer
    tokens = serving.encode(prompt) if isinstance(prompt, str) else list(prompt)
    for token in tokens:
        if token >= tokenizer.size:
            raise ApiError(f"Token id {token} is out of vocabulary")
    tokens = serving.truncated(tokens, values)
    if not tokens:
        raise ApiError("The decoder prompt cannot be empty")
    serving.check_length(tokens)
    asked = values.get("max_tokens", _DEFAULT_MAX_TOKENS)
    echo = values.get("echo", False)
    hidden = bool(echo and asked == 0)
    params = sampling_params(
        values,
        tokenizer,
        max_tokens=serving.bound(1 if hidden else asked, len(tokens)),
        logprobs=values.get("logprobs"),
        prompt_logprobs=values.get(
            "prompt_logprobs", values.get("logprobs") if echo else None
        ),
    )
    scores = None
    if params.prompt_logprobs is not None:
        scores = await serving.engine.score(tokens, params.prompt_logprobs)
    text = prompt if isinstance(prompt, str) else tokenizer.decode(tokens)
    first = TokenText(tokenizer).of(tokens[0])
    return _Prompt(tokens=tokens, text=text, first=first, params=params, scores=scores)


def _identity(serving: Serving, request: Request, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": serving.request_id(request, values, "cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": serving.name,
    }


# --- writing -------------------------------------------------------------------------------------


def _choice(call: _Call, number: int, steps: Sequence[Step]) -> dict[str, Any]:
    values, prompt = call.values, call.prompt_of(number)
    echo = values.get("echo", False)
    hidden = echo and values.get("max_tokens") == 0
    shown = () if hidden else steps
    logprobs = None
    if prompt.params.logprobs is not None:
        scores = [*(prompt.scores or ())] if echo else []
        entries = [*scores, *(step.logprobs for step in shown)]
        tokens = [*(prompt.tokens if echo else ()), *(step.token for step in shown)]
        logprobs = completion_logprobs(entries, tokens, _as_ids(values), prompt.first)
    told = prompt.scores if prompt.params.prompt_logprobs is not None else None
    ids = values.get("return_token_ids", False)
    return {
        "index": number,
        "text": (prompt.text if echo else "") + "".join(step.text for step in shown),
        "logprobs": logprobs,
        "finish_reason": "length" if hidden else steps[-1].finish_reason,
        "stop_reason": steps[-1].stop_reason,
        "token_ids": [step.token for step in shown] if ids else None,
        "prompt_logprobs": None if told is None else prompt_logprobs(told),
        "prompt_token_ids": prompt.tokens if ids else None,
        "routed_experts": None,
    }


def _as_ids(values: Mapping[str, Any]) -> bool:
    return bool(values.get("return_tokens_as_token_ids", False))


def _body(
    serving: Serving, call: _Call, choices: list[dict[str, Any]], generated: int, cached: int
) -> dict[str, Any]:
    return {
        **call.identity,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": serving.fingerprint,
        "usage": serving.usage(call.prompt_tokens, generated, cached),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


async def _events(serving: Serving, call: _Call) -> AsyncIterator[str]:
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
    call: _Call, number: int, group: Sequence[Step], *, first: bool, offset: int
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
        logprobs = completion_logprobs(entries, tokens, _as_ids(values), prompt.first, offset)
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


async def _beams(
    serving: Serving, request: Request, values: Mapping[str, Any], prompts: Sequence[_Prompt]
) -> Reply:
    call = _Call(
        values=values, prompts=prompts, jobs=(), identity=_identity(serving, request, values)
    )
    choices: list[dict[str, Any]] = []
    generated = 0
    for prompt in prompts:
        for tokens, reason in await beam_search(serving.engine, prompt.tokens, prompt.params):
            generated += len(tokens)
            text = serving.engine.tokenizer.decode(tokens, specials=False)
            choices.append(
                {
                    "index": len(choices),
                    "text": (prompt.text if values.get("echo") else "") + text,
                    "logprobs": None,
                    "finish_reason": reason,
                    "stop_reason": None,
                    "token_ids": tokens if values.get("return_token_ids") else None,
                    "prompt_logprobs": None,
                    "prompt_token_ids": None,
                    "routed_experts": None,
                }
            )
    return json_answer(_body(serving, call, choices, generated, 0))
