"""Bad requests: each is refused with an error that clients can read, and the server serves on.

The client asserts of each refusal that it is an error object, short, and silent about the server's
inside, and that the next good request is served. vLLM 0.32 refuses with 400 what its own
description promises as 422; clients take both for the caller's fault.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from pytest_vllm import (
    ENDPOINTS,
    INFO,
    SHOULD,
    Client,
    Layer,
    check,
    needs,
    not_applicable,
    suite,
)

pytestmark = suite("errors", concurrent=True)

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
USER = {"role": "user", "content": "Hello"}
INPUTS: dict[str, dict[str, Any]] = {
    "completions": {"prompt": "Hello"},
    "chat": {"messages": [USER]},
}
INVALID = (400, 422)
TOO_LONG = (*INVALID, 413)
CHAT = ("chat",)
OUT_OF_VOCABULARY = 999_999_999  # fits 32 bits; the largest vocabularies have 300,000 entries
A_TOKEN = 100  # an ID that every vocabulary has
# A common letter ends the text of a server that takes a bound that others refuse.
SOON = ["e", "a", " ", "\n"]

STATUS = ("refusal-500", "refusal-200")
SHAPE = (*STATUS, "refusal-html", "refusal-detail", "refusal-empty")
REFUSALS = (*SHAPE, "refusal-with-traceback", "refusal-with-path", "refusal-huge")
CLAMPED = (*STATUS, "bad-values-clamped")

BAD_VALUES: dict[str, list[Any]] = {
    "max_tokens": ["abc", 2.5],
    "temperature": [-0.1, math.nan, math.inf, "hot"],
    "top_p": [0, -1, 1.1],
    "top_k": [-2],
    "min_p": [2],
    "n": [0, -1, "x"],
    "presence_penalty": [-3, 3],
    "frequency_penalty": [-3, 3],
    "repetition_penalty": [0, -1],
    "min_tokens": [-1, 5],  # the second is more than `max_tokens`, which is 1
    # No vocabulary is as large, so that --max-logprobs does not matter. -1 means all tokens.
    "logprobs": ["x", -2, 10_000_000],
    "prompt_logprobs": [-2, 10_000_000],
    "logit_bias": [{"abc": 1}],
    "stop": ["", 5],
    "seed": ["x", 2**70],
    "prompt": [None, [], 5, {}, ["a", 5], [-1], [OUT_OF_VOCABULARY]],
    "model": [5],
    "echo": ["x"],
}
"""Field -> what no version of vLLM takes for it."""


# --- model and input -----------------------------------------------------------------------------


@ENDPOINTS
@check("errors.model.unknown", ref="E01", catches=(*REFUSALS, "other-model-served"))
def test_unknown_model(vllm: Client, endpoint: str) -> None:
    """A request for a model that is not served MUST be refused with 404."""
    body = {"model": "no-such-model", **INPUTS[endpoint]}
    vllm.refuse(PATHS[endpoint], body=body, statuses=(404,))


@check("errors.model.names-param", level=SHOULD, ref="E01")
def test_unknown_model_param(vllm: Client) -> None:
    """The refusal of an unknown model SHOULD name the parameter `model`."""
    body = {"model": "no-such-model", "prompt": "Hello"}
    reply = vllm.refuse(PATHS["completions"], body=body, statuses=(404,))
    assert reply.json["error"]["param"] == "model"


@check("errors.model.no-text", ref="E01", catches=STATUS)
def test_model_is_no_text(vllm: Client) -> None:
    """A model that is no text MUST be refused."""
    _refuse_values(vllm, "model", statuses=(*INVALID, 404))


@ENDPOINTS
@check("errors.input.missing", ref="E02", catches=SHAPE)
def test_input_missing(vllm: Client, endpoint: str) -> None:
    """A request without prompt or messages MUST be refused."""
    vllm.refuse(PATHS[endpoint], body={}, statuses=INVALID)


@check("errors.messages.malformed", needs=CHAT, ref="E03", catches=REFUSALS)
def test_messages(vllm: Client) -> None:
    """Messages that are empty or no list MUST be refused."""
    _refuse_messages(vllm, {"empty": [], "text": "Hello", "null": None})


@check("errors.prompt.malformed", ref="E04 E05", catches=REFUSALS)
def test_prompt(vllm: Client) -> None:
    """A prompt that is neither text nor known token IDs nor a list of either MUST be refused."""
    _refuse_values(vllm, "prompt")


@pytest.mark.parametrize("prompt", ["", ["a", ""]], ids=["alone", "in-a-list"])
@check("errors.prompt.empty", needs=("tokenize",), ref="E04")
def test_empty_prompt(vllm: Client, prompt: object) -> None:
    """An empty prompt MUST be refused, unless the tokenizer begins every text with a token."""
    if vllm.tokenize(""):
        _refuse_or_serve(vllm, "completions", {"prompt": prompt})
        return
    vllm.refuse(PATHS["completions"], body={"prompt": prompt}, statuses=INVALID)


@check("errors.prompt.too-many", ref="E30", catches=("refusal-500",))
def test_too_many_prompts(vllm: Client) -> None:
    """2,000 prompts in one request MUST be refused or served: vLLM 0.32 takes 1,024."""
    if not _is_at_least(vllm, (0, 32)):
        not_applicable(f"vLLM {vllm.server.version} may have no such limit and serve them all")
    _refuse_or_serve(vllm, "completions", {"prompt": ["a"] * 2000})


@check("errors.suffix.not-dropped", ref="E29", catches=(*STATUS, "suffix-ignored"))
def test_suffix(vllm: Client) -> None:
    """`suffix` MUST be refused or reach the model, never be dropped silently."""
    body = {"model": vllm.model, "prompt": "Hello", "max_tokens": 1, "suffix": "the end"}
    reply = vllm.send("POST", PATHS["completions"], body=body)
    if reply.status == 200:
        with_suffix = reply.json["usage"]["prompt_tokens"]
        without = vllm.complete("Hello", max_tokens=1).json["usage"]["prompt_tokens"]
        assert with_suffix > without
        return
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@pytest.mark.parametrize("form", ["text", "token-ids", pytest.param("chat", marks=needs("chat"))])
@check("errors.prompt.too-long", ref="E09", catches=REFUSALS)
def test_too_long(vllm: Client, form: str) -> None:
    """A prompt that is longer than the context MUST be refused."""
    path, body = _too_long(vllm, form)
    vllm.refuse(path, body=body, statuses=TOO_LONG)


@check("errors.prompt.too-long-says-limit", level=SHOULD, ref="E09")
def test_too_long_says_limit(vllm: Client) -> None:
    """The refusal of a prompt that is too long SHOULD say how long it may be."""
    path, body = _too_long(vllm, "token-ids")
    message = vllm.refuse(path, body=body, statuses=TOO_LONG).json["error"]["message"]
    assert str(vllm.max_model_len) in message.replace(",", "")


@check("errors.prompt.too-long-is-fast", ref="E09", catches=("refusal-slow",), alone=True)
def test_too_long_is_fast(vllm: Client) -> None:
    """The refusal of a prompt that is too long MUST take no more than a few seconds."""
    path, body = _too_long(vllm, "text")
    bound_ms = 5000 + (vllm.max_model_len or 0) / 10
    for _ in range(2):  # a busy host may hold one answer up
        elapsed_ms = vllm.refuse(path, body=body, statuses=TOO_LONG).elapsed_ms
        if elapsed_ms < bound_ms:
            return
    pytest.fail(f"the refusal took {elapsed_ms:.0f} ms, twice", pytrace=False)


@check("errors.prompt.fills-the-context", ref="E10", catches=STATUS)
def test_fills_context(vllm: Client) -> None:
    """A prompt that leaves no room for a token MUST be refused."""
    if vllm.max_model_len is None:
        not_applicable("the server does not say how long its context is")
    body = {"prompt": [A_TOKEN] * vllm.max_model_len}
    vllm.refuse(PATHS["completions"], body=body, statuses=TOO_LONG)


# --- bounds --------------------------------------------------------------------------------------


@ENDPOINTS
@check("errors.max-tokens.negative", ref="E06", catches=STATUS)
def test_negative_max_tokens(vllm: Client, endpoint: str) -> None:
    """A negative `max_tokens` MUST be refused."""
    body = {**INPUTS[endpoint], "max_tokens": -1}
    vllm.refuse(PATHS[endpoint], body=body, statuses=INVALID)


@ENDPOINTS
@check("errors.max-tokens.zero", level=SHOULD, ref="E06")
def test_zero_max_tokens(vllm: Client, endpoint: str) -> None:
    """`max_tokens=0` without echo SHOULD be refused; 0.32 does."""
    body = {**INPUTS[endpoint], "max_tokens": 0}
    vllm.refuse(PATHS[endpoint], body=body, statuses=INVALID)


@check("errors.max-tokens.no-integer", ref="E07", catches=STATUS)
def test_max_tokens_no_integer(vllm: Client) -> None:
    """A `max_tokens` that is no whole number MUST be refused."""
    _refuse_values(vllm, "max_tokens")


@check("errors.max-tokens.lenient", level=INFO, ref="E07")
def test_max_tokens_lenient(vllm: Client) -> None:
    """Whether "2" and `true` pass for a number is recorded; vLLM 0.32 takes both."""
    for value in ("2", True):
        _observe_status(vllm, f"max_tokens={value!r}", {"prompt": "Hello", "max_tokens": value})


@check("errors.max-tokens.beyond-all-bounds", ref="E08", catches=("refusal-500",))
def test_max_tokens_huge(vllm: Client) -> None:
    """A `max_tokens` beyond any context MUST be refused or cut, never break the server."""
    body = {"prompt": "Hello", "max_tokens": 10**30, "stop": SOON}
    _refuse_or_serve(vllm, "completions", body)


@check("errors.max-completion-tokens.invalid", needs=CHAT, ref="E06", catches=STATUS)
def test_max_completion_tokens(vllm: Client) -> None:
    """A `max_completion_tokens` that is negative or no number MUST be refused."""
    bodies = {
        repr(value): {**INPUTS["chat"], "max_completion_tokens": value} for value in (-1, "x")
    }
    vllm.refuse_each(PATHS["chat"], bodies, statuses=INVALID)


@check("errors.min-tokens.invalid", ref="E23", catches=STATUS)
def test_min_tokens(vllm: Client) -> None:
    """A `min_tokens` that is negative or above `max_tokens` MUST be refused."""
    _refuse_values(vllm, "min_tokens")


# --- sampling ------------------------------------------------------------------------------------


@check("errors.temperature.invalid", ref="E11", catches=(*CLAMPED, *SHAPE))
def test_temperature(vllm: Client) -> None:
    """A temperature that is negative, not finite or no number MUST be refused."""
    _refuse_values(vllm, "temperature")


@check("errors.temperature.high", ref="E12", catches=("refusal-500",))
def test_high_temperature(vllm: Client) -> None:
    """A temperature above OpenAI's 2 MUST be refused or honoured: versions differ."""
    for value in (2.5, 1000):
        _refuse_or_serve(vllm, "completions", {"prompt": "Hello", "temperature": value})


