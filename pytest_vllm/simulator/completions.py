"""`POST /v1/completions`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.beam import beam_search
from pytest_vllm.simulator.completion_events import (
    EVENT_HEADERS,
    CompletionCall,
    PromptInput,
    as_ids,
    completion_events,
)
from pytest_vllm.simulator.detokenize import TokenText
from pytest_vllm.simulator.engine import Job
from pytest_vllm.simulator.errors import ApiError, about, json_answer
from pytest_vllm.simulator.params import FIELDS, check_early, sampling_params
from pytest_vllm.simulator.serving import collect
from pytest_vllm.simulator.shapes import completion_logprobs, prompt_logprobs
from pytest_vllm.simulator.structured import constraint_factory
from pytest_vllm.simulator.wire import EventStream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.simulator.engine import Step
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.wire import Reply, Request

COMPLETION_FIELDS = FIELDS | {
    "prompt": fields.prompt,
    "logprobs": fields.integer,
    "suffix": fields.string,
}
_DEFAULT_MAX_TOKENS = 16
_MAX_PROMPTS = 1024


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
    call = CompletionCall(
        values=values, prompts=prompts, jobs=jobs, identity=_identity(serving, request, values)
    )
    if values.get("stream"):
        return EventStream(headers=EVENT_HEADERS, events=completion_events(serving, call))
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
) -> PromptInput:
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
        prompt_logprobs=values.get("prompt_logprobs", values.get("logprobs") if echo else None),
    )
    scores = None
    if params.prompt_logprobs is not None:
        scores = await serving.engine.score(tokens, params.prompt_logprobs)
    text = prompt if isinstance(prompt, str) else tokenizer.decode(tokens)
    first = TokenText(tokenizer).of(tokens[0])
    return PromptInput(tokens=tokens, text=text, first=first, params=params, scores=scores)


def _identity(serving: Serving, request: Request, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": serving.request_id(request, values, "cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": serving.name,
    }


# --- writing -------------------------------------------------------------------------------------


def _choice(call: CompletionCall, number: int, steps: Sequence[Step]) -> dict[str, Any]:
    values, prompt = call.values, call.prompt_of(number)
    echo = values.get("echo", False)
    hidden = echo and values.get("max_tokens") == 0
    shown = () if hidden else steps
    logprobs = None
    if prompt.params.logprobs is not None:
        scores = [*(prompt.scores or ())] if echo else []
        entries = [*scores, *(step.logprobs for step in shown)]
        tokens = [*(prompt.tokens if echo else ()), *(step.token for step in shown)]
        logprobs = completion_logprobs(entries, tokens, as_ids(values), prompt.first)
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


def _body(
    serving: Serving,
    call: CompletionCall,
    choices: list[dict[str, Any]],
    generated: int,
    cached: int,
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


async def _beams(
    serving: Serving, request: Request, values: Mapping[str, Any], prompts: Sequence[PromptInput]
) -> Reply:
    call = CompletionCall(
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
