"""vLLM's own fields of a completion request: token IDs, stop tokens, truncation, request IDs.

A field that the server's own description does not name is not asked for.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from pytest_vllm import INFO, SHOULD, Client, check, not_applicable, suite
from pytest_vllm.domain.sampling import NEUTRAL, token_id

pytestmark = suite("extensions", concurrent=True)

PROMPT = "The capital of France is"
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8,"
GREEDY: dict[str, Any] = {**NEUTRAL, "temperature": 0}


@check("extensions.stop.included", ref="C16", catches=("include-stop-ignored",))
def test_include_stop(vllm: Client) -> None:
    """With `include_stop_str_in_output`, the text MUST end with the stop text."""
    vllm.require_field("include_stop_str_in_output")
    stops = [",", "\n", "e", " "]  # OpenAI allows four
    params = {**GREEDY, "max_tokens": 24, "stop": stops, "include_stop_str_in_output": True}
    choice = vllm.complete(COUNTING, **params).json["choices"][0]
    if choice["finish_reason"] != "stop":
        not_applicable(f"none of {stops} was written: {choice['text']!r}")
    assert choice["text"].endswith(tuple(stops))


@check("extensions.stop-token-ids.end", ref="C17", catches=("stop-token-ids-ignored",))
def test_stop_tokens(vllm: Client) -> None:
    """A token of `stop_token_ids` MUST end the reply with the reason `stop`."""
    body, _ = _stopped(vllm)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 1


@check(
    "extensions.stop-token-ids.told",
    level=SHOULD,
    ref="C17",
    catches=("stop-reason-missing",),
)
def test_stop_token_reason(vllm: Client) -> None:
    """`stop_reason` SHOULD be the ID of the token that ended the reply."""
    body, stops = _stopped(vllm)
    choice = body["choices"][0]
    assert choice["stop_reason"] in stops
    vllm.observe("extensions.stop-token-ids.text", repr(choice["text"]))


@check(
    "extensions.token-ids.one-each",
    ref="C23",
    catches=("completion-tokens-minus-one",),
)
def test_token_ids(vllm: Client) -> None:
    """`return_token_ids` MUST give as many IDs as the usage counts, of prompt and reply."""
    body = _with_ids(vllm)
    choice, usage = body["choices"][0], body["usage"]
    assert len(choice["token_ids"]) == usage["completion_tokens"]
    assert len(choice["prompt_token_ids"]) == usage["prompt_tokens"]


@check(
    "extensions.token-ids.spell-the-text",
    needs=("tokenize",),
    ref="C23",
    catches=("token-ids-wrong", "last-character-cut", "whitespace-stripped", "tokens-substituted"),
)
def test_spelled(vllm: Client) -> None:
    """The IDs of a reply MUST be those of its text."""
    choice = _with_ids(vllm)["choices"][0]
    before = vllm.detokenize(choice["prompt_token_ids"])
    whole = vllm.detokenize(choice["prompt_token_ids"] + choice["token_ids"])
    spelled, text = whole.removeprefix(before).rstrip("\ufffd"), choice["text"].rstrip("\ufffd")
    # Some tokenizers drop blanks before punctuation when they show a whole text.
    assert "".join(text.split()) == "".join(spelled.split())
    assert (text[:1], text[-1:]) == (spelled[:1], spelled[-1:])


@check("extensions.truncation.keeps-the-end", ref="C24", catches=("truncation-ignored",))
def test_truncation(vllm: Client) -> None:
    """`truncate_prompt_tokens` MUST leave so many tokens of the prompt, its last ones."""
    vllm.require_field("truncate_prompt_tokens")
    ids = vllm.tokenize(COUNTING)
    body = vllm.complete(COUNTING, max_tokens=1, truncate_prompt_tokens=4).json
    assert body["usage"]["prompt_tokens"] == 4 < len(ids)


@check("extensions.truncation.ids", level=SHOULD, ref="C24")
def test_truncation_ids(vllm: Client) -> None:
    """A truncated prompt SHOULD be the end of the whole one."""
    vllm.require_field("return_token_ids")
    params = {"max_tokens": 1, "truncate_prompt_tokens": 4, "return_token_ids": True}
    choice = vllm.complete(COUNTING, **params).json["choices"][0]
    assert choice["prompt_token_ids"][-3:] == vllm.tokenize(COUNTING)[-3:]


@check("extensions.beam-search.differs", needs=("beam-search",), ref="C26")
def test_beam_search(vllm: Client) -> None:
    """Beam search MUST give `n` different continuations."""
    params: dict[str, Any] = {"use_beam_search": True, "n": 2, "max_tokens": 4, "temperature": 0}
    choices = vllm.complete(PROMPT, **params).json["choices"]
    assert len({choice["text"] for choice in choices}) == 2


@check("extensions.request-id.in-the-id", ref="C28", catches=("request-id-ignored",))
def test_request_id(vllm: Client) -> None:
    """A `request_id` of one's own MUST be part of the reply's ID."""
    vllm.require_field("request_id")
    name = uuid4().hex
    assert name in vllm.complete(PROMPT, max_tokens=1, request_id=name).json["id"]


@check("extensions.request-id.header", level=SHOULD, ref="C28", catches=("request-id-ignored",))
def test_request_id_header(vllm: Client) -> None:
    """The header `X-Request-Id` SHOULD name a request, as it does behind gateways."""
    name = uuid4().hex
    body = {"model": vllm.model, "prompt": PROMPT, "max_tokens": 1}
    reply = vllm.send("POST", "/v1/completions", body=body, headers={"x-request-id": name})
    assert name in reply.json["id"]


@check("extensions.special-tokens.kept", level=INFO, ref="C06")
def test_special_tokens(vllm: Client) -> None:
    """What a reply ends with when special tokens are shown is noted."""
    params = {"max_tokens": 48, "temperature": 0, "skip_special_tokens": False}
    choice = vllm.complete(PROMPT, **params).json["choices"][0]
    vllm.observe("extensions.special-tokens.end", repr(choice["text"][-24:]))


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
@check("extensions.priority.is-taken", level=INFO, ref="E32")
def test_priority(vllm: Client, order: int) -> None:
    """What a server without priorities says to one is noted."""
    body = {"model": vllm.model, "prompt": PROMPT, "max_tokens": 1, "priority": order}
    reply = vllm.send("POST", "/v1/completions", body=body)
    vllm.observe(f"extensions.priority.{order}", reply.status)


def _stopped(vllm: Client) -> tuple[dict[str, Any], list[int]]:
    """Complete a prompt, with the tokens that may come first as stop tokens."""
    vllm.require_field("return_tokens_as_token_ids")
    params = {**GREEDY, "max_tokens": 1, "return_tokens_as_token_ids": True}
    first = vllm.read(vllm.generate("completions", PROMPT, top=5, **params)).tokens[0]
    stops = [token_id(name) for name in first.top]
    body = vllm.complete(PROMPT, max_tokens=8, stop_token_ids=stops, **GREEDY).json
    return body, stops


def _with_ids(vllm: Client) -> dict[str, Any]:
    vllm.require_field("return_token_ids")
    params = {**GREEDY, "max_tokens": 24, "return_token_ids": True, "skip_special_tokens": False}
    body: dict[str, Any] = vllm.complete(COUNTING, **params).json
    return body
