"""What our client has to reach, and whether it did."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.reckoning import event_us
from benchmarks.words import prose, table

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = dict[str, Any]
_OURS, _FLOOR = "pytest-vllm", "bare epoll loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure, what was asked of it, and what it was.

    Attributes:
        figure: In words.
        asked: In words.
        value: As measured, `None` where it was not.
        bound: The most that it may be, or with `least` the least.
        unit: Written behind it; `x` for a ratio of two measurements of one run.
        least: Whether more is better.
    """

    figure: str
    asked: str
    value: float | None
    bound: float
    unit: str
    least: bool = False

    @property
    def reached(self) -> bool:
        """Whether it is as good as was asked."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.least else self.value <= self.bound

    def cells(self) -> tuple[str, str, str, str]:
        """Return its line of the table."""
        digits = 2 if self.unit == "x" else 0
        value = "unsure" if self.value is None else f"{self.value:,.{digits}f}{self.unit}"
        return self.figure, self.asked, value, "yes" if self.reached else "**no**"


def targets(peers: Sequence[Row], own: Sequence[Row]) -> tuple[Target, ...]:
    """Hold the figures against what was asked for."""
    return (
        Target(
            figure="p99 error of events at 512 streams",
            asked="below 100 us",
            value=_median(peers, "event_error_p99_us", work="paced-512", client=_OURS),
            bound=99.999,
            unit=" us",
        ),
        *(
            Target(
                figure=f"CPU for each event, of the bare epoll loop's, {work}",
                asked="at most 1.5x",
                value=_ratio(peers, work, _FLOOR),
                bound=1.5,
                unit="x",
            )
            for work in ("paced-64", "paced-256", "paced-512")
        ),
        *(
            Target(
                figure=f"CPU for each event, of the best peer's, {work}",
                asked="at most 0.5x",
                value=_best(peers, work),
                bound=0.5,
                unit="x",
            )
            for work in ("paced-64", "paced-256", "paced-512", "flood")
        ),
        Target(
            figure="events/s in a flood on one core",
            asked="at least 100,000",
            value=_median(own, "true_tokens_per_s", part="one core", client=_OURS),
            bound=100_000.0,
            unit="/s",
            least=True,
        ),
        Target(
            figure="memory for 1,000,000 events: all processes (PSS)",
            asked="below 120 MB",
            value=_median(own, "pss_mb", part="one core", client=_OURS),
            bound=119.999,
            unit=" MB",
        ),
        Target(
            figure="memory for 1,000,000 events: the collector (peak RSS)",
            asked="below 120 MB",
            value=_median(own, "collector_peak_rss_mb", part="one core", client=_OURS),
            bound=119.999,
            unit=" MB",
        ),
    )


def section(held: Sequence[Target]) -> list[str]:
    """Return what was to be reached, as lines of the page."""
    return [
        "## What was to be reached",
        "",
        *prose(
            "Peers are the load tools and libraries of the tables below; the best of them is the "
            "one with the least CPU for each event in that row's work, if that of none is unsure. "
            "A ratio is the median over the rounds."
        ),
        "",
        *table(("figure", "asked", "measured", "reached"), [target.cells() for target in held]),
    ]


def _ratio(rows: Sequence[Row], work: str, other: str) -> float | None:
    """Return the median over the rounds of our cost by another's of the same round."""
    ours, theirs = _costs(rows, work, _OURS), _costs(rows, work, other)
    pairs = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
    return median(pairs) if pairs else None


def _best(rows: Sequence[Row], work: str) -> float | None:
    """Return our cost by that of the peer that costs least; `None` while one of them is unsure."""
    clients = {row["client"] for row in rows if row["work"] == work} - {_OURS, _FLOOR}
    costs = {client: _costs(rows, work, client) for client in clients}
    if not costs or not all(costs.values()):
        return None
    return _ratio(rows, work, min(costs, key=lambda client: median(costs[client].values())))


def _costs(rows: Sequence[Row], work: str, client: str) -> dict[int, float]:
    """Return a client's cost of an event by round, empty where it is not sure."""
    mine = [row for row in rows if row["client"] == client]
    took = [row for row in mine if row["work"] == work]
    costs = event_us(took, [row for row in mine if row["work"] == "idle"])
    return {row["round"]: cost for row, cost in zip(took, costs, strict=False)}


def _median(rows: Sequence[Row], name: str, **key: str) -> float | None:
    wanted = [r for r in rows if all(r.get(k) == v for k, v in key.items())]
    values: list[float] = [row[name] for row in wanted if name in row]
    return median(values) if values else None
