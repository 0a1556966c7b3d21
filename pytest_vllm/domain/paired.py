"""Statistics of a few pairs of runs: what changed, how surely, and what could have been seen.

All of it holds for differences of any shape of noise, and exactly for as few as six pairs; a
bootstrap gives 12 to 20 % false alarms on three to five (measured, see docs/regression-gate.md).
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations_with_replacement
from statistics import median, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAD_TO_SD = 1.4826
"""Standard deviation of a normal sample in units of its median absolute deviation."""
_POWER = 2.8
"""Effect in standard errors that is found in 80 % of cases at 5 % two-sided: 1.96 + 0.84."""


def hodges_lehmann(differences: Sequence[float]) -> float:
    """Return the median of all Walsh averages (Hodges and Lehmann, Ann. Math. Stat. 34, 1963).

    Raises:
        ValueError: There is no difference.
    """
    return median(walsh_averages(differences))


def walsh_averages(differences: Sequence[float]) -> list[float]:
    """Return the means of all pairs of differences, each with itself too, in order."""
    if not differences:
        raise ValueError("no differences")
    return sorted((a + b) / 2 for a, b in combinations_with_replacement(differences, 2))


def signed_rank_p(differences: Sequence[float]) -> float:
    """Return the exact one-sided p-value of Wilcoxon's signed-rank test, for differences above 0.

    The null distribution is that of the ranks at hand: equal sizes share their mean rank, zeros
    are ranked and then have no sign (J. W. Pratt, JASA 54, 1959). So it is exact with both.
    """
    twice = _twice_ranks(differences)
    signed = tuple(rank for rank, d in zip(twice, differences, strict=True) if d)
    seen = sum(rank for rank, d in zip(twice, differences, strict=True) if d > 0)
    counts = _subset_sums(tuple(sorted(signed)))
    return float(sum(counts[seen:]) / 2 ** len(signed))


def bounds(differences: Sequence[float], *, alpha: float) -> tuple[float, float]:
    """Return a lower and an upper bound of the shift, each of confidence 1 - `alpha` or more.

    They are order statistics of the Walsh averages (Hollander and Wolfe, section 3.3): the test
    above turned round. Too few differences for this confidence have no bound: infinities.
    """
    averages = walsh_averages(differences)
    outside = critical_value(len(differences), alpha=alpha)
    if outside < 0:
        return -math.inf, math.inf
    return averages[outside], averages[len(averages) - 1 - outside]


def critical_value(pairs: int, *, alpha: float) -> int:
    """Return the largest rank sum whose one-sided probability is at most `alpha`, -1 for none."""
    counts = _subset_sums(tuple(range(1, pairs + 1)))
    tail, value = 0, -1
    for count in counts:
        tail += count
        if tail > alpha * 2**pairs:
            break
        value += 1
    return value


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are (S. Holm, Scand. J. Stat. 6, 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def spread(differences: Sequence[float], *, outliers: bool = False) -> float:
    """Return the standard deviation by the median absolute deviation: an outlier hardly counts.

    When more than half of the differences are the same that would be nothing; then it is the
    ordinary standard deviation, so that no noise is ever taken for none.

    Args:
        differences: What spreads.
        outliers: Whether they count: the larger of the two deviations.
    """
    middle = median(differences)
    robust = _MAD_TO_SD * median(abs(d - middle) for d in differences)
    if len(differences) < _FEWEST or (robust and not outliers):
        return robust
    return max(robust, stdev(differences))


def detectable(sd: float, pairs: int) -> float:
    """Return the shift that so many pairs of this spread find in 80 % of cases (MDE80)."""
    return _POWER * sd / math.sqrt(pairs)


def pairs_to_tell(sd: float, shift: float) -> int:
    """Return how many pairs of this spread find such a shift in 80 % of cases."""
    return math.ceil((_POWER * sd / shift) ** 2)


_FEWEST = 2


def _twice_ranks(differences: Sequence[float]) -> list[int]:
    """Return twice the rank of each size: whole numbers also where sizes are equal."""
    sizes = sorted(abs(d) for d in differences)
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for place, size in enumerate(sizes, start=1):
        first.setdefault(size, place)
        last[size] = place
    return [first[abs(d)] + last[abs(d)] for d in differences]


@lru_cache(maxsize=512)
def _subset_sums(ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Return for each sum how many subsets of the ranks have it."""
    counts = [1] + [0] * sum(ranks)
    reach = 0
    for rank in ranks:
        reach += rank
        for total in range(reach, rank - 1, -1):
            counts[total] += counts[total - rank]
    return tuple(counts)
