"""Defects of what is asked for: sampling parameters, lengths, stops, echo."""

from __future__ import annotations

import itertools
import math
import unicodedata
from typing import Any

from pytest_vllm.simulator.defects.defect import Defect
from pytest_vllm.simulator.defects.hooks import (
    COMPLETIONS,
    GENERATING,
    Document,
    in_bodies,
    refusal,
    without_fields,
)
from pytest_vllm.simulator.wire import Answer, Handler, Reply, Request

_LOWEST_TEMPERATURE = 0.1
_HOT = 2.0
_LONGEST_PROMPT = 512
_DEFAULT_MAX_TOKENS = 32
_BEYOND_BMP = 0xFFFF
_LIMITS = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-3, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, math.inf),
    "top_k": (-1, math.inf),
}


def _other_seeds(handler: Handler) -> Handler:
    numbers = itertools.count(1)

    def change(body: Document) -> None:
        if body.get("seed") is not None:
            body["seed"] = next(numbers) * 7919

    return in_bodies(change)(handler)


def _is_sampled(body: Document) -> bool:
    return body.get("temperature") is None or body["temperature"] > 0


def _skew(body: Document) -> None:
    if body.get("seed") is None and body.get("temperature") in (None, 1, 1.0):
        body["temperature"] = _HOT


def _low_temperature(body: Document) -> None:
    temperature = body.get("temperature")
    if isinstance(temperature, (int, float)) and 0 < temperature < _LOWEST_TEMPERATURE:
        body["temperature"] = 1.0


def _greedy_by_default(body: Document) -> None:
    if body.get("temperature") is None:
        body["top_k"] = 1  # temperature 0 would be refused together with n


def _no_penalties(body: Document) -> None:
    body.update(presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0)


def _one_more_token(body: Document) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(name), int) and body[name] > 1:
            body[name] += 1


def _old_bound(body: Document) -> None:
    if body.pop("max_completion_tokens", None) is not None:
        body.setdefault("max_tokens", _DEFAULT_MAX_TOKENS)


def _first_stop_only(body: Document) -> None:
    if isinstance(body.get("stop"), list):
        body["stop"] = body["stop"][:1]


def _without_last_token(body: Document) -> None:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and isinstance(prompt[0], int):
        body["prompt"] = prompt[:-1]


def _clamp(body: Document) -> None:
    for name, (lowest, highest) in _LIMITS.items():
        value = body.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # A comparison with NaN is false, so that it becomes the lowest value.
            body[name] = min(value, highest) if value >= lowest else lowest


def _normalize(body: Document) -> None:
    body.update({name: _normalized(body[name]) for name in ("prompt", "messages") if name in body})


