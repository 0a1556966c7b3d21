"""Chat completions: shape, roles, bounds, ends and accounting."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import INFO, SHOULD, Client, check, not_applicable, suite
from pytest_vllm.domain.sampling import NEUTRAL

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

pytestmark = suite("chat", concurrent=True)

QUESTION = "What is the capital of France?"
USER: dict[str, Any] = {"role": "user", "content": QUESTION}
# Longer than the system message that some templates put in by themselves.
INSTRUCTION = "You are a careful assistant. " * 12
SPECIAL = re.compile(r"<\|[a-z_]{2,}\|>|<(?:start|end)_of_turn>|</s>|<eos>|\[/?INST\]")
ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "</s>",
    "<eos>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
HARMONY = "<|start|>system<|message|>"
CHAT = ("chat",)
BASE = ("base",)


@check(
    "chat.message.is-the-assistants",
    needs=CHAT,
    ref="K01",
    catches=(
        "role-wrong",
        "content-null",
        "text-empty",
    ),
)
def test_role(vllm: Client) -> None:
    """The reply MUST be a message of the assistant with a text, or with reasoning before one."""
    reply = vllm.chat(QUESTION, max_tokens=12, temperature=0)
    assert reply.json["choices"][0]["message"]["role"] == "assistant"
    generation = vllm.read(reply)
    assert generation.text or generation.reasoning


@check(
    "chat.usage.adds-up",
    needs=CHAT,
    ref="K01",
    catches=(
        "total-tokens-plus-one",
        "usage-missing",
    ),
)
def test_usage_adds_up(vllm: Client) -> None:
    """`total_tokens` MUST equal `prompt_tokens` plus `completion_tokens`."""
    usage = vllm.chat(QUESTION, max_tokens=8).json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@check(
    "chat.finish-reason.fits-length",
    needs=CHAT,
    ref="K01",
    catches=("finish-reason-swapped",),
)
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


@check("chat.messages.turns-count", needs=CHAT, ref="K03", catches=("turns-forgotten",))
def test_turns(vllm: Client) -> None:
    """Earlier turns MUST reach the model: a longer conversation has more prompt tokens."""
    turns = [USER, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Why?"}]
    assert _prompt_tokens(vllm, turns) > _prompt_tokens(vllm, [USER])


@check("chat.messages.system", needs=CHAT, ref="K03", catches=("system-ignored",))
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
@check(
    "chat.max-completion-tokens.bounds",
    needs=CHAT,
    ref="K04",
    catches=("max-completion-tokens-ignored",),
)
def test_max_completion_tokens(vllm: Client, bounds: dict[str, int], tokens: int) -> None:
    """`max_completion_tokens` MUST bound the reply and outweigh the older `max_tokens`."""
    usage = vllm.chat(QUESTION, **bounds, temperature=0, ignore_eos=True).json["usage"]
    assert usage["completion_tokens"] == tokens


@check("chat.end.is-found", level=SHOULD, needs=CHAT, ref="K06", catches=("eos-ignored",))
def test_end(vllm: Client) -> None:
    """A short answer SHOULD end by itself: the model's end of turn is known to the server."""
    for prompt in ("Say OK.", "Hi", "What is 2+2?"):
        reply = vllm.chat(prompt, max_tokens=200, temperature=0)
        if reply.json["choices"][0]["finish_reason"] == "stop" or vllm.read(reply).reasoning:
            return
    pytest.fail("none of three short answers ended within 200 tokens", pytrace=False)


@check("chat.text.no-special-tokens", needs=CHAT, ref="K06", catches=("special-tokens-leaked",))
def test_no_special_tokens(vllm: Client) -> None:
    """The text of a reply MUST NOT contain the special tokens that frame turns."""
    text = vllm.read(vllm.chat("Say OK.", max_tokens=64, temperature=0)).text
    assert SPECIAL.findall(text) == []


@check(
    "chat.ignore-eos.fills-up",
    needs=CHAT,
    ref="K07",
    catches=(
        "ignore-eos-ignored",
        "completion-tokens-minus-one",
    ),
)
def test_ignore_eos(vllm: Client) -> None:
    """With `ignore_eos`, a reply MUST have exactly `max_tokens` tokens and say `length`."""
    # What a reasoning parser makes of text after its end is not asked here: those go on anyway.
    reasons = vllm.read(vllm.chat("Say OK.", max_tokens=4)).reasoning
    prompt = "Count from 1 to 100." if reasons else "Say OK."
    body = vllm.chat(prompt, max_tokens=40, temperature=0, ignore_eos=True).json
    assert body["usage"]["completion_tokens"] == 40
    assert body["choices"][0]["finish_reason"] == "length"


