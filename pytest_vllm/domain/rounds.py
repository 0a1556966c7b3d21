"""Several rounds of one load level: their requests together, their rates, where growth ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import Columns
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over rounds with its interval of 95 % (Student's t), whole rounds being the unit.

    Attributes:
        value: The mean.
        low: Lower end, `None` with fewer than two rounds.
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


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of some rounds.

    Args:
        values: A figure of each round, at least one.
    """
    count, middle = len(values), fmean(values)
    if count < 2:  # noqa: PLR2004 - one value has no spread
        return Mean(value=middle, low=None, high=None, rounds=count)
    half = t_quantile(_SIDE, count - 1) * stdev(values) / math.sqrt(count)
    return Mean(value=middle, low=middle - half, high=middle + half, rounds=count)


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


def slows_down(seconds: Sequence[float], *, factor: float) -> bool:
    """Tell whether every round took longer than the one before, and the last too long.

    By chance alone, six rounds are in ascending order once in 720 times.

    Args:
        seconds: What each round took, in their order.
        factor: How much longer than the first the last one is too long.
    """
    ascending = all(later > earlier for earlier, later in pairwise(seconds))
    return len(seconds) >= 5 and ascending and seconds[-1] > factor * seconds[0]  # noqa: PLR2004


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