def _normalized(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFKC", value)
    if isinstance(value, list):
        return [_normalized(item) for item in value]
    if isinstance(value, dict):
        return {name: _normalized(item) for name, item in value.items()}
    return value


def _refusing_emoji(handler: Handler) -> Handler:
    async def broken(request: Request) -> Reply:
        body = request.document() or {}
        asked = str(body.get("prompt", "")) + str(body.get("messages", ""))
        if request.path in GENERATING and any(ord(char) > _BEYOND_BMP for char in asked):
            return refusal(400, "prompt holds characters that cannot be encoded")
        return await handler(request)

    return broken


def _refusing_last_token(handler: Handler) -> Handler:
    """Refuse what fills the context exactly, as an off-by-one in its length check does."""
    lengths: list[int] = []

    async def broken(request: Request) -> Reply:
        if not lengths:
            models = Request(method="GET", path="/v1/models", headers=request.headers)
            listed = await handler(models)
            document = listed.document() if isinstance(listed, Answer) else None
            entries = document["data"] if isinstance(document, dict) and "data" in document else []
            lengths.extend(entry["max_model_len"] for entry in entries if "max_model_len" in entry)
        reply = await handler(request)
        if request.path not in GENERATING or not isinstance(reply, Answer):
            return reply
        usage = (reply.document() or {}).get("usage") or {}
        if usage.get("total_tokens") in lengths:
            return refusal(400, f"the request needs {usage['total_tokens'] + 1} tokens of context")
        return reply

    return broken


DEFECTS = (
    Defect(
        name="seed-ignored",
        summary="`seed` is ignored: each request gets another.",
        breaks=_other_seeds,
    ),
    Defect(
        name="seed-fixed",
        summary="Requests without a seed all draw the same random numbers.",
        breaks=in_bodies(lambda body: body.update(seed=0) if body.get("seed") is None else None),
    ),
    Defect(
        name="temperature-forced",
        summary="The temperature is 1.5 whatever is asked for.",
        breaks=in_bodies(lambda body: body.update(temperature=1.5)),
    ),
    Defect(
        name="always-greedy",
        summary="Nothing is ever sampled: the likeliest token always wins.",
        breaks=in_bodies(lambda body: body.update(top_k=1) if _is_sampled(body) else None),
    ),
    Defect(
        name="default-temperature-zero",
        summary="Without a temperature the likeliest token always wins.",
        breaks=in_bodies(_greedy_by_default),
    ),
    Defect(
        name="low-temperature-ignored",
        summary="Temperatures between 0 and 0.1 are taken as 1.",
        breaks=in_bodies(_low_temperature),
    ),
    Defect(
        name="top-k-ignored",
        summary="`top_k` is ignored.",
        issue="vllm PR32754",
        breaks=without_fields("top_k"),
    ),
    Defect(
        name="top-p-ignored",
        summary="`top_p` is ignored.",
        issue="vllm PR32754",
        breaks=without_fields("top_p"),
    ),
    Defect(name="min-p-ignored", summary="`min_p` is ignored.", breaks=without_fields("min_p")),
    Defect(
        name="sampler-skewed",
        summary="Without a seed the sampler draws at twice the temperature.",
        issue="aiter PR2035",
        breaks=in_bodies(_skew),
    ),
    Defect(
        name="logit-bias-ignored",
        summary="`logit_bias` is ignored.",
        breaks=without_fields("logit_bias"),
    ),
    Defect(
        name="allowed-token-ids-ignored",
        summary="`allowed_token_ids` is ignored.",
        breaks=without_fields("allowed_token_ids"),
    ),
    Defect(
        name="bad-words-ignored",
        summary="`bad_words` is ignored.",
        breaks=without_fields("bad_words"),
    ),
    Defect(
        name="penalties-ignored",
        summary="Presence, frequency and repetition penalties are ignored.",
        breaks=in_bodies(_no_penalties),
    ),
    Defect(
        name="min-tokens-ignored",
        summary="`min_tokens` is ignored.",
        breaks=without_fields("min_tokens"),
    ),
    Defect(
        name="ignore-eos-ignored",
        summary="`ignore_eos` is ignored.",
        breaks=without_fields("ignore_eos"),
    ),
    Defect(
        name="n-ignored",
        summary="`n` is ignored: there is one choice.",
        breaks=without_fields("n"),
    ),
    Defect(
        name="echo-dropped",
        summary="`echo` is ignored.",
        breaks=without_fields("echo"),
    ),
    Defect(name="stop-kept", summary="`stop` is ignored.", breaks=without_fields("stop")),
    Defect(
        name="stop-in-text",
        summary="The stop text stays at the end of the reply.",
        issue="vllm#3574",
        breaks=in_bodies(
            lambda body: body.update(include_stop_str_in_output=True) if body.get("stop") else None
        ),
    ),
    Defect(
        name="stop-list-first-only",
        summary="Only the first of several stop texts is honoured.",
        breaks=in_bodies(_first_stop_only),
    ),
    Defect(
        name="stop-token-ids-ignored",
        summary="`stop_token_ids` is ignored.",
        breaks=without_fields("stop_token_ids"),
    ),
    Defect(
        name="include-stop-ignored",
        summary="`include_stop_str_in_output` is ignored.",
        breaks=without_fields("include_stop_str_in_output"),
    ),
    Defect(
        name="max-tokens-plus-one",
        summary="One token more than allowed is generated.",
        breaks=in_bodies(_one_more_token),
    ),
    Defect(
        name="max-completion-tokens-ignored",
        summary="`max_completion_tokens` is ignored.",
        breaks=in_bodies(_old_bound),
    ),
    Defect(
        name="prompt-truncated",
        summary="Prompts are silently cut to their last 512 tokens.",
        breaks=in_bodies(lambda body: body.setdefault("truncate_prompt_tokens", _LONGEST_PROMPT)),
    ),
    Defect(
        name="token-ids-prompt-cut",
        summary="A prompt of token IDs loses its last token.",
        breaks=in_bodies(_without_last_token, paths=COMPLETIONS),
    ),
    Defect(
        name="truncation-ignored",
        summary="`truncate_prompt_tokens` is ignored.",
        breaks=without_fields("truncate_prompt_tokens"),
    ),
    Defect(
        name="suffix-ignored",
        summary="`suffix`, which the model cannot do, is dropped silently.",
        breaks=without_fields("suffix", paths=COMPLETIONS),
    ),
    Defect(
        name="bad-values-clamped",
        summary="Sampling parameters out of range are moved into it instead of refused.",
        breaks=in_bodies(_clamp),
    ),
    Defect(
        name="non-bmp-refused",
        summary="Prompts with emoji are refused.",
        breaks=_refusing_emoji,
    ),
    Defect(
        name="last-token-refused",
        summary="A request that fills the context exactly is refused.",
        breaks=_refusing_last_token,
    ),
    Defect(
        name="prompts-normalized",
        summary="Prompts are normalized (NFKC) before they become tokens.",
        breaks=in_bodies(_normalize, paths=(*GENERATING, "/tokenize")),
    ),
)