@check("errors.top-p.out-of-range", ref="E13", catches=CLAMPED)
def test_top_p(vllm: Client) -> None:
    """A `top_p` outside of (0, 1] MUST be refused."""
    _refuse_values(vllm, "top_p")


@check("errors.top-k.out-of-range", ref="E13", catches=CLAMPED)
def test_top_k(vllm: Client) -> None:
    """A `top_k` below -1 MUST be refused."""
    _refuse_values(vllm, "top_k")


@check("errors.min-p.out-of-range", ref="E13", catches=CLAMPED)
def test_min_p(vllm: Client) -> None:
    """A `min_p` above 1 MUST be refused."""
    _refuse_values(vllm, "min_p")


@check("errors.n.invalid", ref="E14", catches=STATUS)
def test_n(vllm: Client) -> None:
    """An `n` that is below 1 or no number MUST be refused."""
    _refuse_values(vllm, "n")


@check("errors.n.huge", ref="E14", catches=STATUS)
def test_n_huge(vllm: Client) -> None:
    """An `n` of 100,000 MUST be refused: one request must not take the server for itself."""
    if not _is_at_least(vllm, (0, 32)):
        not_applicable(f"vLLM {vllm.server.version} may have no such limit and begin to serve it")
    body = {"prompt": "Hello", "n": 100_000, "temperature": 1}
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@check("errors.n.greedy", ref="E15", catches=("refusal-500",))
def test_n_greedy(vllm: Client) -> None:
    """Several greedy choices MUST be refused or given: versions differ."""
    _refuse_or_serve(vllm, "completions", {"prompt": "Hello", "n": 2, "temperature": 0})


