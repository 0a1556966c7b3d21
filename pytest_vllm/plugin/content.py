"""Ask a server for the log probabilities that the content checks and goldens are made of."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.content import texts, words
from pytest_vllm.domain.content import read_prompt, read_written
from pytest_vllm.plugin.skips import not_applicable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from pytest_vllm.domain.content import Scored
    from pytest_vllm.plugin.client import Client

    class Tokenize(Protocol):
        """Makes token IDs of a text, with or without special tokens."""

        def __call__(self, text: str, *, special: bool) -> list[int]:
            """Return the token IDs."""


GREEDY: dict[str, Any] = {
    "temperature": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
}
"""Greedy, without the penalties of the model's generation_config, and no end before the bound."""

_BAD_REQUEST = 400
_LEAST_BYTES = 2**20
_BYTES_PER_SCORE = 250
"""Room for one log probability in a reply; measured are 65 to 90 bytes."""


def score(vllm: Client, prompts: Sequence[list[int]], *, top: int = 0) -> list[tuple[Scored, ...]]:
    """Return how probable the tokens of some prompts are, all in one request.

    Args:
        vllm: The client of the check.
        prompts: Token IDs.
        top: Alternatives to ask for at each place.
    """
    max_bytes = _LEAST_BYTES + _BYTES_PER_SCORE * (top + 1) * sum(map(len, prompts))
    asked = {"prompt_logprobs": top, "max_tokens": 1, "temperature": 0}
    try:
        reply = vllm.complete(list(prompts), max_bytes=max_bytes, **asked)
    except AssertionError:
        _stand_back_from_old_servers(vllm)
        raise
    choices = sorted(reply.json["choices"], key=lambda choice: choice["index"])
    assert len(choices) == len(prompts), (  # noqa: S101 - judged as in a check
        f"required {len(prompts)} choices, saw {len(choices)}"
    )
    return [read_prompt(choice, ids) for choice, ids in zip(choices, prompts, strict=True)]


def write(
    vllm: Client, prompts: Sequence[Any], *, tokens: int, top: int = 5, **params: Any
) -> list[tuple[Scored, ...]]:
    """Return the greedy continuations of some prompts, all in one request.

    Args:
        vllm: The client of the check.
        prompts: Texts, or token IDs of each prompt.
        tokens: Tokens to generate for each.
        top: Alternatives to ask for at each place.
        params: Further fields of the request.
    """
    reply = vllm.complete(
        list(prompts),
        max_tokens=tokens,
        logprobs=top,
        return_tokens_as_token_ids=True,
        **{**GREEDY, **params},
    )
    choices = sorted(reply.json["choices"], key=lambda choice: choice["index"])
    assert len(choices) == len(prompts), (  # noqa: S101 - judged as in a check
        f"required {len(prompts)} choices, saw {len(choices)}"
    )
    written = [read_written(choice) for choice in choices]
    lengths = [len(one) for one in written]
    assert set(lengths) == {tokens}, f"required {tokens} tokens each, saw {lengths}"  # noqa: S101
    return written


def beginning(vllm: Client) -> list[int]:
    """Return what the tokenizer puts before every text (BOS), usually one token or none.

    Some models read nothing well that does not begin with it.
    """
    return beginning_of(_tokenizer(vllm))


def beginning_of(tokenize: Tokenize) -> list[int]:
    """Do what `beginning` does with any tokenizer."""
    whole, bare = tokenize("Water", special=True), tokenize("Water", special=False)
    return whole[: -len(bare)] if whole[-len(bare) :] == bare else []


def text_ids(vllm: Client, name: str) -> list[int]:
    """Return a reference text as token IDs, without special tokens."""
    return vllm.tokenize(texts()[name], add_special_tokens=False)


def word_row(vllm: Client, count: int, number: int) -> list[int]:
    """Return token IDs of ordinary words in a random order that is always the same, each once.

    They come from words and not from the whole vocabulary: that holds tokens which no model was
    ever trained on. The seed of the run has no part in it: thresholds were measured on these rows.

    Args:
        vllm: The client of the check.
        count: How many.
        number: Which row.
    """
    return word_row_of(_tokenizer(vllm), count, number)


def word_row_of(tokenize: Tokenize, count: int, number: int) -> list[int]:
    """Do what `word_row` does with any tokenizer."""
    ids = list(dict.fromkeys(tokenize(" ".join(words()), special=False)))
    if len(ids) < count:
        not_applicable(f"the tokenizer makes only {len(ids)} tokens of {len(words())} words")
    return random.Random(f"copy {number}").sample(ids, count)  # noqa: S311 - repeatable, not secret


def periodic(vllm: Client, length: int, name: str) -> list[int]:
    """Return so many tokens of a reference text that begins again at its end."""
    paragraph = text_ids(vllm, name)
    return (paragraph * (length // len(paragraph) + 1))[:length]


def room(vllm: Client, tokens: int) -> int:
    """Return the context length, or end the check where it does not hold so many tokens."""
    limit = vllm.max_model_len or 0
    if limit < tokens:
        not_applicable(f"needs a context of {tokens} tokens, the server has {limit or 'none told'}")
    return limit


def _tokenizer(vllm: Client) -> Tokenize:
    def tokenize(text: str, *, special: bool) -> list[int]:
        return vllm.tokenize(text, add_special_tokens=special)

    return tokenize


def _stand_back_from_old_servers(vllm: Client) -> None:
    """End the check where the server says in so many words that it scores no prompts.

    The first V1 engines refused it next to prefix caching, and some parallel modes still do.
    """
    last = vllm.exchanges[-1]
    refused = last.status == _BAD_REQUEST and "prompt" in last.response_body
    if refused and any(w in last.response_body for w in ("prompt_logprobs", "prompt logprobs")):
        not_applicable(f"the server scores no prompts: {last.response_body[:200]}")
