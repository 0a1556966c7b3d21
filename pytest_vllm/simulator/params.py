"""What a request asks of the sampler, judged as vLLM judges it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.errors import ApiError, about
from pytest_vllm.simulator.sampling import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.simulator.tokens import Tokenizer

MAX_LOGPROBS = 20
_MAX_TEMPERATURE = 2
_MAX_PENALTY = 2
_MAX_CHOICES = 16384

FIELDS = {
    "model": fields.string,
    "n": fields.integer,
    "temperature": fields.number,
    "top_p": fields.number,
    "top_k": fields.integer,
    "min_p": fields.number,
    "seed": fields.long,
    "presence_penalty": fields.number,
    "frequency_penalty": fields.number,
    "repetition_penalty": fields.number,
    "length_penalty": fields.number,
    "logit_bias": fields.mapping,
    "allowed_token_ids": fields.integers,
    "bad_words": fields.strings,
    "max_tokens": fields.integer,
    "min_tokens": fields.integer,
    "ignore_eos": fields.boolean,
    "stop": fields.stops,
    "stop_token_ids": fields.integers,
    "include_stop_str_in_output": fields.boolean,
    "skip_special_tokens": fields.boolean,
    "prompt_logprobs": fields.integer,
    "truncate_prompt_tokens": fields.integer,
    "return_token_ids": fields.boolean,
    "return_tokens_as_token_ids": fields.boolean,
    "use_beam_search": fields.boolean,
    "stream": fields.boolean,
    "stream_options": fields.mapping,
    "stream_interval": fields.integer,
    "echo": fields.boolean,
    "user": fields.string,
    "priority": fields.integer,
    "request_id": fields.string,
    "cache_salt": fields.string,
    "repetition_detection": fields.mapping,
    "add_special_tokens": fields.boolean,
    "response_format": fields.mapping,
    "structured_outputs": fields.mapping,
}


def check_early(values: Mapping[str, Any]) -> None:
    """Judge what vLLM judges while it reads a request.

    Raises:
        ApiError: Something is out of range.
    """
    if values.get("stream_options") is not None and not values.get("stream"):
        raise about("Stream options can only be defined when `stream=True`.", "stream_options")
    prompt_logprobs = values.get("prompt_logprobs")
    if prompt_logprobs is not None:
        if values.get("stream") and prompt_logprobs >= 0:
            raise about(
                "`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs"
            )
        if prompt_logprobs < -1:
            message = "`prompt_logprobs` must be a positive value or -1."
            raise ApiError(message, param="prompt_logprobs", value=prompt_logprobs)
    salt = values.get("cache_salt")
    if salt is not None and not salt:
        raise about("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")


def sampling_params(
    values: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    """Return what a request asks.

    Args:
        values: Its fields.
        tokenizer: Tokenizer, for the bounds of token IDs.
        max_tokens: Tokens to generate at most, as the endpoint has them.
        logprobs: Alternatives to tell, as the endpoint has them.
        prompt_logprobs: Alternatives to tell for the prompt.

    Raises:
        ApiError: Something is out of range.
    """
    temperature = values.get("temperature", 1.0)
    _check_temperature(temperature)
    _check_ranges(values, max_tokens, greedy=temperature < 1e-5)  # noqa: PLR2004 - vLLM's bound
    _check_logprobs("logprobs", logprobs, tokenizer.size)
    _check_logprobs("prompt_logprobs", prompt_logprobs, tokenizer.size)
    detection = values.get("repetition_detection")
    return SamplingParams(
        n=values.get("n", 1),
        temperature=temperature,
        top_p=values.get("top_p", 1.0),
        top_k=max(0, values.get("top_k", 0)),
        min_p=values.get("min_p", 0.0),
        seed=values.get("seed"),
        presence_penalty=values.get("presence_penalty", 0.0),
        frequency_penalty=values.get("frequency_penalty", 0.0),
        repetition_penalty=values.get("repetition_penalty", 1.0),
        logit_bias=_bias(values.get("logit_bias") or {}, tokenizer.size),
        allowed_token_ids=_allowed(values.get("allowed_token_ids"), tokenizer.size),
        bad_words=_bad_words(values.get("bad_words") or [], tokenizer),
        max_tokens=max_tokens,
        min_tokens=values.get("min_tokens", 0),
        ignore_eos=values.get("ignore_eos", False),
        stop=_stop(values.get("stop") or []),
        stop_token_ids=_stop_ids(values.get("stop_token_ids") or [], tokenizer.size),
        include_stop_str_in_output=values.get("include_stop_str_in_output", False),
        skip_special_tokens=values.get("skip_special_tokens", True),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        repetition_detection=None
        if detection is None
        else (
            int(detection.get("max_pattern_size", 0)),
            int(detection.get("min_pattern_size", 1)),
            max(2, int(detection.get("min_count", 2))),
        ),
    )


def _check_temperature(temperature: float) -> None:
    problem = ""
    if not math.isfinite(temperature):
        problem = f"temperature must be a finite number, got {temperature}."
    elif temperature < 0:
        problem = f"temperature must be non-negative, got {temperature}."
    elif temperature > _MAX_TEMPERATURE:
        problem = f"temperature must be in [0, {_MAX_TEMPERATURE}], got {temperature}."
    if problem:
        raise ApiError(problem, param="temperature", value=temperature)


def _check_ranges(values: Mapping[str, Any], max_tokens: int, *, greedy: bool) -> None:
    n = values.get("n", 1)
    if n < 1:
        raise ApiError(f"n must be at least 1, got {n}.")
    if n > _MAX_CHOICES:
        raise ApiError(
            f"n must be at most {_MAX_CHOICES}, got {n}. To increase this limit, set the "
            "VLLM_MAX_N_SEQUENCES environment variable."
        )
    for name in ("presence_penalty", "frequency_penalty"):
        penalty = values.get(name, 0.0)
        if not -_MAX_PENALTY <= penalty <= _MAX_PENALTY:
            raise ApiError(f"{name} must be in [-{_MAX_PENALTY}, {_MAX_PENALTY}], got {penalty}.")
    repetition = values.get("repetition_penalty", 1.0)
    if not repetition > 0:
        raise ApiError(f"repetition_penalty must be greater than zero, got {repetition}.")
    _check_truncation(values)
    min_tokens = values.get("min_tokens", 0)
    if min_tokens < 0:
        raise ApiError(f"min_tokens must be greater than or equal to 0, got {min_tokens}.")
    if min_tokens > max_tokens:
        raise ApiError(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}."
        )
    if greedy and n > 1 and not values.get("use_beam_search"):
        raise ApiError(f"n must be 1 when using greedy sampling, got {n}.")


def _check_truncation(values: Mapping[str, Any]) -> None:
    top_p = values.get("top_p", 1.0)
    if not 0 < top_p <= 1:
        raise ApiError(f"top_p must be in (0, 1], got {top_p}.", param="top_p", value=top_p)
    top_k = values.get("top_k", 0)
    if top_k < -1:
        raise ApiError(f"top_k must be 0 (disable), or at least 1, got {top_k}.")
    min_p = values.get("min_p", 0.0)
    if not 0 <= min_p <= 1:
        raise ApiError(f"min_p must be in [0, 1], got {min_p}.")


def _check_logprobs(name: str, count: int | None, vocabulary: int) -> None:
    if count is None:
        return
    told = vocabulary if count < 0 else count
    if told > MAX_LOGPROBS:
        what = "sample" if name == "logprobs" else "prompt"
        message = (
            f"Requested {what} logprobs of {told}, which is greater than max allowed: "
            f"{MAX_LOGPROBS}"
        )
        raise ApiError(message, param=name, value=told)


def _bias(given: Mapping[str, Any], vocabulary: int) -> dict[int, float]:
    unreadable = [key for key in given if not key.lstrip("-").isdigit()]
    if unreadable:
        message = "logit_bias contains key(s) that cannot be converted to integer token IDs: "
        raise ApiError(f"{message}{unreadable}", param="logit_bias", value=unreadable)
    bias = {
        int(key): max(-100.0, min(100.0, fields.number("body.logit_bias", value)))
        for key, value in given.items()
    }
    _in_vocabulary("logit_bias", list(bias), vocabulary)
    return bias


def _in_vocabulary(name: str, ids: list[int], vocabulary: int) -> None:
    outside = [token for token in ids if not 0 <= token < vocabulary]
    if outside:
        message = (
            f"token_id(s) {outside} in {name} contain out-of-vocab token ids. "
            f"Vocabulary size: {vocabulary}"
        )
        raise ApiError(message, param=name, value=outside)


def _allowed(ids: list[int] | None, vocabulary: int) -> frozenset[int] | None:
    if ids is None:
        return None
    name = "allowed_token_ids"
    if not ids:
        raise ApiError(f"{name} is not None and empty!", param=name, value=ids)
    if any(not 0 <= token < vocabulary for token in ids):
        raise ApiError(f"{name} contains out-of-vocab token id!", param=name, value=ids)
    return frozenset(ids)


def _bad_words(words: list[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    if any(not word for word in words):
        raise ApiError(f"bad_words cannot contain an empty string. Got bad_words={words}")
    spelled: set[tuple[int, ...]] = set()
    for word in words:
        spelled.add(tuple(tokenizer.encode(word)))
        spelled.add(tuple(tokenizer.encode(" " + word.lstrip())))
    return tuple(sorted(spelled))


def _stop(texts: list[str]) -> tuple[str, ...]:
    if any(not text for text in texts):
        raise ApiError("stop cannot contain an empty string.")
    return tuple(texts)


def _stop_ids(ids: list[int], vocabulary: int) -> frozenset[int]:
    _in_vocabulary("stop_token_ids", ids, vocabulary)
    return frozenset(ids)