@check("errors.penalties.out-of-range", ref="E16", catches=CLAMPED)
def test_penalties(vllm: Client) -> None:
    """A presence or frequency penalty outside of [-2, 2] MUST be refused."""
    _refuse_values(vllm, "presence_penalty")
    _refuse_values(vllm, "frequency_penalty")


@check("errors.repetition-penalty.out-of-range", ref="E16", catches=CLAMPED)
def test_repetition_penalty(vllm: Client) -> None:
    """A repetition penalty that is not above 0 MUST be refused."""
    _refuse_values(vllm, "repetition_penalty")


@check("errors.seed.invalid", ref="E23", catches=STATUS)
def test_seed(vllm: Client) -> None:
    """A seed that is no number or has more than 64 bits MUST be refused."""
    _refuse_values(vllm, "seed")


# --- log probabilities, tokens, stops ------------------------------------------------------------


@check("errors.logprobs.invalid", ref="E17", catches=STATUS)
def test_logprobs(vllm: Client) -> None:
    """`logprobs` that are negative, no number or more than any vocabulary has MUST be refused."""
    _refuse_values(vllm, "logprobs")


@check("errors.top-logprobs.invalid", needs=CHAT, ref="E17", catches=STATUS)
def test_top_logprobs(vllm: Client) -> None:
    """`top_logprobs` that are negative, no number or far too many MUST be refused."""
    bodies = {
        repr(value): {**INPUTS["chat"], "logprobs": True, "top_logprobs": value}
        for value in ("x", -2, 10_000_000)
    }
    vllm.refuse_each(PATHS["chat"], bodies, statuses=INVALID)


