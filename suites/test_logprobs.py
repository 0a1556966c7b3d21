"""Log probabilities: how many, in which order, of which token, and of the prompt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import SHOULD, Client, check, not_applicable, suite
from pytest_vllm.domain.generation import TIE_NATS
from pytest_vllm.domain.sampling import NEUTRAL

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

pytestmark = suite("logprobs", concurrent=True)

PROMPT = "The capital of France is"
QUESTION = "What is the capital of France?"
GREEDY: dict[str, Any] = {**NEUTRAL, "temperature": 0}


@pytest.mark.parametrize("count", [0, 5, 20])
@check(
    "logprobs.counts",
    ref="C11",
    catches=(
        "logprobs-ignored",
        "completion-tokens-minus-one",
    ),
)
def test_logprob_counts(vllm: Client, vllm_target: Target, count: int) -> None:
    """`logprobs=n` MUST give one entry for each token and up to n alternatives beside it."""
    count = _allowed(vllm_target, count)
    body = vllm.complete(PROMPT, logprobs=count, max_tokens=8, **GREEDY).json
    logprobs = body["choices"][0]["logprobs"]
    tokens = body["usage"]["completion_tokens"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == tokens
    sizes = [len(top) for top in logprobs["top_logprobs"] or () if top is not None]
    assert all(size <= count + 1 for size in sizes)
    # Tokens that read alike share a name in the reply, so there may be fewer than asked for.
    assert max(sizes, default=0) >= count // 2


@check("logprobs.hold-the-sampled", ref="C11", catches=("logprobs-shifted",))
def test_sampled_among_alternatives(vllm: Client) -> None:
    """Each sampled token MUST be among its alternatives."""
    reply = vllm.generate("completions", PROMPT, top=5, temperature=1.0, seed=1)
    tokens = vllm.read(reply).tokens
    assert tokens
    for token in tokens:
        assert token.text in token.top


@check("logprobs.text-offsets", ref="C12", catches=("text-offsets-zero",))
def test_text_offsets(vllm: Client) -> None:
    """`text_offset` MUST say where each token begins in the text."""
    choice = vllm.complete(PROMPT, logprobs=1, max_tokens=8, **GREEDY).json["choices"][0]
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert len(offsets) == len(tokens)
    assert offsets == sorted(offsets)
    # Some tokenizers drop the blank before a word when they show one token alone: then the tokens
    # do not add up to the text, and no offsets could fit.
    if "".join(tokens) == choice["text"]:
        pieces = [
            choice["text"][offset : offset + len(token)]
            for token, offset in zip(tokens, offsets, strict=True)
        ]
        assert pieces == tokens


@check(
    "logprobs.are-logs",
    ref="C13",
    catches=(
        "logprobs-positive",
        "logprobs-scaled",
        "logprob-nan",
        "logprob-null",
    ),
)
def test_logprobs_are_logs(vllm: Client, vllm_target: Target) -> None:
    """Log probabilities MUST be finite, at most 0, and their probabilities add up to at most 1."""
    top = _allowed(vllm_target, 20)
    tokens = vllm.read(vllm.generate("completions", PROMPT, top=top, **GREEDY)).tokens
    assert tokens
    for token in tokens:
        assert token.logprob is not None
        assert all(math.isfinite(value) and value <= 1e-4 for value in token.top.values())
        assert sum(math.exp(value) for value in token.top.values()) <= 1.001


@check(
    "logprobs.greedy-is-best",
    ref="C13",
    catches=(
        "logprobs-shifted",
        "temperature-forced",
    ),
)
def test_greedy_is_best(vllm: Client) -> None:
    """A greedy token MUST be the most probable of its alternatives."""
    tokens = vllm.read(vllm.generate("completions", PROMPT, top=5, **GREEDY)).tokens
    assert tokens
    for token in tokens:
        assert token.logprob is not None
        assert token.logprob >= max(token.top.values()) - 1e-3


@check("logprobs.sorted", level=SHOULD, ref="C13")
def test_sorted(vllm: Client) -> None:
    """The alternatives of a greedy token SHOULD come in falling order."""
    for token in vllm.read(vllm.generate("completions", PROMPT, top=5, **GREEDY)).tokens:
        values = list(token.top.values())
        assert values == sorted(values, reverse=True)


@check("logprobs.echo.scores-the-prompt", ref="C10", catches=("echo-dropped",))
def test_echo_scores(vllm: Client) -> None:
    """With echo, log probabilities and no new tokens, the prompt MUST come back with its own."""
    body = vllm.complete(PROMPT, echo=True, logprobs=1, max_tokens=0, temperature=0).json
    choice, usage = body["choices"][0], body["usage"]
    assert choice["text"] == PROMPT
    values = choice["logprobs"]["token_logprobs"]
    assert len(values) == usage["prompt_tokens"]
    assert values[0] is None
    assert all(value is not None and value <= 1e-4 for value in values[1:])
    vllm.observe("completions.echo.completion-tokens", usage["completion_tokens"])


@check("logprobs.alternatives.enough", ref="C11", catches=("alternatives-short",))
def test_alternatives(vllm: Client) -> None:
    """`logprobs=n` MUST give no fewer than n alternatives for each token."""
    vllm.require_field("return_tokens_as_token_ids")
    # By their IDs, since tokens that read alike share one entry.
    params = {**GREEDY, "max_tokens": 6, "return_tokens_as_token_ids": True}
    reply = vllm.generate("completions", PROMPT, top=5, **params)
    assert [len(token.top) for token in vllm.read(reply).tokens] == [5] * 6


@pytest.mark.parametrize("count", [0, 1])
@check("logprobs.prompt.one-each", ref="C14", catches=("prompt-logprobs-ignored",))
def test_prompt_counts(vllm: Client, count: int) -> None:
    """`prompt_logprobs` MUST have one entry for each token of the prompt, null for the first."""
    entries, usage = _prompt_logprobs(vllm, count)
    assert len(entries) == usage["prompt_tokens"]
    assert entries[0] is None
    for entry in entries[1:]:
        assert entry
        assert all(value["logprob"] <= 1e-4 for value in entry.values())
        assert all((value.get("rank") or 1) >= 1 for value in entry.values())


@check(
    "logprobs.prompt.of-its-tokens",
    ref="C14",
    catches=("prompt-logprobs-ignored", "prompt-logprobs-shifted"),
)
def test_prompt_tokens(vllm: Client) -> None:
    """Each entry of `prompt_logprobs` MUST hold the token that stands there in the prompt."""
    entries, _ = _prompt_logprobs(vllm, 1)
    ids = vllm.tokenize(PROMPT)
    assert [str(token) in entry for token, entry in zip(ids[1:], entries[1:], strict=True)] == [
        True
    ] * (len(ids) - 1)


@check("logprobs.prompt.as-echoed", ref="C14 C10", catches=("prompt-logprobs-shifted",))
def test_prompt_as_echoed(vllm: Client) -> None:
    """`prompt_logprobs` MUST say of a prompt what its echo with `logprobs` says."""
    entries, _ = _prompt_logprobs(vllm, 0)
    ids = vllm.tokenize(PROMPT)
    told = [entry[str(token)]["logprob"] for token, entry in zip(ids[1:], entries[1:], strict=True)]
    body = vllm.complete(PROMPT, echo=True, logprobs=1, max_tokens=1, **GREEDY).json
    echoed = body["choices"][0]["logprobs"]["token_logprobs"][1 : len(ids)]
    # Another batch rounds otherwise: measured up to 0.13 nats on CPU in bf16.
    assert [abs(one - other) <= TIE_NATS for one, other in zip(told, echoed, strict=True)] == [
        True
    ] * len(told)


@check(
    "logprobs.chat.one-each",
    needs=("chat",),
    ref="K08",
    catches=(
        "completion-tokens-minus-one",
        "logprobs-ignored",
    ),
)
def test_chat(vllm: Client) -> None:
    """`logprobs` MUST have one entry for each token of the reply, its end included."""
    reply = vllm.chat(QUESTION, max_tokens=8, temperature=0, logprobs=True)
    tokens = reply.json["usage"]["completion_tokens"]
    entries = reply.json["choices"][0]["logprobs"]["content"]
    if vllm.read(reply).reasoning:
        assert 0 < len(entries) <= tokens  # marks between reasoning and text may be left out
    else:
        assert len(entries) == tokens


@pytest.mark.parametrize("count", [0, 3, 20])
@check(
    "logprobs.chat.alternatives",
    needs=("chat",),
    ref="K08",
    catches=(
        "alternatives-short",
        "logprobs-ignored",
    ),
)
def test_chat_alternatives(vllm: Client, vllm_target: Target, count: int) -> None:
    """`top_logprobs=n` MUST give n alternatives for each token."""
    limit = vllm_target.serve_args.value("--max-logprobs") or ""
    count = min(count, int(limit)) if limit.isdigit() else count
    body = vllm.chat(QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=count).json
    entries = body["choices"][0]["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [count] * len(entries)


@check("logprobs.chat.bytes", needs=("chat",), ref="K08", catches=("token-bytes-wrong",))
def test_chat_bytes(vllm: Client) -> None:
    """The `bytes` of a token MUST be its text in UTF-8."""
    body = vllm.chat(QUESTION, max_tokens=8, temperature=0, logprobs=True).json
    for entry in body["choices"][0]["logprobs"]["content"]:
        if entry["bytes"] is not None:
            assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]


@check("logprobs.chat.spell-the-text", needs=("chat",), ref="K08", catches=("reasoning-leaked",))
def test_chat_spelled(vllm: Client) -> None:
    """The tokens of a reply's log probabilities MUST spell its text."""
    reply = vllm.generate("chat", QUESTION, top=0, max_tokens=12, temperature=0)
    generation = vllm.read(reply)
    spelled = "".join(token.text for token in generation.tokens)
    if generation.reasoning or "\ufffd" in spelled:
        not_applicable("the tokens do not stand for themselves in this reply")
    # Some tokenizers drop blanks when they show one token alone; the last one may be the end.
    assert "".join(spelled.split()).startswith("".join(generation.text.split()))


@check("logprobs.chat.sorted", needs=("chat",), ref="K08 C13", catches=("alternatives-unsorted",))
def test_chat_sorted(vllm: Client) -> None:
    """The alternatives of a greedy token of chat MUST come with the most probable first."""
    reply = vllm.generate("chat", QUESTION, top=5, max_tokens=4, **GREEDY)
    for token in vllm.read(reply).tokens:
        values = list(token.top.values())
        assert values
        assert values[0] >= max(values) - 1e-3, token.text


def _prompt_logprobs(vllm: Client, count: int) -> tuple[list[Any], dict[str, int]]:
    vllm.require_field("prompt_logprobs")
    body = vllm.complete(PROMPT, prompt_logprobs=count, max_tokens=1, **GREEDY).json
    entries = body["choices"][0].get("prompt_logprobs")
    assert entries, "required prompt_logprobs, saw none"
    return entries, body["usage"]


def _allowed(target: Target, count: int) -> int:
    """Return how many alternatives may be asked for; a launch can lower vLLM's 20."""
    limit = target.serve_args.value("--max-logprobs")
    if limit is None or not limit.isdigit():
        return count
    return min(count, int(limit))
