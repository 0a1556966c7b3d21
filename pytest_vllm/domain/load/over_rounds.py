"""One figure of several rounds of a load level, with one interval of 95 % wherever it is told.

Requests of one round share its luck, so an interval that takes those of all rounds for independent
is too narrow wherever rounds differ: six rounds of 320 requests on an H100 had TTFT medians from 63
to 78 ms, and the order statistics of all 1920 requests said 69.7 to 71.0 ms. The round is the unit,
as in a comparison of two runs. But few rounds may agree by chance, and the sizes of their samples
say how sure they can be at best. So the interval is the wider one on each side: that of all
requests, and Student's over the rounds' own figures.

A percentile for which a round alone has too few requests (p99 below 662) has no figure of a round:
its nearest rank there would be next to the largest value, which says how large a round is and not
where the percentile lies. Then the interval of all requests stands alone, as it does with one round
that shows nothing of others; it is as wide as so few requests make it, and no wider where rounds
differ. Who lets a p99 decide gives each round the requests for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.interval import Score
from pytest_vllm.domain.rounds import mean_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.load.measurement import Distribution, Percentile

_ROUNDS = 2
"""One round alone shows nothing of how rounds differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranged:
    """A figure with its interval of 95 %.

    Attributes:
        value: The figure.
        low: Lower end, `None` when open or unknown.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


def rate_of(values: Sequence[float]) -> Ranged:
    """Return the mean of a rate over rounds with Student's interval.

    Args:
        values: The rate in each round, at least one.
    """
    mean = mean_of(values)
    return Ranged(value=mean.value, low=mean.low, high=mean.high)


def percentile_of(
    value: float,
    low: float | None,
    high: float | None,
    values: Sequence[float | None],
) -> Ranged:
    """Return a percentile of all requests with the wider interval on each side.

    Args:
        value: The percentile, of the requests of all rounds together.
        low: Lower end of its interval by these requests, `None` when open.
        high: Upper end.
        values: The same percentile of each round, `None` where it has too few requests.
    """
    return _wider(Ranged(value=value, low=low, high=high), values)


def share_of(counts: Sequence[tuple[float, int]]) -> Ranged | None:
    """Return the share of good requests: of Wilson's interval and Student's the wider, in 0 to 1.

    Args:
        counts: The share and the requests of each round.

    Returns:
        The share, `None` without requests.
    """
    issued = sum(requests for _, requests in counts)
    if not issued:
        return None
    score = Score(right=round(sum(share * n for share, n in counts)), total=issued)
    low, high = share_bounds(score, [share for share, _ in counts])
    return Ranged(value=score.share, low=low, high=high)


def share_bounds(score: Score, shares: Sequence[float]) -> tuple[float, float]:
    """Return the interval of a share of all requests: the wider one on each side, within 0 to 1.

    Args:
        score: The good requests of all rounds, of all that were issued.
        shares: The share in each round.
    """
    low, high = score.interval
    wide = _wider(Ranged(value=score.share, low=low, high=high), shares)
    return wide.low or 0.0, min(1.0, wide.high or 1.0)


def latency_figure(metric: str, percentile: str) -> str:
    """Return the name of a percentile among the figures of a round, such as `ttft_p50_ms`."""
    return f"{metric}_{percentile}_ms"


def over_rounds(
    distributions: Mapping[str, Distribution], rounds: Sequence[Mapping[str, float]]
) -> dict[str, Distribution]:
    """Return distributions of all requests with the intervals that their rounds leave them.

    Args:
        distributions: Of the requests of all rounds together, by metric.
        rounds: Figures of each round.
    """
    return {
        metric: replace(
            told,
            percentiles={
                name: _told(seen, [one.get(latency_figure(metric, name)) for one in rounds])
                for name, seen in told.percentiles.items()
            },
        )
        for metric, told in distributions.items()
    }


def _told(seen: Percentile, values: Sequence[float | None]) -> Percentile:
    if seen.value is None:
        return seen
    found = percentile_of(seen.value, seen.low, seen.high, values)
    return replace(seen, low=found.low, high=found.high)


def _wider(told: Ranged, values: Sequence[float | None]) -> Ranged:
    known = [value for value in values if value is not None]
    if len(known) < max(_ROUNDS, len(values)):  # rounds that have it would be a selection
        return told
    mean = rate_of(known)
    return Ranged(
        value=told.value,
        low=None if told.low is None or mean.low is None else min(told.low, mean.low),
        high=None if told.high is None or mean.high is None else max(told.high, mean.high),
    )
