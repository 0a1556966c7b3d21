"""The load levels of a record as numbers, whatever it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.load.over_rounds import latency_figure, percentile_of, rate_of, share_of
from pytest_vllm.domain.plain import mapping, mappings, measured, number
from pytest_vllm.domain.rounds import figures_in
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.plot_axis import is_drawable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.load.over_rounds import Ranged

MOST = 64
"""Most levels that are drawn; a profile has 32 at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLevel:
    """One load level.

    Attributes:
        name: Such as `c16`.
        concurrency: Requests at a time.
        rounds: Its rounds, as plain data.
        latencies: Distributions over all rounds by metric, as plain data.
    """

    name: str
    concurrency: float
    rounds: Sequence[Mapping[str, Any]]
    latencies: Mapping[str, Any]

    def values(self, figure: str) -> list[float]:
        """Return a figure of each round that has it."""
        seen = (number(mapping(one.get("figures")).get(figure)) for one in self.rounds)
        return [value for value in seen if value is not None and is_drawable(value)]

    def rate(self, figure: str) -> Ranged | None:
        """Return the mean of a rate over rounds, `None` where no round has it."""
        values = self.values(figure)
        return rate_of(values) if values else None

    def goodput(self) -> Ranged | None:
        """Return the share of good requests, `None` where none was asked for."""
        return goodput_in(self.rounds)

    def percentile(self, metric: str, name: str) -> Ranged | None:
        """Return a percentile, `None` where it is not told or cannot be drawn."""
        seen = percentile_in(self.latencies, self.rounds, metric, name)
        return seen if seen is not None and is_drawable(seen.value) else None


def rate_in(rounds: Sequence[Mapping[str, Any]], figure: str) -> Ranged | None:
    """Return the mean of a rate over rounds with its interval, `None` where no round has it."""
    values = figures_in(rounds, figure)
    return rate_of(values) if values else None


def goodput_in(rounds: Sequence[Mapping[str, Any]]) -> Ranged | None:
    """Return the share of good requests of all, `None` where none was asked for."""
    told = [
        (measured(mapping(one.get("figures")).get("goodput_share")), measured(one.get("requests")))
        for one in rounds
    ]
    return share_of(
        [
            (share, int(requests))
            for share, requests in told
            if share is not None and 0 <= share <= 1 and requests is not None and requests > 0
        ]
    )


def percentile_in(
    latencies: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], metric: str, name: str
) -> Ranged | None:
    """Return a percentile of all requests of a level, `None` where it is not told.

    What the record has is widened where its rounds differ by more, which older records did not do.

    Args:
        latencies: Distributions over all rounds by metric, as plain data.
        rounds: The rounds, as plain data.
        metric: Such as `ttft`.
        name: Such as `p50`.
    """
    seen = mapping(mapping(mapping(latencies.get(metric)).get("percentiles")).get(name))
    value, low, high = (measured(seen.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return None
    figure = latency_figure(metric, name)
    own = [measured(mapping(one.get("figures")).get(figure)) for one in rounds]
    return percentile_of(value, low, high, own)


def levels_of(performance: Mapping[str, Any]) -> list[LoadLevel]:
    """Return the levels by their load; those without a number of requests are left out."""
    found = []
    for level in mappings(performance.get("levels"))[:MOST]:
        concurrency = number(level.get("concurrency"))
        if concurrency is None or not is_drawable(concurrency, log=True):
            continue
        found.append(
            LoadLevel(
                name=one_line(str(level.get("name", f"c{concurrency:g}")), 20),
                concurrency=concurrency,
                rounds=mappings(level.get("rounds")),
                latencies=mapping(level.get("latencies")),
            )
        )
    return sorted(found, key=lambda level: level.concurrency)
