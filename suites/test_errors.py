"""Bad requests: each is refused with an error that clients can read, and the server serves on.

That the next good request is served is asserted after each refusal by the client. vLLM 0.32 refuses
with 400 what its own description promises as 422; clients take both for the caller's fault.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_vllm import ENDPOINTS, SHOULD, Client, check, needs, suite

pytestmark = suite("errors", concurrent=True)

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
TURN = {"role": "user", "content": "Hello"}
INPUTS: dict[str, dict[str, Any]] = {
    "completions": {"prompt": "Hello"},
    "chat": {"messages": [TURN]},
}
INVALID = (400, 422)
CHAT = ("chat",)


@ENDPOINTS
@check("errors.model.unknown", ref="E01")
def test_unknown_model(vllm: Client, endpoint: str) -> None:
    """A request for a model that is not served MUST be refused with 404."""
    body = {"model": "no-such-model", **INPUTS[endpoint]}
    vllm.refuse(PATHS[endpoint], body=body, statuses=(404,))


@check("errors.model.names-param", level=SHOULD, ref="E01")
def test_unknown_model_param(vllm: Client) -> None:
    """The refusal of an unknown model SHOULD name the parameter `model`."""
    body = {"model": "no-such-model", "prompt": "Hello"}
    reply = vllm.refuse("/v1/completions", body=body, statuses=(404,))
    assert reply.json["error"]["param"] == "model"


@ENDPOINTS
@check("errors.input.missing", ref="E02")
def test_input_missing(vllm: Client, endpoint: str) -> None:
    """A request without prompt or messages MUST be refused."""
    vllm.refuse(PATHS[endpoint], body={}, statuses=INVALID)


@pytest.mark.parametrize("messages", [[], "Hello", None], ids=["empty", "text", "null"])
@check("errors.messages.malformed", needs=CHAT, ref="E03")
def test_messages(vllm: Client, messages: object) -> None:
    """Messages that are empty or no list MUST be refused."""
    vllm.refuse(PATHS["chat"], body={"messages": messages}, statuses=INVALID)


@pytest.mark.parametrize(
    "prompt", [[], 5, {}, ["a", 5]], ids=["empty-list", "number", "object", "mixed"]
)
@check("errors.prompt.malformed", ref="E04")
def test_prompt(vllm: Client, prompt: object) -> None:
    """A prompt that is neither text nor token IDs nor a list of either MUST be refused."""
    vllm.refuse(PATHS["completions"], body={"prompt": prompt}, statuses=INVALID)


@pytest.mark.parametrize("prompt", ["", ["a", ""]], ids=["alone", "in-a-list"])
@check("errors.prompt.empty", ref="E04")
def test_empty_prompt(vllm: Client, prompt: object) -> None:
    """An empty prompt MUST be refused, unless the tokenizer begins every text with a token."""
    if vllm.tokenize(""):
        reply = vllm.send("POST", PATHS["completions"], body=_bounded(vllm, prompt))
        assert reply.status in (200, *INVALID)
        return
    vllm.refuse(PATHS["completions"], body={"prompt": prompt}, statuses=INVALID)


@ENDPOINTS
@check("errors.max-tokens.negative", ref="E06")
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


@pytest.mark.parametrize("form", ["text", "token-ids", pytest.param("chat", marks=needs("chat"))])
@check("errors.prompt.too-long", ref="E09")
def test_too_long(vllm: Client, form: str) -> None:
    """A prompt that is longer than the context MUST be refused."""
    path, body = _too_long(vllm, form)
    vllm.refuse(path, body=body, statuses=(*INVALID, 413))


@check("errors.prompt.too-long-says-limit", level=SHOULD, ref="E09")
def test_too_long_says_limit(vllm: Client) -> None:
    """The refusal of a prompt that is too long SHOULD say how long it may be."""
    path, body = _too_long(vllm, "token-ids")
    message = vllm.refuse(path, body=body, statuses=(*INVALID, 413)).json["error"]["message"]
    assert str(vllm.max_model_len) in message.replace(",", "")


@check("errors.prompt.too-long-is-fast", level=SHOULD, ref="E09")
def test_too_long_is_fast(vllm: Client) -> None:
    """The refusal of a prompt that is too long SHOULD take no more than a few seconds."""
    path, body = _too_long(vllm, "text")
    elapsed_ms = vllm.refuse(path, body=body, statuses=(*INVALID, 413)).elapsed_ms
    assert elapsed_ms < 5000 + (vllm.max_model_len or 0) / 10


@pytest.mark.parametrize(
    "temperature", [-0.1, math.nan, math.inf, "hot"], ids=["negative", "nan", "infinity", "text"]
)
@check("errors.temperature.invalid", ref="E11")
def test_temperature(vllm: Client, temperature: object) -> None:
    """A temperature that is negative, not finite or no number MUST be refused."""
    body = {"prompt": "Hello", "temperature": temperature}
    vllm.refuse(PATHS["completions"], body=body, statuses=INVALID)


@ENDPOINTS
@pytest.mark.parametrize(
    "content",
    ['{"model": "x", ', "", "[]", "null", '"hi"'],
    ids=["broken", "empty", "array", "null", "text"],
)
@check("errors.body.malformed", ref="E24")
def test_body(vllm: Client, endpoint: str, content: str) -> None:
    """A body that is no JSON object MUST be refused."""
    vllm.refuse(PATHS[endpoint], content=content, statuses=INVALID)


@check("errors.aftermath.serves", ref="H05")
def test_aftermath(vllm: Client) -> None:
    """After all bad requests the server MUST be healthy and complete a prompt in 30 seconds."""
    assert vllm.get("/health").status == 200
    assert vllm.complete("Hello", max_tokens=1).elapsed_ms < 30_000


def _bounded(vllm: Client, prompt: object) -> dict[str, object]:
    return {"model": vllm.model, "prompt": prompt, "max_tokens": 1}


def _too_long(vllm: Client, form: str) -> tuple[str, dict[str, Any]]:
    length = (vllm.max_model_len or 2**20) + 1
    if form == "token-ids":
        return PATHS["completions"], {"prompt": [vllm.tokenize("Hello")[-1]] * length}
    text = " hello" * length
    if form == "chat":
        return PATHS["chat"], {"messages": [{"role": "user", "content": text}]}
    return PATHS["completions"], {"prompt": text}
