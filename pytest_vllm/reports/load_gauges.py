"""What the server told of itself during the loads: gauges of each round, in numbers and words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.load.timeline import during, time_mean
from pytest_vllm.domain.plain import items, mapping, measured, number
from pytest_vllm.reports.plot_axis import told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.reports.load_levels import LoadLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundGauge:
    """A gauge of the server around one round.

    Attributes:
        begin_ns: When the load began, CLOCK_MONOTONIC.
        seconds: How long it took.
        looks: Seconds since its begin, and the value; the first and the last ones are from before
            and after the load.
    """

    begin_ns: float
    seconds: float
    looks: Sequence[tuple[float, float]]

    @property
    def inside(self) -> list[tuple[float, float]]:
        """The looks that fell into the load."""
        return during(self.looks, self.seconds)


def begin_of(one: Mapping[str, Any]) -> float | None:
    """Return when a round began; records of schema 1 do not know."""
    return number(one.get("begin_ns")) or None


def round_gauges(levels: Sequence[LoadLevel], gauge: str) -> list[RoundGauge]:
    """Return a gauge of each round that has it, in the order of time."""
    found = []
    for one in (one for level in levels for one in level.rounds):
        begin, seconds = begin_of(one), measured(one.get("seconds"))
        columns = mapping(one.get("timeline"))
        pairs = zip(items(columns.get("time_s")), items(columns.get(gauge)), strict=False)
        numbers = ((measured(at), measured(value)) for at, value in pairs)
        looks = [(at, value) for at, value in numbers if at is not None and value is not None]
        if begin is not None and seconds is not None and looks:
            found.append(RoundGauge(begin_ns=begin, seconds=seconds, looks=sorted(looks)))
    return sorted(found, key=lambda one: one.begin_ns)


def most_of(rounds: Sequence[RoundGauge]) -> float | None:
    """Return the highest value that was seen during a load, `None` where nobody looked."""
    return max((value for one in rounds for _, value in one.inside), default=None)


def looks_text(rounds: Sequence[RoundGauge]) -> str:
    """Say how many looks the figures rest on, and how far apart they lie at most."""
    count = sum(len(one.inside) for one in rounds)
    gaps = (after - before for one in rounds for (before, _), (after, _) in pairwise(one.looks))
    apart = max(gaps, default=0.0)
    looks = f"{count} look{'s' if count > 1 else ''} at the server's own /metrics during the loads"
    return f"By {looks}" + (f", up to {told(apart)} s apart." if apart else ".")


def gauge_rows(
    levels: Sequence[LoadLevel], gauges: Sequence[str], scale: float, unit: str
) -> list[tuple[str, ...]]:
    """Return of each level its looks, and of each gauge the mean over time and the highest value.

    Args:
        levels: The levels.
        gauges: Names of the gauges.
        scale: What a value is multiplied by.
        unit: What stands behind it.
    """
    return [_row(level, gauges, scale, unit) for level in levels]


def _row(level: LoadLevel, gauges: Sequence[str], scale: float, unit: str) -> tuple[str, ...]:
    counts, cells = [0], []
    for gauge in gauges:
        rounds = round_gauges([level], gauge)
        counts.append(sum(len(one.inside) for one in rounds))
        figures = (_mean(rounds), most_of(rounds))
        cells += ["-" if v is None else f"{told(v * scale)}{unit}" for v in figures]
    return (level.name, str(max(counts)), *cells)


def _mean(rounds: Sequence[RoundGauge]) -> float | None:
    """Return the mean over the time of all rounds during which anybody looked."""
    means = [(time_mean(one.looks, one.seconds), one.seconds) for one in rounds]
    known = [(mean, seconds) for mean, seconds in means if mean is not None]
    whole = sum(seconds for _, seconds in known)
    return sum(mean * (seconds / whole) for mean, seconds in known) if known else None
