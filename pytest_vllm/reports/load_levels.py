"""The load levels of a record as numbers, whatever it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import mapping, mappings, number
from pytest_vllm.domain.rounds import mean_of
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.plot_axis import is_drawable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.rounds import Mean

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

    def mean(self, figure: str) -> Mean | None:
        """Return the mean of a figure over rounds, `None` where no round has it."""
        values = self.values(figure)
        return mean_of(values) if values else None


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
