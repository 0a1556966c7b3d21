"""Completions: lengths, accounting, batches, echo, stop texts and log probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import SHOULD, Client, Layer, check, suite

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

pytestmark = suite("completions", concurrent=True)

PROMPT = "The capital of France is"
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8,"
# Greedy, and no penalty out of the model's generation_config; no end before the bound.
GREEDY: dict[str, Any] = {
    "temperature": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
}


@check("completions.length.exact", ref="C01")
def test_length(vllm: Client) -> None:
    """A completion that is cut at `max_tokens` MUST have that many tokens and say `length`."""
    body = vllm.complete(PROMPT, max_tokens=8, **GREEDY).json
    assert body["usage"]["completion_tokens"] == 8
    assert body["choices"][0]["finish_reason"] == "length"


@check("completions.text.not-empty", ref="C01")
def test_text(vllm: Client) -> None:
    """A completion of eight tokens MUST have a text."""
    assert vllm.complete(PROMPT, max_tokens=8, **GREEDY).json["choices"][0]["text"]


@check("completions.greedy.repeats", ref="C02")
def test_greedy(vllm: Client) -> None:
    """The same greedy request MUST give the same text again, also from a warm prefix cache."""
    first, second = (vllm.generate("completions", PROMPT, top=5, **GREEDY) for _ in range(2))
    vllm.assert_same(vllm.read(first), vllm.read(second), "the second of two equal requests")


@check("completions.max-tokens.default", level=SHOULD, layer=Layer.STRICT, ref="C03")
def test_default_length(vllm: Client) -> None:
    """Without `max_tokens`, a completion SHOULD have at most the 16 tokens of the OpenAI API."""
    reply = vllm.complete(PROMPT, max_tokens=None, temperature=0)
    assert reply.json["usage"]["completion_tokens"] <= 16


@check("completions.prompt.token-ids", ref="C05")
def test_token_ids(vllm: Client) -> None:
    """A prompt of token IDs MUST be completed like the text that it stands for."""
    text = vllm.generate("completions", PROMPT, top=5, **GREEDY)
    ids = vllm.generate("completions", vllm.tokenize(PROMPT), top=5, **GREEDY)
    vllm.assert_same(vllm.read(text), vllm.read(ids), "a prompt as text and as token IDs")


@check("completions.usage.prompt-tokens", ref="C05")
def test_prompt_tokens(vllm: Client) -> None:
    """`prompt_tokens` MUST be the number of tokens that `/tokenize` makes of the prompt."""
    usage = vllm.complete(PROMPT, max_tokens=1).json["usage"]
    assert usage["prompt_tokens"] == len(vllm.tokenize(PROMPT))


@pytest.mark.parametrize("form", ["texts", "token-ids"])
@check("completions.batch.in-order", ref="C06")
def test_batch(vllm: Client, form: str) -> None:
    """Two prompts in one request MUST give two choices, each completing its own prompt."""
    texts = [COUNTING, PROMPT]
    prompts: list[Any] = list(texts) if form == "texts" else [vllm.tokenize(text) for text in texts]
    batch = vllm.generate("completions", prompts, top=5, max_tokens=6, **GREEDY)
    assert [choice["index"] for choice in batch.json["choices"]] == [0, 1]
    for index, prompt in enumerate(prompts):
        solo = vllm.generate("completions", prompt, top=5, max_tokens=6, **GREEDY)
        vllm.assert_same(vllm.read(solo), vllm.read(batch, index), f"prompt {index} of a batch")


@check("completions.n.choices", ref="C08")
def test_n(vllm: Client) -> None:
    """`n=3` MUST give three choices with the indexes 0, 1 and 2."""
    body = vllm.complete("My favourite", n=3, max_tokens=4, temperature=1.0, seed=1).json
    assert sorted(choice["index"] for choice in body["choices"]) == [0, 1, 2]


@check("completions.n.differ", ref="C08")
def test_n_differ(vllm: Client) -> None:
    """Choices that are sampled hot MUST NOT all be the same."""
    params = {"n": 3, "max_tokens": 24, "temperature": 1.5, "top_p": 1.0, "seed": 1}
    choices = vllm.complete("My favourite", **params).json["choices"]
    assert len({choice["text"] for choice in choices}) > 1


@pytest.mark.parametrize("prompt", [PROMPT, "🎉🎊👩‍👩‍👧‍👦 party"], ids=["ascii", "emoji"])
@check("completions.echo.exact", ref="C09")
def test_echo(vllm: Client, prompt: str) -> None:
    """With `echo`, the text MUST begin with the prompt, character by character."""
    body = vllm.complete(prompt, echo=True, max_tokens=4, **GREEDY).json
    assert body["choices"][0]["text"][: len(prompt)] == prompt


@pytest.mark.parametrize("count", [0, 5, 20])
@check("completions.logprobs.counts", ref="C11")
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


@check("completions.logprobs.hold-the-sampled", ref="C11")
def test_sampled_among_alternatives(vllm: Client) -> None:
    """Each sampled token MUST be among its alternatives."""
    reply = vllm.generate("completions", PROMPT, top=5, temperature=1.0, seed=1)
    tokens = vllm.read(reply).tokens
    assert tokens
    for token in tokens:
        assert token.text in token.top


@check("completions.logprobs.text-offsets", ref="C12")
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


@check("completions.logprobs.are-logs", ref="C13")
def test_logprobs_are_logs(vllm: Client, vllm_target: Target) -> None:
    """Log probabilities MUST be finite, at most 0, and their probabilities add up to at most 1."""
    top = _allowed(vllm_target, 20)
    tokens = vllm.read(vllm.generate("completions", PROMPT, top=top, **GREEDY)).tokens
    assert tokens
    for token in tokens:
        assert token.logprob is not None
        assert all(math.isfinite(value) and value <= 1e-4 for value in token.top.values())
        assert sum(math.exp(value) for value in token.top.values()) <= 1.001


@check("completions.logprobs.greedy-is-best", ref="C13")
def test_greedy_is_best(vllm: Client) -> None:
    """A greedy token MUST be the most probable of its alternatives."""
    tokens = vllm.read(vllm.generate("completions", PROMPT, top=5, **GREEDY)).tokens
    assert tokens
    for token in tokens:
        assert token.logprob is not None
        assert token.logprob >= max(token.top.values()) - 1e-3


@check("completions.logprobs.sorted", level=SHOULD, ref="C13")
def test_sorted(vllm: Client) -> None:
    """The alternatives of a greedy token SHOULD come in falling order."""
    for token in vllm.read(vllm.generate("completions", PROMPT, top=5, **GREEDY)).tokens:
        values = list(token.top.values())
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("form", ["text", "list"])
@check("completions.stop.cuts", ref="C15")
def test_stop(vllm: Client, form: str) -> None:
    """A stop text MUST end the completion before it and give the reason `stop`."""
    whole = vllm.read(vllm.generate("completions", COUNTING, top=5, max_tokens=24, **GREEDY))
    stop = _later_word(whole.text)
    asked = stop if form == "text" else ["\u2603 never written", stop]
    reply = vllm.generate("completions", COUNTING, top=5, max_tokens=24, stop=asked, **GREEDY)
    cut = vllm.read(reply)
    assert stop not in cut.text
    pairs = zip(whole.tokens, cut.tokens, strict=False)
    if any(left.text != right.text for left, right in pairs):
        vllm.assert_same(whole, cut, "the same prompt with a stop text")  # only a near tie passes
        return
    assert cut.text == whole.text.partition(stop)[0]
    assert cut.finish_reason == "stop"


@check("completions.stop.reason-is-told", level=SHOULD, ref="C15")
def test_stop_reason(vllm: Client) -> None:
    """`stop_reason`, where a server has it, SHOULD be the stop text that was met."""
    stops = [" ", ",", "\n", "e"]
    choice = vllm.complete(COUNTING, max_tokens=24, stop=stops, **GREEDY).json["choices"][0]
    if choice["finish_reason"] == "stop" and "stop_reason" in choice:
        assert choice["stop_reason"] in stops


@check("completions.max-tokens.one", ref="C19")
def test_one_token(vllm: Client) -> None:
    """`max_tokens=1` MUST give one token."""
    usage = vllm.complete(PROMPT, max_tokens=1).json["usage"]
    assert usage["completion_tokens"] == 1


def _allowed(target: Target, count: int) -> int:
    """Return how many alternatives may be asked for; a launch can lower vLLM's 20."""
    limit = target.serve_args.value("--max-logprobs")
    if limit is None or not limit.isdigit():
        return count
    return min(count, int(limit))


def _later_word(text: str) -> str:
    """Return a word from the middle of a text, or a character if there is no blank in it."""
    words = text.split()
    assert words, f"required a text to stop in, saw {text!r}"
    return words[len(words) // 2] if len(words) > 1 else words[0][len(words[0]) // 2]
