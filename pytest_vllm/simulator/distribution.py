"""The probabilities of the next token: a few that stand out, over a background of all."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Background:
    """Probabilities that tokens have everywhere, prepared for sampling at any temperature.

    Args:
        probabilities: One for each token, all above 0, adding up to 1, no two alike.
    """

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.probabilities = tuple(probabilities)
        self.order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
        self.places = [0] * len(self.order)
        for place, token in enumerate(self.order):
            self.places[token] = place
        self._negated = [-probabilities[token] for token in self.order]
        self._powers: dict[float, tuple[list[float], list[float]]] = {}

    def above(self, probability: float) -> int:
        """Return how many tokens are more probable."""
        return bisect_left(self._negated, -probability)

    def powers(self, exponent: float) -> tuple[list[float], list[float]]:
        """Return each probability to the power of `exponent`, and their running sums."""
        found = self._powers.get(exponent)
        if found is None:
            values = [value**exponent for value in self.probabilities]
            found = (values, list(accumulate(values)))
            if len(self._powers) < 64:  # noqa: PLR2004 - temperatures in use, each 64 kB
                self._powers[exponent] = found
        return found


class Distribution:
    """Probabilities of all tokens, which add up to 1.

    Args:
        background: Probabilities shared by all contexts.
        weight: Factor of the background for the tokens that are not explicit.
        explicit: Whole probability of each token that the context speaks about.
    """

    __slots__ = ("background", "explicit", "weight")

    def __init__(
        self, background: Background, weight: float, explicit: Mapping[int, float]
    ) -> None:
        self.background = background
        self.weight = weight
        self.explicit = explicit

    def probability(self, token: int) -> float:
        """Return the probability of a token."""
        found = self.explicit.get(token)
        if found is None:
            return self.weight * self.background.probabilities[token]
        return found

    def logprob(self, token: int) -> float:
        """Return the natural logarithm of the probability of a token."""
        return math.log(self.probability(token))

    def rank(self, token: int) -> int:
        """Return the place of a token among all, 1 for the most probable."""
        places = self.background.places
        probability = self.explicit.get(token)
        if probability is None:
            probability, above = self.probability(token), places[token]
        else:
            above = self.background.above(probability / self.weight)
        rank = above + 1
        for other, value in self.explicit.items():
            rank += (value > probability) - (places[other] < above)
        return max(1, rank)

    def best(self) -> int:
        """Return the most probable token."""
        for token in self.background.order:
            if token not in self.explicit:
                other = token
                break
        if not self.explicit:
            return other
        first = max(self.explicit, key=self.explicit.__getitem__)
        if self.explicit[first] >= self.weight * self.background.probabilities[other]:
            return first
        return other

    def top(self, count: int) -> list[int]:
        """Return the most probable tokens, best first."""
        if count <= 0:
            return []
        candidates = heapq.nlargest(
            count, ((value, -token) for token, value in self.explicit.items())
        )
        left = count
        for token in self.background.order:
            if token not in self.explicit:
                value = self.weight * self.background.probabilities[token]
                candidates.append((value, -token))
                left -= 1
                if not left:
                    break
        return [-token for _, token in heapq.nlargest(count, candidates)]

    def descending(self) -> Iterator[tuple[int, float]]:
        """Yield all tokens with their probabilities, best first."""
        explicit = sorted(self.explicit.items(), key=lambda item: -item[1])
        weight, probabilities = self.weight, self.background.probabilities
        rest = (
            (token, weight * probabilities[token])
            for token in self.background.order
            if token not in self.explicit
        )
        return heapq.merge(explicit, rest, key=lambda item: -item[1])
