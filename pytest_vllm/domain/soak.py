"""Many requests of mixed lengths, and how fast memory grows under them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST_PROMPT = 384
_LONGEST_ANSWER = 32
_CONTEXT_SHARE = 4
_STREAMED = 0.25
_GIVEN_UP = 0.05
_MOST_POINTS = 120
_FEWEST_POINTS = 8
_Z = 2.576
"""Two-sided normal quantile of 99 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One request of a soak.

    Attributes:
        words: Words of the prompt; a word is a token or two.
        max_tokens: Tokens of the answer.
        streamed: Whether the answer is read as a stream.
        given_up: Whether the client hangs up after the first line of the stream.
    """

    words: int
    max_tokens: int
    streamed: bool = False
    given_up: bool = False


def mixed_lengths(count: int, *, seed: int, context: int | None) -> tuple[Piece, ...]:
    """Plan the requests of a soak: many short ones, few long ones, some streams, some given up.

    Lengths are spread evenly over orders of magnitude, as those of real traffic are more or less.

    Args:
        count: How many.
        seed: Same seed, same requests.
        context: Tokens that the server takes in one request, `None` when it does not say.
    """
    rng = random.Random(f"{seed}:soak")  # noqa: S311 - a load, no secret
    room = (context or 2048) // _CONTEXT_SHARE
    longest = max(1, min(_LONGEST_PROMPT, room // 2))
    answer = max(1, min(_LONGEST_ANSWER, room))
    pieces = []
    for _ in range(count):
        given_up = rng.random() < _GIVEN_UP
        piece = Piece(
            words=_spread(rng, longest),
            max_tokens=_spread(rng, answer),
            streamed=given_up or rng.random() < _STREAMED,
            given_up=given_up,
        )
        pieces.append(piece)
    return tuple(pieces)


def _spread(rng: random.Random, longest: int) -> int:
    return round(math.exp(rng.uniform(0.0, math.log(longest))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How fast memory grows, in bytes per 1,000 requests.

    Attributes:
        slope: Median of the slopes between any two looks (Theil and Sen).
        low: Lower end of its interval of 99 % (Sen 1968, by Kendall's variance).
        high: Upper end.
        rise: Bytes by which memory rose over what was looked at, by the slope.
        points: Looks that it rests on.
    """

    slope: float
    low: float
    high: float
    rise: float
    points: int


def growth(looks: Sequence[tuple[float, float]]) -> Growth | None:
    """Fit a line through looks at memory that no single outlier can bend.

    Args:
        looks: Requests answered so far, and bytes in use, in order of time.

    Returns:
        The growth, `None` when there are too few looks to tell one.
    """
    step = max(1, math.ceil(len(looks) / _MOST_POINTS))
    points = list(looks)[::step]
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0]) * 1000
        for earlier, later in combinations(points, 2)
        if later[0] > earlier[0]
    )
    count = len(points)
    if count < _FEWEST_POINTS or len(slopes) < _FEWEST_POINTS:
        return None
    spread = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    last = len(slopes) - 1
    low = slopes[max(0, math.floor((len(slopes) - spread) / 2))]
    high = slopes[min(last, math.ceil((len(slopes) + spread) / 2))]
    slope = median(slopes)
    rise = slope * (points[-1][0] - points[0][0]) / 1000
    return Growth(slope=slope, low=low, high=high, rise=rise, points=count)


def settled(
    looks: Sequence[tuple[float, float]], *, warm_up: float
) -> tuple[tuple[float, float], ...]:
    """Leave out the first part of a soak, in which caches and pools fill.

    Args:
        looks: Requests answered so far, and bytes in use.
        warm_up: Share of the requests that counts as the first part.
    """
    if not looks:
        return ()
    begin = looks[0][0] + warm_up * (looks[-1][0] - looks[0][0])
    return tuple(look for look in looks if look[0] >= begin)
