"""Chat completions: shape, roles, bounds, ends and accounting."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import SHOULD, Client, check, suite

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

pytestmark = suite("chat", concurrent=True)

QUESTION = "What is the capital of France?"
USER: dict[str, Any] = {"role": "user", "content": QUESTION}
# Longer than the system message that some templates put in by themselves.
INSTRUCTION = "You are a careful assistant. " * 12
SPECIAL = re.compile(r"<\|[a-z_]{2,}\|>|<(?:start|end)_of_turn>|</s>|<eos>|\[/?INST\]")
CHAT = ("chat",)
BASE = ("base",)


@check("chat.message.is-the-assistants", needs=CHAT, ref="K01")
def test_role(vllm: Client) -> None:
    """The reply MUST be a message of the assistant with a text, or with reasoning before one."""
    reply = vllm.chat(QUESTION, max_tokens=12, temperature=0)
    assert reply.json["choices"][0]["message"]["role"] == "assistant"
    generation = vllm.read(reply)
    assert generation.text or generation.reasoning


@check("chat.usage.adds-up", needs=CHAT, ref="K01")
def test_usage_adds_up(vllm: Client) -> None:
    """`total_tokens` MUST equal `prompt_tokens` plus `completion_tokens`."""
    usage = vllm.chat(QUESTION, max_tokens=8).json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@check("chat.finish-reason.fits-length", needs=CHAT, ref="K01")
def test_finish_reason_fits(vllm: Client) -> None:
    """A reply MUST say `length` only when it has as many tokens as allowed, `stop` when fewer."""
    for max_tokens in (4, 128):
        body = vllm.chat("Say OK.", max_tokens=max_tokens, temperature=0).json
        reason, tokens = body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]
        assert tokens <= max_tokens
        if tokens < max_tokens:
            assert reason == "stop", f"{reason!r} after {tokens} of {max_tokens} tokens"


@check("chat.base-model.refused", needs=BASE, ref="K02")
def test_base_model(vllm: Client) -> None:
    """A model without a chat template MUST refuse to chat with a 4xx error, not break."""
    vllm.refuse("/v1/chat/completions", body={"messages": [USER]}, statuses=(400, 404, 422))


@check("chat.base-model.names-the-template", level=SHOULD, needs=BASE, ref="K02")
def test_base_model_reason(vllm: Client) -> None:
    """The refusal SHOULD name the chat template, which is what is missing."""
    body = {"messages": [USER]}
    reply = vllm.refuse("/v1/chat/completions", body=body, statuses=(400, 404, 422))
    assert "template" in reply.json["error"]["message"].lower()


@check("chat.messages.turns-count", needs=CHAT, ref="K03")
def test_turns(vllm: Client) -> None:
    """Earlier turns MUST reach the model: a longer conversation has more prompt tokens."""
    turns = [USER, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Why?"}]
    assert _prompt_tokens(vllm, turns) > _prompt_tokens(vllm, [USER])


@check("chat.messages.system", needs=CHAT, ref="K03")
def test_system(vllm: Client) -> None:
    """A system message MUST reach the model, or be refused by its template with 400."""
    messages = [{"role": "system", "content": INSTRUCTION}, USER]
    body = {"model": vllm.model, "messages": messages, "max_tokens": 1}
    if vllm.send("POST", "/v1/chat/completions", body=body).status == 400:
        # Templates of Gemma 1 to 3 and Mistral 0.1 raise "System role not supported".
        vllm.refuse("/v1/chat/completions", body=body)
        return
    assert _prompt_tokens(vllm, messages) > _prompt_tokens(vllm, [USER])


@check("chat.messages.developer", level=SHOULD, needs=CHAT, ref="K03")
def test_developer(vllm: Client) -> None:
    """A developer message SHOULD be accepted, as newer OpenAI clients send it."""
    messages = [{"role": "developer", "content": INSTRUCTION}, USER]
    vllm.chat(messages, max_tokens=1)


@check("chat.messages.content-parts", needs=CHAT, ref="K03")
def test_content_parts(vllm: Client) -> None:
    """A content of one text part MUST reach the model like the same text alone."""
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    # Templates of multi-modal models set a blank or a line break around parts.
    assert abs(_prompt_tokens(vllm, parts) - _prompt_tokens(vllm, [USER])) <= 4


@check("chat.messages.name", needs=CHAT, ref="K03")
def test_name(vllm: Client) -> None:
    """A message with a `name` MUST be answered."""
    vllm.chat([{**USER, "name": "ada"}], max_tokens=1)


@pytest.mark.parametrize(
    ("bounds", "tokens"),
    [({"max_completion_tokens": 5}, 5), ({"max_completion_tokens": 3, "max_tokens": 9}, 3)],
    ids=["alone", "beside-max-tokens"],
)
@check("chat.max-completion-tokens.bounds", needs=CHAT, ref="K04")
def test_max_completion_tokens(vllm: Client, bounds: dict[str, int], tokens: int) -> None:
    """`max_completion_tokens` MUST bound the reply and outweigh the older `max_tokens`."""
    usage = vllm.chat(QUESTION, **bounds, temperature=0, ignore_eos=True).json["usage"]
    assert usage["completion_tokens"] == tokens


@check("chat.end.is-found", level=SHOULD, needs=CHAT, ref="K06")
def test_end(vllm: Client) -> None:
    """A short answer SHOULD end by itself: the model's end of turn is known to the server."""
    for prompt in ("Say OK.", "Hi", "What is 2+2?"):
        reply = vllm.chat(prompt, max_tokens=200, temperature=0)
        if reply.json["choices"][0]["finish_reason"] == "stop" or vllm.read(reply).reasoning:
            return
    pytest.fail("none of three short answers ended within 200 tokens", pytrace=False)