@check("errors.top-logprobs.without-logprobs", level=SHOULD, needs=CHAT, ref="E17")
def test_top_logprobs_alone(vllm: Client) -> None:
    """`top_logprobs` without `logprobs` SHOULD be refused, as the OpenAI API does."""
    vllm.refuse(PATHS["chat"], body={**INPUTS["chat"], "top_logprobs": 3}, statuses=INVALID)


@check("errors.prompt-logprobs.invalid", ref="E19", catches=STATUS)
def test_prompt_logprobs(vllm: Client) -> None:
    """`prompt_logprobs` below -1 or more than any vocabulary has MUST be refused."""
    _refuse_values(vllm, "prompt_logprobs")


@check("errors.prompt-logprobs.in-a-stream", ref="E19", catches=STATUS)
def test_prompt_logprobs_stream(vllm: Client) -> None:
    """`prompt_logprobs` of a stream MUST be refused: no chunk has a place for them."""
    body = {"prompt": "Hello", "prompt_logprobs": 1, "stream": True}
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@check("errors.stream-options.without-stream", level=SHOULD, layer=Layer.STRICT, ref="E18")
def test_stream_options(vllm: Client) -> None:
    """`stream_options` without `stream` SHOULD be refused."""
    body = {"prompt": "Hello", "stream_options": {"include_usage": True}}
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@check("errors.logit-bias.no-token", ref="E20", catches=STATUS)
def test_logit_bias_key(vllm: Client) -> None:
    """A `logit_bias` for what is no token ID MUST be refused."""
    _refuse_values(vllm, "logit_bias")


