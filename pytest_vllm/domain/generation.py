"""What a model wrote, read the same way from a reply and from a stream, of either endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TIE_NATS = 0.5
"""Tokens whose log probabilities are closer than this may swap places between two runs.

Kernels sum in another order for another batch: measured up to 0.105 nats on CPU in bf16, where the
two best tokens of a 135M model often tie exactly.
"""

_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token and what else might have stood there.

    Attributes:
        text: The token as text.
        logprob: Its log probability, `None` for the first token of an echoed prompt.
        top: The most probable tokens and their log probabilities.
    """

    text: str
    logprob: float | None
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One choice of a reply.

    Attributes:
        text: What was written.
        reasoning: What was thought aloud before, if the server tells it apart.
        finish_reason: Why it ended, `None` when that was not said.
        tokens: The tokens, empty when no log probabilities were asked for.
    """

    text: str
    reasoning: str = ""
    finish_reason: str | None = None
    tokens: tuple[Token, ...] = ()


def read_generation(body: Mapping[str, Any], index: int = 0) -> Generation:
    """Read the choice with an index out of a completion or a chat completion.

    Raises:
        AssertionError: There is no such choice.
    """
    choices = [choice for choice in body["choices"] if choice["index"] == index]
    if len(choices) != 1:
        seen = [choice["index"] for choice in body["choices"]]
        raise AssertionError(f"required one choice with index {index}, saw the indexes {seen}")
    return _join(choices)


def read_streamed(chunks: Iterable[Mapping[str, Any]], index: int = 0) -> Generation:
    """Put the choice with an index together again from the chunks of a stream."""
    return _join(
        [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    )


def difference(left: Generation, right: Generation) -> str:
    """Say where two greedy generations of one prompt differ; empty when they do not.

    A difference that begins with a near tie is none: there both servers chose well. That can only
    be told when both generations carry log probabilities with alternatives.
    """
    same_text = (left.text, left.reasoning) == (right.text, right.reasoning)
    if same_text and left.finish_reason == right.finish_reason:
        return ""
    for one, other in zip(left.tokens, right.tokens, strict=False):
        if one.text != other.text:
            if _ties(one, other):
                return ""
            break
    if same_text:
        return f"finish_reason {left.finish_reason!r} became {right.finish_reason!r}"
    return f"{_shown(left)} became {_shown(right)}"


def _join(choices: list[Mapping[str, Any]]) -> Generation:
    parts = [choice.get("message", choice.get("delta", choice)) for choice in choices]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    return Generation(
        text="".join(part.get("text") or part.get("content") or "" for part in parts),
        reasoning="".join(
            part.get("reasoning") or part.get("reasoning_content") or "" for part in parts
        ),
        finish_reason=reasons[-1] if reasons else None,
        tokens=tuple(token for choice in choices for token in _tokens(choice.get("logprobs"))),
    )


def _tokens(logprobs: Mapping[str, Any] | None) -> list[Token]:
    if not logprobs:
        return []
    if "tokens" not in logprobs:
        return [_chat_token(entry) for entry in logprobs.get("content") or ()]
    tops = logprobs["top_logprobs"] or [None] * len(logprobs["tokens"])
    columns = zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=False)
    return [Token(text=text, logprob=number, top=top or {}) for text, number, top in columns]


def _chat_token(entry: Mapping[str, Any]) -> Token:
    top = {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
    return Token(text=entry["token"], logprob=entry["logprob"], top=top)


def _ties(one: Token, other: Token) -> bool:
    """Tell whether each run saw both tokens about equally probable."""
    gaps = [
        abs(run.top[one.text] - run.top[other.text])
        for run in (one, other)
        if one.text in run.top and other.text in run.top
    ]
    return len(gaps) == 2 and max(gaps) <= TIE_NATS  # noqa: PLR2004 - both runs


def _shown(generation: Generation) -> str:
    text = generation.reasoning + generation.text
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
