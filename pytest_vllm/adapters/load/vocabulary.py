"""Which tokens prompts are made of, learned from the server's own tokenizer in a few calls.

All comes out of ordinary English: its tokens are valid, none is special, and they can follow each
other in any order. Prompts of token IDs then have exactly as many tokens as were wanted, whatever
the tokenizer. Prompts of text are made of words that are one token each behind a blank.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.content import texts, words
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.reply import TransportFailure
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.adapters.http import Transport
    from pytest_vllm.adapters.load.connection import LoadServer

FEWEST = 32
"""Tokens that a vocabulary must have, so that prompts of a block of 16 are never alike."""
_MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
_MARKS = "Ġ▁ "
"""How vocabularies write the blank in front of a word."""
_REPLY_BYTES = 64 * 2**20
_SEEN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What prompts are made of.

    Attributes:
        ids: Tokens of ordinary text, each once, in order; empty when the server told none.
        words: Words that are one token each behind a blank; any word when no tokens were told.
        told_by: Who told: `/tokenize`, `return_token_ids`, or nobody (empty).
    """

    ids: tuple[int, ...]
    words: tuple[str, ...]
    told_by: str

    @property
    def digest(self) -> str:
        """Tell two tokenizers apart."""
        text = json.dumps([self.ids, self.words])
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def learn_vocabulary(server: LoadServer, transport: Transport) -> Vocabulary:
    """Ask the server for the tokens of ordinary English.

    Raises:
        HostError: The server does not answer.
        TargetError: It answers what no tokenizer says.
    """
    known = words()
    text = " " + " ".join([*known, *texts().values()])
    told = tokenize(
        server,
        transport,
        {"prompt": text, "add_special_tokens": False, "return_token_strs": True},
    )
    if told is not None:
        spelled = told.get("token_strs")
        alone = {str(piece).lstrip(_MARKS) for piece in spelled or () if str(piece)[:1] in _MARKS}
        usable = tuple(word for word in known if word in alone)
        return _vocabulary(told["tokens"], usable or known, "/tokenize")
    ids = _prompt_ids(server, transport, text)
    return _vocabulary(ids, known, "return_token_ids" if ids else "")


def _vocabulary(ids: Sequence[int], usable: tuple[str, ...], told_by: str) -> Vocabulary:
    distinct = tuple(sorted(set(ids)))
    if told_by and len(distinct) < FEWEST:
        raise TargetError(
            f"the server's tokenizer has {len(distinct)} tokens for {len(words())} English words: "
            "no two prompts of them would differ",
            advice="load it with prompts of a file",
        )
    return Vocabulary(ids=distinct, words=usable, told_by=told_by)


def tokenize(
    server: LoadServer, transport: Transport, body: dict[str, Any]
) -> dict[str, Any] | None:
    """Ask `/tokenize`.

    Returns:
        Its answer with `tokens` (whole numbers) and `count`; `None` where there is no such route.

    Raises:
        HostError: The server does not answer.
        TargetError: It refuses, or answers what no tokenizer says.
    """
    try:
        reply = transport.send(
            "POST", "/tokenize", json={"model": server.model, **body}, max_bytes=_REPLY_BYTES
        )
    except TransportFailure as failure:
        raise HostError(
            f"{server.url}/tokenize gives no answer: {failure}", advice="look at the server's log"
        ) from None
    if reply.status in _MISSING:
        return None
    try:
        found = reply.json if reply.status == HTTPStatus.OK else None
    except AssertionError:
        found = None
    found = found if isinstance(found, dict) else {}
    tokens = found.get("tokens")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise TargetError(
            f"{server.url}/tokenize does not tell tokens (status {reply.status}: "
            f"{one_line(reply.text, _SEEN)})",
            advice="see whether the workload suits the model: a base model has no chat",
        )
    return {**found, "count": len(tokens)}


def _prompt_ids(server: LoadServer, transport: Transport, text: str) -> tuple[int, ...]:
    """Return the tokens of a text as a completion tells them, none where it does not.

    `prompt_token_ids` came with `return_token_ids` in vLLM 0.10.2.
    """
    path = "/v1/completions"
    if not server.knows(path, "return_token_ids"):
        return ()
    body = {"model": server.model, "prompt": text, "max_tokens": 1, "return_token_ids": True}
    try:
        reply = transport.send("POST", path, json=body, max_bytes=_REPLY_BYTES)
        found = reply.json["choices"][0]["prompt_token_ids"]
    except (TransportFailure, AssertionError, LookupError, TypeError):
        return ()
    whole = isinstance(found, list) and all(type(token) is int for token in found)
    # The first may be the special token that completions begin with.
    return tuple(found[1:]) if whole else ()