@check("errors.logit-bias.out-of-vocabulary", ref="E20", catches=(*STATUS, "bad-token-kills"))
def test_logit_bias_unknown(vllm: Client) -> None:
    """A `logit_bias` for a token that the model does not have MUST be refused, harming nobody."""
    body = {"prompt": "Hello", "logit_bias": {str(OUT_OF_VOCABULARY): 1}}
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@check("errors.logit-bias.out-of-range", level=INFO, ref="E20")
def test_logit_bias_range(vllm: Client) -> None:
    """Whether a bias of 200 is refused is recorded: OpenAI allows 100, vLLM 0.32 takes any."""
    body = {"prompt": "Hello", "logit_bias": {str(A_TOKEN): 200}}
    _observe_status(vllm, "logit_bias of 200", body)


@check("errors.stop-token-ids.out-of-vocabulary", ref="E21", catches=("refusal-500",))
def test_stop_token_ids(vllm: Client) -> None:
    """A stop token that the model does not have MUST be refused or do nothing."""
    body = {"prompt": "Hello", "stop_token_ids": [OUT_OF_VOCABULARY]}
    _refuse_or_serve(vllm, "completions", body)


@check("errors.allowed-token-ids.out-of-vocabulary", ref="E21", catches=STATUS)
def test_allowed_token_ids(vllm: Client) -> None:
    """An allowed token that the model does not have MUST be refused."""
    body = {"prompt": "Hello", "allowed_token_ids": [OUT_OF_VOCABULARY]}
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@check("errors.allowed-token-ids.empty", level=SHOULD, ref="E21")
def test_no_allowed_token_ids(vllm: Client) -> None:
    """An empty list of allowed tokens SHOULD be refused: nothing could be written."""
    body = {"prompt": "Hello", "allowed_token_ids": []}
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@check("errors.stop.invalid", ref="E22", catches=STATUS)
def test_stop(vllm: Client) -> None:
    """A stop that is empty or no text MUST be refused."""
    _refuse_values(vllm, "stop")


@check("errors.stop.five", ref="E22", catches=("refusal-500",))
def test_five_stops(vllm: Client) -> None:
    """Five stop texts, one more than OpenAI allows, MUST be refused or honoured."""
    stops = ["a1", "b2", "c3", "d4", "e5"]
    _refuse_or_serve(vllm, "completions", {"prompt": "Hello", "stop": stops})


# --- bodies --------------------------------------------------------------------------------------


@ENDPOINTS
@check("errors.body.malformed", ref="E24", catches=REFUSALS)
def test_body(vllm: Client, endpoint: str) -> None:
    """A body that is no JSON object MUST be refused."""
    bodies = [b'{"model": "x", ', b"", b"[]", b"null", b'"hi"']
    vllm.refuse_each(PATHS[endpoint], {repr(body): body for body in bodies}, statuses=INVALID)


@check("errors.body.wrong-types", ref="E07", catches=STATUS)
def test_wrong_types(vllm: Client) -> None:
    """A text where true or false belongs MUST be refused."""
    _refuse_values(vllm, "echo")


@check("errors.body.no-utf-8", ref="E25", catches=STATUS)
def test_no_utf8(vllm: Client) -> None:
    """A body that is no UTF-8 MUST be refused, if only by the web framework."""
    body = b'{"model": "x", "prompt": "\xff\xfe", "max_tokens": 1}'
    reply = vllm.send("POST", PATHS["completions"], content=body)
    assert reply.status in INVALID
    assert reply.content_type == "application/json"
    assert {"error", "detail"} & set(reply.json)
    vllm.complete("Hello", max_tokens=1)


