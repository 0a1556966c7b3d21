"""Percentiles by nearest rank, with what a sample of that size can say of them."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.measurement import Distribution, Percentile

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    Ordered = Sequence[float] | Mapping[int, float]

PERMILLES = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999}
"""The percentiles that are told, in thousandths: ranks are exact integers."""

CONFIDENCE = 0.99
"""How sure MLPerf's early stopping is."""
INTERVAL = 0.95
"""Coverage of the interval of a percentile."""

_THOUSAND = 1000
_NS_PER_MS = 1e6
_SORTED_AT_ONCE = 100_000
_CURVE = 101
_BINS = 2**16


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


def percentile(ordered: Ordered, permille: int, *, count: int, requests: int) -> Percentile:
    """Read a percentile, in the unit of the values.

    What makes a sample large is requests, also where each of them gave many values: the gaps of one
    request go together. So the ranks of the interval are those of as many values as requests, laid
    over the pooled values by share, outwards.

    Args:
        ordered: The values, ascending, by place from 0.
        permille: Which one, in thousandths.
        count: How many values there are.
        requests: Requests that the values come from.
    """
    needs = needed(permille)
    if requests < needs or not count:
        return Percentile(value=None, needs=needs)
    low, middle, high = _places(permille, count, requests)
    return Percentile(
        value=ordered[middle],
        low=None if low is None else ordered[low],
        high=None if high is None else ordered[high],
        needs=needs,
    )


def distribute(
    values: Sequence[float], *, requests: int, failed: int = 0, curve: bool = False
) -> Distribution:
    """Sum up values in nanoseconds as a distribution in milliseconds.

    Args:
        values: The values, in any order.
        requests: Requests that they come from.
        failed: Requests that failed: in the adjusted percentiles each has as many infinite values
            as a request that did not has values in the mean.
        curve: Whether values for a plot are wanted.
    """
    if not values:
        floors = {name: Percentile(value=None, needs=needed(p)) for name, p in PERMILLES.items()}
        return Distribution(count=0, requests=requests, percentiles=floors)
    count = len(values)
    infinite = math.ceil(failed * count / requests) if requests else failed
    adjusted = {name: rank(p, count + infinite) - 1 for name, p in PERMILLES.items()}
    wanted = {place for p in PERMILLES.values() for place in _places(p, count, requests)}
    wanted |= {place for place in adjusted.values() if place < count}
    along = curve_places(count) if curve else ()
    ordered = order(values, {place for place in wanted if place is not None}.union(along))
    return Distribution(
        count=count,
        requests=requests,
        mean=math.fsum(values) / count / _NS_PER_MS,
        least=min(values) / _NS_PER_MS,
        most=max(values) / _NS_PER_MS,
        percentiles={
            name: _in_ms(percentile(ordered, permille, count=count, requests=requests))
            for name, permille in PERMILLES.items()
        },
        adjusted={
            name: ordered[place] / _NS_PER_MS if place < count else None
            for name, place in adjusted.items()
            if requests + failed >= needed(PERMILLES[name])
        },
        curve=tuple(float(f"{ordered[place] / _NS_PER_MS:.4g}") for place in along),
    )


def curve_places(count: int) -> tuple[int, ...]:
    """Return the places of the values of `Distribution.curve` among so many, ascending from 0."""
    points = min(count, _CURVE)
    if points < 2:  # noqa: PLR2004 - one value has no steps
        return tuple(range(count))
    return tuple(number * (count - 1) // (points - 1) for number in range(points))


def order(values: Sequence[float], places: Collection[int]) -> Ordered:
    """Return the values at some places of the ascending order, exactly.

    Many values are not sorted: they are counted by bins, and only the bins that hold a wanted place
    are: a quarter of the memory, and less time.

    Args:
        values: The values, in any order.
        places: Places from 0.
    """
    if len(values) <= _SORTED_AT_ONCE:
        return sorted(values)
    least, most = min(values), max(values)
    width = max(int((most - least) / _BINS), 1)
    counts = Counter((value - least) // width for value in values)
    held: dict[float, list[int]] = {}
    below, wanted = 0, sorted(places)
    begins: dict[float, int] = {}
    for bin_, count in sorted(counts.items()):
        here = [place for place in wanted if below <= place < below + count]
        if here:
            held[bin_], begins[bin_] = here, below
        below += count
    inside: dict[float, list[float]] = {bin_: [] for bin_ in held}
    for value in values:
        kept = inside.get((value - least) // width)
        if kept is not None:
            kept.append(value)
    found = {}
    for bin_, here in held.items():
        ranked = sorted(inside[bin_])
        found.update({place: ranked[place - begins[bin_]] for place in here})
    return found


def _places(permille: int, count: int, requests: int) -> tuple[int | None, int, int | None]:
    """Return the places of the lower end, of a percentile and of the upper end, from 0."""
    low, high = interval_ranks(permille, requests)
    return (
        None if low is None else (low - 1) * count // requests,
        rank(permille, count) - 1,
        None if high is None else -(-high * count // requests) - 1,
    )


def _in_ms(told: Percentile) -> Percentile:
    def scale(value: float | None) -> float | None:
        return None if value is None else value / _NS_PER_MS

    return Percentile(
        value=scale(told.value), low=scale(told.low), high=scale(told.high), needs=told.needs
    )
