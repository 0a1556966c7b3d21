"""Noise as hosts make it: what the figures of whole runs do from one run to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

METRICS = {"output_tokens_per_s": -1.0, "tpot_p50_ms": 1.0, "ttft_p50_ms": 1.0}
"""Metrics with the sign in which a slower run moves their logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A model of noise; all standard deviations are of the logarithm.

    Attributes:
        run: White noise of each run, shared by its metrics.
        own: White noise of each metric by itself (TTFT has twice as much).
        drift: Standard deviation of a drift over the runs, an AR(1).
        memory: Lag-1 correlation of that drift.
        outliers: Share of runs that something else on the host slows down.
        outlier: By how much, in the mean (exponential).
        between: Noise between two days or two starts, shared by all runs of each: it is what
            a stored baseline suffers from, and pairs in turns do not.
    """

    run: float
    drift: float
    own: float = 0.0
    memory: float = 0.95
    outliers: float = 0.03
    outlier: float = 0.10
    between: float = 0.0


def series(noise: Noise, chance: random.Random) -> Iterator[dict[str, float]]:
    """Yield runs one after the other, for ever: the logarithmic slowdown of each metric."""
    day = chance.gauss(0, noise.between)
    drift = chance.gauss(0, noise.drift)
    step = noise.drift * math.sqrt(1 - noise.memory**2)
    while True:
        drift = noise.memory * drift + chance.gauss(0, step)
        slow = day + drift + chance.gauss(0, noise.run)
        if chance.random() < noise.outliers:
            slow += chance.expovariate(1 / noise.outlier)
        own = {name: chance.gauss(0, noise.own) for name in METRICS}
        own["ttft_p50_ms"] *= 2
        yield {name: slow + own[name] for name in METRICS}


def figures(slow: dict[str, float], factor: float) -> dict[str, float]:
    """Return the figures of a run whose server is slower by a factor."""
    return {
        name: 100 * math.exp(METRICS[name] * (shift + math.log(factor)))
        for name, shift in slow.items()
    }