@check("errors.body.half-a-character", ref="E25", catches=STATUS)
def test_surrogate(vllm: Client) -> None:
    """A prompt with half a character, a lone surrogate, MUST be refused."""
    body = {"prompt": "\ud800"}
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@check("errors.content-type.not-json", ref="E26", catches=STATUS)
def test_content_type(vllm: Client) -> None:
    """A body that is declared to be a form or plain text MUST be refused."""
    for media_type in ("application/x-www-form-urlencoded", "text/plain"):
        vllm.refuse(
            PATHS["completions"],
            body=INPUTS["completions"],
            headers={"content-type": media_type},
            statuses=(*INVALID, 415),
        )


@check("errors.content-type.charset", ref="E26")
def test_charset(vllm: Client) -> None:
    """A body that is declared as JSON in UTF-8 MUST be served."""
    body = {"model": vllm.model, "prompt": "Hello", "max_tokens": 1}
    headers = {"content-type": "application/json; charset=utf-8"}
    assert vllm.send("POST", PATHS["completions"], body=body, headers=headers).status == 200


@check("errors.body.oddities", level=INFO, ref="E24")
def test_oddities(vllm: Client) -> None:
    """What becomes of a key given twice and of a NUL in a prompt is recorded."""
    twice = f'{{"model": "{vllm.model}", "prompt": "Hello", "max_tokens": 1, "max_tokens": 2}}'
    status = vllm.send("POST", PATHS["completions"], content=twice).status
    vllm.observe("errors.a key given twice", status)
    _observe_status(vllm, "a NUL in the prompt", {"prompt": "a\0b"})


# --- messages ------------------------------------------------------------------------------------


@check("errors.message.malformed", needs=CHAT, ref="E27", catches=REFUSALS)
def test_message(vllm: Client) -> None:
    """A message without role, or with a role or content of a wrong type, MUST be refused."""
    messages = {
        "role 1": [{**USER, "role": 1}],
        "content 5": [{**USER, "content": 5}],
        "part of an unknown type": [{**USER, "content": [{"type": "nope", "x": 1}]}],
        "no role": [{"content": "Hello"}],
    }
    _refuse_messages(vllm, messages)


@check("errors.message.odd", level=INFO, needs=CHAT, ref="E28")
def test_odd_messages(vllm: Client) -> None:
    """What becomes of messages that make no sense is recorded: vLLM 0.32 serves all of them."""
    odd: dict[str, list[dict[str, str]]] = {
        "role wizard": [{**USER, "role": "wizard"}],
        "no content": [{"role": "user"}],
        "empty content": [{**USER, "content": ""}],
        "orphan tool": [{"role": "tool", "tool_call_id": "x", "content": "y"}],
        "assistant last": [USER, {"role": "assistant", "content": "Hi"}],
    }
    for name, messages in odd.items():
        _observe_status(vllm, name, {"messages": messages}, endpoint="chat")


@check("errors.priority.without-scheduler", level=INFO, ref="E32")
def test_priority(vllm: Client) -> None:
    """Whether `priority` is refused without a priority scheduler is recorded; 0.32 takes it."""
    _observe_status(vllm, "priority=1", {"prompt": "Hello", "priority": 1})


# --- the errors themselves -----------------------------------------------------------------------


@check("errors.code.is-the-status", ref="E31", catches=("refusal-code-wrong",))
def test_code(vllm: Client) -> None:
    """An error code that is a number MUST be the status of the reply."""
    for body in ({"prompt": "Hello", "temperature": -1}, {"prompt": "Hello", "model": "unknown"}):
        reply = vllm.refuse(PATHS["completions"], body=body, statuses=(*INVALID, 404))
        code = reply.json["error"]["code"]
        assert not isinstance(code, int) or code == reply.status


