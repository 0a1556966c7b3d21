"""Tokenization: what /tokenize, /detokenize and the generating endpoints make of a text agrees.

Which tokens are right for a model only a golden knows (see the suite `content`); here the server is
held against itself. Tokenizers may change a text on purpose (case, blanks, Unicode forms), so what
must come back exactly is only what their own IDs tell apart.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm import INFO, SHOULD, Client, check, not_applicable, suite

pytestmark = suite("tokenization", concurrent=True)

TOKENIZE = ("tokenize",)
CHAT = ("tokenize", "chat")
PLAIN = "The quick brown fox jumps over the lazy dog"
TURN = {"role": "user", "content": "Hello, who are you?"}
INVALID = (400, 422)
NAMES = {
    "unicode": "Zażółć gęślą jaźń — naïve café, 東京, Привет, مرحبا, 👩‍👩‍👧‍👦🎉",
    # NFKC would rewrite all of these words.
    "compatibility": "\ufb01ne \u2460 \uff21\uff22\uff23 x\u00b2",
    "layout": "def f(x):\n\treturn  x\n\n\n    # end",
}


@check("tokenization.route.is-there", ref="N01")
def test_route(vllm: Client) -> None:
    """A server MUST have `/tokenize`: clients count by it, and so do the checks of numbers."""
    assert vllm.send("POST", "/tokenize", body={}).status not in (404, 405, 501)


@check(
    "tokenization.count.is-length",
    needs=TOKENIZE,
    ref="N02",
    catches=("tokenize-count-off",),
)
def test_count(vllm: Client) -> None:
    """`count` MUST be the number of tokens, and `max_model_len` that of the list of models."""
    body = {"model": vllm.model, "prompt": PLAIN}
    document = vllm.send("POST", "/tokenize", body=body).json
    assert document["count"] == len(document["tokens"])
    assert document["max_model_len"] == (vllm.max_model_len or document["max_model_len"])


@check(
    "tokenization.round-trip.plain",
    needs=TOKENIZE,
    ref="N01",
    catches=("tokenize-ids-shifted",),
)
def test_round_trip(vllm: Client) -> None:
    """A plain sentence MUST come back from its tokens as it was."""
    assert vllm.detokenize(_ids(vllm, PLAIN)) == PLAIN


@pytest.mark.parametrize("name", NAMES)
@check(
    "tokenization.round-trip.any-text",
    level=SHOULD,
    needs=TOKENIZE,
    ref="N01",
    catches=("prompts-normalized",),
)
def test_round_trip_any(vllm: Client, name: str) -> None:
    """Any text SHOULD come back from its tokens as it was."""
    assert vllm.detokenize(_ids(vllm, NAMES[name])) == NAMES[name]


@pytest.mark.parametrize("tail", ["  ", "\n", " \n\n"])
@check(
    "tokenization.round-trip.keeps-the-end",
    needs=TOKENIZE,
    ref="N01",
    catches=("detokenize-strips",),
)
def test_keeps_end(vllm: Client, tail: str) -> None:
    """White space at the end that has tokens MUST come back."""
    without, with_tail = _ids(vllm, PLAIN), _ids(vllm, PLAIN + tail)
    if with_tail == without:
        not_applicable("the tokenizer drops white space at the end")
    assert vllm.detokenize(with_tail) != vllm.detokenize(without)


@check("tokenization.ids.are-stable", needs=TOKENIZE, ref="N01")
def test_stable(vllm: Client) -> None:
    """The same text MUST always give the same tokens, and a text of two sentences other ones."""
    assert _ids(vllm, PLAIN) == _ids(vllm, PLAIN)
    assert _ids(vllm, PLAIN) != _ids(vllm, f"{PLAIN}. It barks.")


@check(
    "tokenization.prompt.same-ids",
    needs=TOKENIZE,
    ref="N02 N03",
    catches=("tokenize-ids-shifted",),
)
def test_prompt_ids(vllm: Client) -> None:
    """A prompt MUST reach the model as the tokens that `/tokenize` makes of it."""
    vllm.require_field("return_token_ids")
    for text in (PLAIN, *NAMES.values()):
        choice = vllm.complete(text, max_tokens=1, return_token_ids=True).json["choices"][0]
        assert choice["prompt_token_ids"] == vllm.tokenize(text), text


@check("tokenization.special-tokens.optional", needs=TOKENIZE, ref="N01")
def test_special_tokens(vllm: Client) -> None:
    """`add_special_tokens` MUST only add tokens around those of the text."""
    bare, dressed = _ids(vllm, PLAIN), vllm.tokenize(PLAIN)
    starts = range(len(dressed) - len(bare) + 1)
    assert any(dressed[start : start + len(bare)] == bare for start in starts)
    assert len(dressed) <= len(bare) + 4


@check(
    "tokenization.token-strings.one-each",
    needs=TOKENIZE,
    ref="N05",
    catches=("token-strings-short",),
)
def test_token_strings(vllm: Client) -> None:
    """`return_token_strs` MUST give one text for each token."""
    vllm.require_field("return_token_strs", request="TokenizeCompletionRequest")
    body = {"model": vllm.model, "prompt": PLAIN, "return_token_strs": True}
    document = vllm.send("POST", "/tokenize", body=body).json
    assert len(document["token_strs"]) == len(document["tokens"])


@check("tokenization.messages.round-trip", needs=CHAT, ref="N04")
def test_messages_text(vllm: Client) -> None:
    """The rendered messages MUST contain what the user says."""
    assert TURN["content"] in vllm.detokenize(vllm.tokenize([TURN]))


@check(
    "tokenization.messages.have-a-frame",
    level=SHOULD,
    needs=CHAT,
    ref="N04",
    catches=("tokenize-template-missing",),
)
def test_messages_frame(vllm: Client) -> None:
    """The rendered messages SHOULD have more tokens than their text: the chat template's."""
    assert len(vllm.tokenize([TURN])) > len(vllm.tokenize(TURN["content"]))


