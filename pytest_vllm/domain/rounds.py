"""Several rounds of one load level: their requests together, their rates, where growth ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist, fmean, median_high, median_low, stdev
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.load.columns import Columns
from pytest_vllm.domain.plain import mapping, measured
from pytest_vllm.domain.students_t import t_quantile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.load.plan import LoadPlan

_SIDE = 0.025
_BY_REQUEST = (
    "due_ns",
    "send_ns",
    "header_ns",
    "end_ns",
    "status",
    "ending",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reply_bytes",
    "content_event",
    "events",
    "finish",
)
STOPS_GROWING = 0.95
"""A level is saturated from where its throughput has this share of the best level's: what is left
to gain is then as small as a gate's tolerance, and every further request only waits longer."""
FEWEST_FOR_A_TREND = 5
_EXACT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over rounds with its interval of 95 % (Student's t), whole rounds being the unit.

    Attributes:
        value: The mean.
        low: Lower end, `None` with fewer than two rounds; 0 at least, as every figure of a load is.
        high: Upper end.
        rounds: How many there are.
    """

    value: float
    low: float | None
    high: float | None
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """Where throughput stops growing in a sweep.

    Attributes:
        concurrency: Lowest level with 95 % of the best throughput.
        output_tokens_per_s: Its mean.
        reached: Whether a higher level was measured, so that it is known to be the end.
    """

    concurrency: int
    output_tokens_per_s: float
    reached: bool


def figures_in(rounds: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return a figure of each round that has it, out of rounds that may hold anything.

    Args:
        rounds: Those of a level in a record.
        name: The figure.
    """
    seen = (measured(mapping(one.get("figures")).get(name)) for one in rounds)
    return [value for value in seen if value is not None]


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of some rounds.

    Args:
        values: A figure of each round, at least one; none beyond `plain.LARGEST`.
    """
    count, middle = len(values), fmean(values)
    if count < 2:  # noqa: PLR2004 - one value has no spread
        return Mean(value=middle, low=None, high=None, rounds=count)
    half = t_quantile(_SIDE, count - 1) * stdev(values) / math.sqrt(count)
    return Mean(value=middle, low=max(0.0, middle - half), high=middle + half, rounds=count)


def find_saturation(throughput: Mapping[int, Sequence[float]]) -> Saturation | None:
    """Return where throughput stops growing, `None` with fewer than two levels.

    Args:
        throughput: Output tokens a second of each round, by level.
    """
    means = {level: fmean(values) for level, values in sorted(throughput.items()) if values}
    if len(means) < 2:  # noqa: PLR2004 - one level does not grow
        return None
    best = max(means.values())
    level = next(level for level, value in means.items() if value >= STOPS_GROWING * best)
    return Saturation(
        concurrency=level, output_tokens_per_s=means[level], reached=level < max(means)
    )


def still_slows_down(
    seconds: Sequence[float], again: Sequence[float], *, factor: float, chance: float
) -> bool:
    """Tell whether rounds that slowed down did so further when some more were sent.

    Args:
        seconds: What each round took at first.
        again: What each of the further rounds took, at least one.
        factor: As in `slows_down`; each further round is too long by it as well.
        chance: As in `slows_down`.
    """
    first = median_high(seconds[: _third(seconds)])
    return min(again) > factor * first and slows_down(
        [*seconds, *again], factor=factor, chance=chance
    )


def slows_down(seconds: Sequence[float], *, factor: float, chance: float) -> bool:
    """Tell whether rounds took longer and longer: a trend, and the last third of them too long.

    The trend is Kendall's of time and number, one-sided (Mann, Econometrica 13, 1945), and noise
    does not hide it. A host whose noise lasts over rounds has trends as well, but no last third
    that takes so much longer than the first; so both are needed. A third has two rounds at least.

    Args:
        seconds: What each round took, in their order.
        factor: How much longer than the first third the last third is too long, by the median.
        chance: The trend is one when rounds in any order have it less often than this.
    """
    third = _third(seconds)
    if len(seconds) < FEWEST_FOR_A_TREND:
        return False
    first, last = median_high(seconds[:third]), median_low(seconds[-third:])
    return last > factor * first and trend_by_chance(seconds) <= chance


def _third(seconds: Sequence[float]) -> int:
    return max(2, len(seconds) // 3)  # one slow round is no trend


def trend_by_chance(values: Sequence[float]) -> float:
    """Return how often values in any order rise at least as much as these do (Kendall's tau).

    Exact up to 32 values, by the numbers of permutations with so many pairs out of order (Kendall,
    Biometrika 30, 1938); by the normal distribution above.

    Args:
        values: In their order; a tie counts as out of order.
    """
    count = len(values)
    falling = sum(later <= earlier for earlier, later in combinations(values, 2))
    pairs = count * (count - 1) // 2
    if count > _EXACT:
        spread = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
        return NormalDist().cdf((2 * falling + 1 - pairs) / spread)
    share = [1.0]  # of the permutations of n values, those with k pairs out of order
    for size in range(2, count + 1):
        longer = [0.0] * (len(share) + size - 1)
        for place, value in enumerate(share):
            for further in range(size):
                longer[place + further] += value / size
        share = longer
    return math.fsum(share[: falling + 1])


def pool(parts: Sequence[tuple[LoadPlan, Columns]]) -> tuple[LoadPlan, Columns]:
    """Return the requests of several rounds as if they were one load, for percentiles.

    Its rates mean nothing: there is a pause between two rounds.

    Args:
        parts: Plan and columns of each round, at least one.
    """
    plans = [plan for plan, _ in parts]
    whole = Columns(begin_ns=parts[0][1].begin_ns, finish_ns=parts[-1][1].finish_ns)
    failures: dict[int, str] = {}
    for _, columns in parts:
        requests, rows = len(whole.send_ns), len(whole.event_ns)
        for name in _BY_REQUEST:
            getattr(whole, name).extend(getattr(columns, name))
        whole.first_row.extend(row + rows for row in columns.first_row)
        whole.event_ns.extend(columns.event_ns)
        whole.event_tokens.extend(columns.event_tokens)
        failures |= {requests + number: text for number, text in columns.failures.items()}
    whole.failures = failures
    whole.facts = parts[0][1].facts
    together = tuple(replace(request, after=None) for plan in plans for request in plan.requests)
    return replace(plans[0], requests=together), whole