@check("errors.type.known", level=SHOULD, ref="E31")
def test_type(vllm: Client) -> None:
    """The type of an error SHOULD be one that clients know: 0.32 spells a bad request two ways."""
    known = re.compile(r"bad ?request( ?error)?|invalid_request_error|not ?found ?error|.*entity.*")
    for bad in ({"temperature": -1}, {"prompt": 5}, {"model": "unknown"}):
        body = {**INPUTS["completions"], **bad}
        reply = vllm.refuse(PATHS["completions"], body=body, statuses=(*INVALID, 404))
        assert known.fullmatch(reply.json["error"]["type"].lower())


@check("errors.message.names-the-field", level=SHOULD, ref="E11 E13")
def test_message_names_field(vllm: Client) -> None:
    """The refusal of a bad value SHOULD name the field, in its message or as `param`."""
    for field in ("temperature", "top_p", "n", "max_tokens"):
        body = {**INPUTS["completions"], field: BAD_VALUES[field][0]}
        error = vllm.refuse(PATHS["completions"], body=body, statuses=INVALID).json["error"]
        assert field in f"{error['message']} {error['param']}"


@check(
    "errors.aftermath.serves",
    alone=True,
    ref="E33 H05",
    catches=(*STATUS, "bad-token-kills"),
)
def test_aftermath(vllm: Client) -> None:
    """After twenty bad requests in a row the server MUST be healthy and serve within 30 seconds."""
    bodies = {field: {"prompt": "Hello", field: bad[-1]} for field, bad in BAD_VALUES.items()}
    bodies["logit_bias beyond"] = {"prompt": "Hello", "logit_bias": {str(OUT_OF_VOCABULARY): 1}}
    bodies["allowed_token_ids"] = {"prompt": "Hello", "allowed_token_ids": [OUT_OF_VOCABULARY]}
    vllm.refuse_each(PATHS["completions"], bodies, statuses=(*INVALID, 404))
    assert vllm.get("/health").status == 200
    for _ in range(2):  # a busy host may hold one answer up
        reply = vllm.complete("Hello", max_tokens=1)
        if reply.elapsed_ms < 30_000:
            return
    pytest.fail(f"one token took {reply.elapsed_ms:.0f} ms, twice", pytrace=False)


# --- how -----------------------------------------------------------------------------------------


def _refuse_values(vllm: Client, field: str, statuses: tuple[int, ...] = INVALID) -> None:
    bodies = {
        f"{field}={value!r}": {"prompt": "Hello", field: value} for value in BAD_VALUES[field]
    }
    vllm.refuse_each(PATHS["completions"], bodies, statuses=statuses)


def _refuse_messages(vllm: Client, messages: dict[str, Any]) -> None:
    bodies = {name: {"messages": value} for name, value in messages.items()}
    vllm.refuse_each(PATHS["chat"], bodies, statuses=INVALID)


def _refuse_or_serve(vllm: Client, endpoint: str, body: dict[str, Any]) -> None:
    """Accept both answers of a documented set: a sound refusal, or a reply."""
    reply = vllm.send("POST", PATHS[endpoint], body={"model": vllm.model, "max_tokens": 1, **body})
    if reply.status != 200:
        vllm.refuse(PATHS[endpoint], body=body, statuses=INVALID)


def _observe_status(
    vllm: Client, name: str, body: dict[str, Any], *, endpoint: str = "completions"
) -> None:
    body = {"model": vllm.model, "max_tokens": 1, **body}
    vllm.observe(f"errors.{name}", vllm.send("POST", PATHS[endpoint], body=body).status)


def _is_at_least(vllm: Client, version: tuple[int, int]) -> bool:
    number = re.match(r"(\d+)\.(\d+)", vllm.server.version)
    return number is not None and (int(number[1]), int(number[2])) >= version


def _too_long(vllm: Client, form: str) -> tuple[str, dict[str, Any]]:
    length = (vllm.max_model_len or 2**20) + 1
    if form == "token-ids":
        return PATHS["completions"], {"prompt": [A_TOKEN] * length}
    text = " hello" * length
    if form == "chat":
        return PATHS["chat"], {"messages": [{"role": "user", "content": text}]}
    return PATHS["completions"], {"prompt": text}
