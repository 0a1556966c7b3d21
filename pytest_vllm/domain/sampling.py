"""Tell from log probabilities whether tokens were drawn as asked: exact bounds, no tables.

A reply with log probabilities says for each token what else might have been drawn and how probably,
so one reply of a few hundred tokens is a fair test of a sampler on any model, without a golden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_vllm.domain.generation import Token

NEUTRAL: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
}
"""Sampling from the bare distribution, whatever the model's generation_config would set."""

FALSE_ALARM = 1e-9
"""Bound of the probability that `Draws.excess` of a healthy sampler passes `Draws.limit`.

Freedman's inequality (D. A. Freedman, Annals of Probability 3, 1975) holds for a variance that is
fixed beforehand; ours is summed up on the way. A union over a grid of variances makes up for that
at the cost of a factor below 100, so a check alarms falsely in less than one of 10^7 runs.
"""

EDGE = 0.01
"""Probability by which a kernel's running sum may be off when it looks for the edge of `top_p`."""

_FLOOR = -5.0  # log probabilities below count as this, so that one rare token cannot decide
_TIE_NATS = 1e-3  # tokens this close to the edge may be in or out: kernels sort ties as they like
_ID = "token_id:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How drawn tokens compare with the distribution they should come from.

    Attributes:
        judged: Tokens that could be judged.
        strays: Names of tokens outside of what was allowed.
        excess: Sum over the tokens of log probability minus its expectation; above 0 a sampler
            prefers probable tokens too much (too cold), below 0 too little (too hot).
        limit: What a healthy sampler exceeds, in either direction, with at most `FALSE_ALARM`.
    """

    judged: int
    strays: tuple[str, ...]
    excess: float
    limit: float


def judge_draws(
    tokens: Iterable[Token],
    *,
    asked: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Draws:
    """Hold drawn tokens against their own log probabilities.

    Args:
        tokens: Tokens with alternatives, named so that no two share a name; the alternatives must
            be those before temperature, `top_k` and `top_p` unless temperature is 1.
        asked: How many alternatives were asked for; a drawn token beyond them comes on top.
        temperature: What was asked for; another than 1 needs `top_k`, to know all of the rest.
        top_k: How many tokens may be drawn, `None` for all.
        top_p: Probability of the tokens that may be drawn, 1 for all.
    """
    judged, strays, excess, variance = 0, [], 0.0, 0.0
    for token in tokens:
        allowed = allowed_names(token, asked=asked, top_k=top_k, top_p=top_p)
        if allowed is None:
            continue
        judged += 1
        whole = top_k is None and top_p >= 1.0
        weights = {name: math.exp(token.top[name] / temperature) for name in allowed}
        total = 1.0 if whole else sum(weights.values())
        if not whole and token.text not in allowed:
            strays.append(token.text)
            continue
        values = [
            (weight / total, max(math.log(weight / total), _FLOOR))
            for weight in weights.values()
            if weight > 0
        ]
        rest = max(0.0, 1.0 - sum(share for share, _ in values))
        values.append((rest, _FLOOR))  # all that is less probable than the alternatives
        mean = sum(share * value for share, value in values)
        share = weights.get(token.text, 0.0) / total
        excess += (max(math.log(share), _FLOOR) if share > 0 else _FLOOR) - mean
        variance += sum(share * (value - mean) ** 2 for share, value in values)
    return Draws(judged=judged, strays=tuple(strays), excess=excess, limit=_limit(variance))


def allowed_names(
    token: Token, *, asked: int, top_k: int | None = None, top_p: float = 1.0
) -> frozenset[str] | None:
    """Return the alternatives that may be drawn; `None` when their edge cannot be told.

    The edge cannot be told where it lies beyond the alternatives, where tokens tie at it, or where
    rounding decides on which side of `top_p` a token is.
    """
    # A drawn token beyond the best would make the set depend on the draw, so it is left out.
    ranked = sorted(token.top.items(), key=lambda item: -item[1])[:asked]
    count = len(ranked)
    if top_k is not None:
        if top_k >= count:
            return None
        count = top_k
    if top_p < 1.0:
        # vLLM applies top_k first and top_p to what is left.
        kept = [math.exp(value) for _, value in ranked[:count]]
        scale = sum(kept) if top_k is not None else 1.0
        sums = [part / scale for part in accumulate(kept)]
        inside = next((at for at, part in enumerate(sums) if part >= top_p), None)
        if inside is None or any(abs(part - top_p) < EDGE for part in sums):
            return None
        count = inside + 1
    if count < len(ranked) and ranked[count - 1][1] - ranked[count][1] < _TIE_NATS:
        return None
    return frozenset(name for name, _ in ranked[:count])


def lag_nats(token: Token) -> float:
    """Return how far a token is behind the best of its alternatives, 0 when it is the best."""
    if token.logprob is None or not token.top:
        raise AssertionError(f"required log probabilities of {token.text!r}, saw none")
    return max(0.0, max(token.top.values()) - token.logprob)


def token_id(name: str) -> int:
    """Read the ID out of a token's name, as `return_tokens_as_token_ids` writes it.

    Raises:
        AssertionError: The name is another.
    """
    number = name.removeprefix(_ID)
    if number == name or not number.isdecimal():
        raise AssertionError(f"required a token named {_ID}NUMBER, saw {name!r}")
    return int(number)


def _limit(variance: float) -> float:
    """Solve Freedman's bound, 2 exp(-t^2 / (2 V + 2 M t / 3)) = FALSE_ALARM, for t."""
    log = math.log(2.0 / FALSE_ALARM)
    reach = -_FLOOR * log / 3.0
    return reach + math.sqrt(reach**2 + 2.0 * log * variance)
