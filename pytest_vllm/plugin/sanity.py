"""Whether the server's answers make sense at all: figures of a garbage model are worth nothing.

A speed-up of 4 % was once measured on a server that wrote garbage. Where the suite `content` runs,
its checks say; else this asks the three questions of it that take a second, none of which needs a
model that is any good: they hold for base models and for 135 million parameters.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pytest_vllm.adapters.content import prompts, threshold
from pytest_vllm.domain import content
from pytest_vllm.plugin.content import beginning, score, text_ids, write
from pytest_vllm.plugin.skips import NotApplicable

if TYPE_CHECKING:
    from pytest_vllm.plugin.client import Client

_TOKENS = 16


def content_refusal(vllm: Client) -> str:
    """Ask the server a few questions, and return what is wrong with its answers; empty if nothing.

    Args:
        vllm: The client of the check that wants figures.
    """
    try:
        return _written(vllm) or _scored(vllm)
    except AssertionError as error:
        return f"a question about its content failed: {error}"


def _written(vllm: Client) -> str:
    """Greedy continuations must be finite numbers, and not one token over and over."""
    asked = list(prompts().values())
    written = write(vllm, asked, tokens=_TOKENS)
    same = [prompt for prompt, one in zip(asked, written, strict=True) if content.is_constant(one)]
    return f"it writes one token over and over after {same[0]!r}" if same else ""


def _scored(vllm: Client) -> str:
    """English must be likelier than the same tokens shuffled (the check `content.english...`)."""
    if "tokenize" not in vllm.server.capabilities:
        return ""
    try:
        start, english = beginning(vllm), text_ids(vllm, "facts")
        shuffled = random.Random(f"{vllm.seed}:shuffle").sample(english, len(english))  # noqa: S311
        ordered, disordered = score(vllm, [start + english, start + shuffled])
    except NotApplicable:
        return ""  # the server scores no prompts, and says so
    gain = content.mean(ordered) - content.mean(disordered)
    if gain >= threshold("english-over-shuffled"):
        return ""
    return (
        f"English is not likelier to it than shuffled words: {content.mean(ordered):.2f} against "
        f"{content.mean(disordered):.2f} nats a token"
    )