@check(
    "chat.usage.prompt-tokens",
    needs=CHAT,
    ref="K13",
    catches=(
        "prompt-tokens-plus-one",
        "generation-prompt-missing",
        "tokenize-template-missing",
    ),
)
def test_prompt_tokens(vllm: Client, vllm_target: Target) -> None:
    """`prompt_tokens` MUST be the number of tokens that `/tokenize` makes of the messages."""
    if vllm_target.serve_args.has("--default-chat-template-kwargs"):
        not_applicable("the server was started with --default-chat-template-kwargs")
    ids = vllm.tokenize([USER])
    if HARMONY in vllm.detokenize(ids):
        # gpt-oss: the chat endpoint writes this prompt by itself, with the date, not by template.
        assert _prompt_tokens(vllm, [USER]) > 0
        return
    assert _prompt_tokens(vllm, [USER]) == len(ids)


@check("chat.messages.all-parts", needs=CHAT, ref="K03", catches=("content-parts-first-only",))
def test_all_parts(vllm: Client) -> None:
    """Each text part of a content MUST reach the model."""
    parts = [{"type": "text", "text": QUESTION}, {"type": "text", "text": INSTRUCTION}]
    both = [{"role": "user", "content": parts}]
    first = [{"role": "user", "content": parts[:1]}]
    assert _prompt_tokens(vllm, both) > _prompt_tokens(vllm, first) + 20


@check("chat.end.ends-the-reply", needs=CHAT, ref="K06", catches=("eos-ignored",))
def test_end_of_turn(vllm: Client) -> None:
    """Nothing MUST follow the token with which the model ends its turn."""
    for prompt in ("Say OK.", "Hi"):
        reply = vllm.generate("chat", prompt, top=0, max_tokens=48, temperature=0)
        generation = vllm.read(reply)
        if generation.reasoning:
            not_applicable("turns of a model that thinks aloud have several ends")
        texts = [token.text for token in generation.tokens]
        assert [text for text in texts[:-1] if text.strip() in ENDS] == [], texts


@check("chat.n.choices", needs=CHAT, ref="K09", catches=("n-ignored", "index-constant"))
def test_n(vllm: Client) -> None:
    """`n=2` MUST give two choices with the indexes 0 and 1."""
    choices = vllm.chat(QUESTION, **{**NEUTRAL, "n": 2, "max_tokens": 4}).json["choices"]
    assert sorted(choice["index"] for choice in choices) == [0, 1]


@check("chat.n.differ", needs=CHAT, ref="K09", catches=("n-identical", "always-greedy"))
def test_n_differ(vllm: Client) -> None:
    """Choices that are sampled hot MUST NOT all be the same."""
    params = {**NEUTRAL, "temperature": 1.8, "n": 4, "max_tokens": 16}
    reply = vllm.chat("Write a poem about any thing you like.", **params)
    written = [vllm.read(reply, index) for index in range(4)]
    assert len({one.reasoning + one.text for one in written}) > 1


@check("chat.memory.name", level=INFO, needs=CHAT, ref="K17")
def test_memory(vllm: Client) -> None:
    """Whether the model remembers a name from an earlier turn is noted: small ones may not."""
    messages = [
        {"role": "user", "content": "My name is Bob."},
        {"role": "assistant", "content": "Nice to meet you."},
        {"role": "user", "content": "What is my name?"},
    ]
    text = vllm.read(vllm.chat(messages, max_tokens=24, temperature=0)).text
    vllm.observe("chat.memory.name", "Bob" in text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f", "parameters": {"type": "object"}}]),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("reasoning_effort", "low"),
        ("service_tier", "auto"),
    ],
    ids=["functions", "store", "metadata", "reasoning-effort", "service-tier"],
)
@check("chat.fields.ignored", level=INFO, needs=CHAT, ref="K18")
def test_ignored(vllm: Client, field: str, value: object) -> None:
    """What becomes of OpenAI's fields that vLLM may not have is noted."""
    body = {"model": vllm.model, "messages": [USER], "max_tokens": 1, field: value}
    vllm.observe(
        f"chat.fields.{field}", vllm.send("POST", "/v1/chat/completions", body=body).status
    )


@check("chat.user.is-accepted", needs=CHAT, ref="K18")
def test_user(vllm: Client) -> None:
    """The field `user` of the OpenAI API MUST be accepted."""
    vllm.chat(QUESTION, max_tokens=1, user="ada")


@check(
    "chat.temperature.default",
    level=SHOULD,
    needs=CHAT,
    ref="C04",
    catches=("always-greedy", "default-temperature-zero"),
)
def test_default_temperature(vllm: Client) -> None:
    """Without a temperature, replies SHOULD be sampled, unless the model's defaults differ."""
    prompt = "Write a poem about any thing you like."
    replies = [vllm.read(vllm.chat(prompt, max_tokens=12)) for _ in range(4)]
    assert len({reply.reasoning + reply.text for reply in replies}) > 1


def _prompt_tokens(vllm: Client, messages: list[dict[str, Any]]) -> int:
    usage: dict[str, int] = vllm.chat(messages, max_tokens=1).json["usage"]
    return usage["prompt_tokens"]
