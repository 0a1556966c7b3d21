"""Percentiles by nearest rank, with what a sample of that size can say of them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.measurement import Distribution, Percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

PERMILLES = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999}
"""The percentiles that are told, in thousandths: ranks are exact integers."""

CONFIDENCE = 0.99
"""How sure MLPerf's early stopping is."""
INTERVAL = 0.95
"""Coverage of the interval of a percentile."""

_THOUSAND = 1000
_NS_PER_MS = 1e6


def rank(permille: int, count: int) -> int:
    """Return the nearest rank of a percentile among so many values, from 1."""
    return max(1, -(-permille * count // _THOUSAND))


@lru_cache(maxsize=32)
def needed(permille: int) -> int:
    """Count the requests that a percentile needs.

    MLPerf's early stopping takes as the estimate the value above all but the so many slowest that
    it leaves aside, and at least one must be left aside. So it is the least n for which at most one
    of n requests is slower than the percentile with a probability of at most 1 - 0.99:
    `P(Binomial(n, 1 - p) <= 1) <= 0.01` (MLPerf inference policies, early stopping; as in
    mlcommons/endpoints, docs/early_stopping.md): 11, 64, 130, 662 and 6636.
    """
    inside = permille / _THOUSAND

    def enough(count: int) -> bool:
        none = inside**count
        one = count * (1 - inside) * inside ** (count - 1)
        return none + one <= 1 - CONFIDENCE + 1e-15

    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=4096)
def interval_ranks(permille: int, count: int) -> tuple[int | None, int | None]:
    """Return the ranks whose values hold a percentile between them with at least 95 %.

    Whatever the distribution is, the number of values below its percentile p is
    Binomial(count, p); each side keeps 2.5 % (David and Nagaraja, Order Statistics, 7.1).

    Returns:
        The lower and the upper rank, from 1; `None` where the sample has none.
    """
    tail = (1 - INTERVAL) / 2
    p = permille / _THOUSAND
    start = max(0, math.floor(count * p - 10 * math.sqrt(count * p * (1 - p))) - 40)
    log_p, log_q = math.log(p), math.log1p(-p)
    below = 0.0  # P(Binomial < k)
    low = high = None
    for k in range(start, count + 1):
        choices = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        if k >= 1 and below <= tail:
            low = k
        below += math.exp(choices + k * log_p + (count - k) * log_q)
        if below >= 1 - tail:
            high = k + 1 if k + 1 <= count else None
            break
    return low, high


def percentile(ordered: Sequence[float], permille: int, *, requests: int) -> Percentile:
    """Read a percentile, in the unit of the values.

    What makes a sample large is requests, also where each of them gave many values: the gaps of one
    request go together. So the ranks of the interval are those of as many values as requests, laid
    over the pooled values by share, outwards.

    Args:
        ordered: The values, ascending.
        permille: Which one, in thousandths.
        requests: Requests that the values come from.
    """
    needs = needed(permille)
    count = len(ordered)
    if requests < needs or not count:
        return Percentile(value=None, needs=needs)
    low, high = interval_ranks(permille, requests)
    return Percentile(
        value=ordered[rank(permille, count) - 1],
        low=None if low is None else ordered[(low - 1) * count // requests],
        high=None if high is None else ordered[-(-high * count // requests) - 1],
        needs=needs,
    )


def distribute(values: Sequence[float], *, requests: int, failed: int = 0) -> Distribution:
    """Sum up values in nanoseconds as a distribution in milliseconds.

    Args:
        values: The values, in any order.
        requests: Requests that they come from.
        failed: Requests that failed: in the adjusted percentiles each has as many infinite values
            as a request that did not has values in the mean.
    """
    if not values:
        floors = {name: Percentile(value=None, needs=needed(p)) for name, p in PERMILLES.items()}
        return Distribution(count=0, requests=requests, percentiles=floors)
    ordered = sorted(values)
    count = len(ordered)
    infinite = math.ceil(failed * count / requests) if requests else failed
    return Distribution(
        count=count,
        requests=requests,
        mean=math.fsum(ordered) / count / _NS_PER_MS,
        least=ordered[0] / _NS_PER_MS,
        most=ordered[-1] / _NS_PER_MS,
        percentiles={
            name: _in_ms(percentile(ordered, permille, requests=requests))
            for name, permille in PERMILLES.items()
        },
        adjusted={
            name: _at(ordered, rank(permille, count + infinite))
            for name, permille in PERMILLES.items()
            if requests + failed >= needed(permille)
        },
    )


def _at(ordered: Sequence[float], position: int) -> float | None:
    return ordered[position - 1] / _NS_PER_MS if position <= len(ordered) else None


def _in_ms(told: Percentile) -> Percentile:
    def scale(value: float | None) -> float | None:
        return None if value is None else value / _NS_PER_MS

    return Percentile(
        value=scale(told.value), low=scale(told.low), high=scale(told.high), needs=told.needs
    )