@check("chat.text.no-special-tokens", needs=CHAT, ref="K06")
def test_no_special_tokens(vllm: Client) -> None:
    """The text of a reply MUST NOT contain the special tokens that frame turns."""
    text = vllm.read(vllm.chat("Say OK.", max_tokens=64, temperature=0)).text
    assert SPECIAL.findall(text) == []


@check("chat.ignore-eos.fills-up", needs=CHAT, ref="K07")
def test_ignore_eos(vllm: Client) -> None:
    """With `ignore_eos`, a reply MUST have exactly `max_tokens` tokens and say `length`."""
    # What a reasoning parser makes of text after its end is not asked here: those go on anyway.
    reasons = vllm.read(vllm.chat("Say OK.", max_tokens=4)).reasoning
    prompt = "Count from 1 to 100." if reasons else "Say OK."
    body = vllm.chat(prompt, max_tokens=40, temperature=0, ignore_eos=True).json
    assert body["usage"]["completion_tokens"] == 40
    assert body["choices"][0]["finish_reason"] == "length"


@check("chat.logprobs.one-each", needs=CHAT, ref="K08")
def test_logprobs(vllm: Client) -> None:
    """`logprobs` MUST have one entry for each token of the reply, its end included."""
    reply = vllm.chat(QUESTION, max_tokens=8, temperature=0, logprobs=True)
    tokens = reply.json["usage"]["completion_tokens"]
    entries = reply.json["choices"][0]["logprobs"]["content"]
    if vllm.read(reply).reasoning:
        assert 0 < len(entries) <= tokens  # marks between reasoning and text may be left out
    else:
        assert len(entries) == tokens


@pytest.mark.parametrize("count", [0, 3, 20])
@check("chat.logprobs.alternatives", needs=CHAT, ref="K08")
def test_top_logprobs(vllm: Client, vllm_target: Target, count: int) -> None:
    """`top_logprobs=n` MUST give n alternatives for each token."""
    limit = vllm_target.serve_args.value("--max-logprobs") or ""
    count = min(count, int(limit)) if limit.isdigit() else count
    body = vllm.chat(QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=count).json
    entries = body["choices"][0]["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [count] * len(entries)


@check("chat.logprobs.bytes", needs=CHAT, ref="K08")
def test_bytes(vllm: Client) -> None:
    """The `bytes` of a token MUST be its text in UTF-8."""
    body = vllm.chat(QUESTION, max_tokens=8, temperature=0, logprobs=True).json
    for entry in body["choices"][0]["logprobs"]["content"]:
        if entry["bytes"] is not None:
            assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]


@check("chat.usage.prompt-tokens", needs=CHAT, ref="K13")
def test_prompt_tokens(vllm: Client) -> None:
    """`prompt_tokens` MUST be the number of tokens that `/tokenize` makes of the messages."""
    ids = vllm.tokenize([USER])
    if "<|start|>system<|message|>" in vllm.detokenize(ids):
        # gpt-oss: the chat endpoint writes this prompt by itself, with the date, not by template.
        assert _prompt_tokens(vllm, [USER]) > 0
        return
    assert _prompt_tokens(vllm, [USER]) == len(ids)


def _prompt_tokens(vllm: Client, messages: list[dict[str, Any]]) -> int:
    usage: dict[str, int] = vllm.chat(messages, max_tokens=1).json["usage"]
    return usage["prompt_tokens"]
