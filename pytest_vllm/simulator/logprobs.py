"""Log probabilities of one token as the endpoints tell them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vllm.simulator.detokenize import TokenText
    from pytest_vllm.simulator.distribution import Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One token that stood or might have stood at a place.

    Attributes:
        token: The token.
        logprob: Its log probability.
        rank: Its place among all tokens, 1 for the best.
        text: What it shows at this place.
    """

    token: int
    logprob: float
    rank: int
    text: str


TokenLogprobs = tuple[Entry, ...]
"""The token that stands there, then the best ones without it, best first."""


def token_logprobs(raw: Distribution, token: int, count: int, shown: TokenText) -> TokenLogprobs:
    """Return the log probability of a token and of the best alternatives.

    Args:
        raw: Probabilities at the place of the token.
        token: The token that stands there.
        count: How many of the best tokens are told beside it.
        shown: Text of tokens at this place.
    """
    top = raw.top(count)
    rank = top.index(token) + 1 if token in top else raw.rank(token)
    own = Entry(token=token, logprob=raw.logprob(token), rank=rank, text=shown.of(token))
    others = (
        Entry(token=other, logprob=raw.logprob(other), rank=place, text=shown.of(other))
        for place, other in enumerate(top, start=1)
        if other != token
    )
    return (own, *others)
