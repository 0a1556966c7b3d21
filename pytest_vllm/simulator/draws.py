"""Random numbers of requests that bring no seed."""

from __future__ import annotations

import random
from collections import Counter


class RandomDraws:
    """Gives each unseeded sequence its random numbers: fresh ones, or the same in every run.

    With a seed, they depend on what is asked and on how often it was asked before, not on what
    runs beside it: a test of many threads meets the same draws in each run.

    Args:
        seed: Where all of them come from; `None` for fresh ones.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._fresh = random.Random()  # noqa: S311 - sampling
        self._asked = Counter[int]()

    def of(self, *asked: object) -> random.Random:
        """Return the numbers for a sequence.

        Args:
            asked: What is asked for; equal requests have equal texts.
        """
        if self._seed is None:
            return self._fresh
        key = random.Random(repr(asked)).getrandbits(64)  # noqa: S311 - `hash` differs by process
        self._asked[key] += 1
        return random.Random(f"{self._seed}/{key}/{self._asked[key]}")  # noqa: S311 - sampling