@check("tokenization.messages.one-beginning", needs=CHAT, ref="N04", catches=("bos-doubled",))
def test_one_beginning(vllm: Client) -> None:
    """The rendered messages MUST NOT begin with the same token twice, as with two BOS."""
    vllm.require_field("return_token_ids", request="ChatCompletionRequest")
    rendered = vllm.tokenize([TURN])
    used = vllm.chat([TURN], max_tokens=1, return_token_ids=True).json["prompt_token_ids"]
    for ids in (rendered, used):
        assert ids[0] != ids[1], f"saw the tokens {ids[:4]}…"


@check(
    "tokenization.messages.generation-prompt",
    level=SHOULD,
    needs=CHAT,
    ref="N04",
)
def test_generation_prompt(vllm: Client) -> None:
    """The generation prompt SHOULD only be added at the end of the rendered messages."""
    without = vllm.tokenize([TURN], add_generation_prompt=False)
    assert vllm.tokenize([TURN])[: len(without)] == without


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
@check("tokenization.model.unknown", needs=TOKENIZE, ref="N06", catches=("tokenize-any-model",))
def test_unknown_model(vllm: Client, path: str) -> None:
    """A request for a model that is not served MUST be refused with 404."""
    body = {"model": "no-such-model", "prompt": "Hello", "tokens": [1]}
    vllm.refuse(path, body=body, statuses=(404,))


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
@check(
    "tokenization.input.missing",
    needs=TOKENIZE,
    ref="N06",
    catches=("refusal-200", "refusal-500"),
)
def test_missing(vllm: Client, path: str) -> None:
    """A request with nothing to turn into tokens or text MUST be refused."""
    vllm.refuse(path, body={"model": vllm.model}, statuses=INVALID)


@check("tokenization.method.wrong", needs=TOKENIZE, ref="N06", catches=("wrong-method-500",))
def test_method(vllm: Client) -> None:
    """`GET /tokenize` MUST be refused with 405."""
    assert vllm.get("/tokenize").status == 405


@pytest.mark.parametrize("token", [-1, 2**31 - 1], ids=["negative", "beyond"])
@check("tokenization.ids.out-of-range", level=INFO, needs=TOKENIZE, ref="N07")
def test_out_of_range(vllm: Client, token: int) -> None:
    """What `/detokenize` makes of a token that does not exist is noted."""
    reply = vllm.send("POST", "/detokenize", body={"model": vllm.model, "tokens": [token]})
    vllm.observe(f"tokenization.detokenize.{token}", f"{reply.status}: {reply.text}")


@check("tokenization.vocabulary.size", level=INFO, ref="N08")
def test_vocabulary(vllm: Client) -> None:
    """What a prompt with a token beyond the vocabulary is told is noted: mostly its size."""
    body: dict[str, Any] = {"model": vllm.model, "prompt": [2**31 - 1], "max_tokens": 1}
    reply = vllm.send("POST", "/v1/completions", body=body)
    vllm.observe("tokenization.vocabulary.size", f"{reply.status}: {reply.text}")


def _ids(vllm: Client, text: str) -> list[int]:
    """Return the tokens of a text alone, without those that mark its beginning or end."""
    return vllm.tokenize(text, add_special_tokens=False)
