"""What our client has to reach, and whether it did."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.reckoning import event_us, slope_us
from benchmarks.words import prose, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Row = dict[str, Any]
_OURS, _FLOOR = "pytest-vllm", "bare epoll loop"
_COLLECTOR = "collector_cpu_s"


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
        value = "not measured" if self.value is None else f"{self.value:,.{digits}f}{self.unit}"
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
                figure=f"CPU us/event of {what}, of the bare epoll loop's, {work}",
                asked="at most 1.5x",
                value=_floor_ratio(peers, work, collector=what == "the collector"),
                bound=1.5,
                unit="x",
            )
            for work in ("paced-64", "paced-256", "paced-512")
            for what in ("the collector", "all processes")
        ),
        Target(
            figure="CPU us of one more event, 64 to 512 streams, of the best peer's",
            asked="at most 0.5x",
            value=_best({client: slope(peers, client) for client in _clients(peers)}),
            bound=0.5,
            unit="x",
        ),
        *(
            Target(
                figure=f"CPU s in all, of the best peer's, {work}",
                asked="at most 0.5x",
                value=_best(
                    {c: _median(peers, "cpu_s", work=work, client=c) for c in _clients(peers)}
                ),
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
            "Peers are the load tools and libraries of the tables below, and the best is the one "
            "with the least of what the row is about. A ratio is the median over the rounds. The "
            "collector is the process that sends and reads; all processes hold also the one that "
            "makes the figures out of its columns."
        ),
        "",
        *table(("figure", "asked", "measured", "reached"), [target.cells() for target in held]),
    ]


def slope(rows: Sequence[Row], client: str) -> float | None:
    """Return what one more event costs a client, from 64 streams to 512."""
    mine = [row for row in rows if row["client"] == client]
    few, many = ([r for r in mine if r["work"] == f"paced-{streams}"] for streams in (64, 512))
    return slope_us(few, many)


def _floor_ratio(rows: Sequence[Row], work: str, *, collector: bool) -> float | None:
    """Return the median over the rounds of our cost of an event by the floor's."""
    ours, floor = _costs(rows, work, _OURS), _costs(rows, work, _FLOOR)
    if collector:
        took = [row for row in rows if row["client"] == _OURS and row["work"] == work]
        ours = {
            row["round"]: row[_COLLECTOR] / row["events"] * 1e6 for row in took if _COLLECTOR in row
        }
    ratios = [ours[number] / floor[number] for number in ours.keys() & floor.keys()]
    return median(ratios) if ratios else None


def _best(costs: Mapping[str, float | None]) -> float | None:
    """Return our cost by that of the peer that costs least, `None` where one is not known."""
    ours = costs.get(_OURS)
    peers = [cost for client, cost in costs.items() if client not in {_OURS, _FLOOR}]
    known = [cost for cost in peers if cost is not None]
    return ours / min(known) if ours and known and len(known) == len(peers) else None


def _clients(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["client"] for row in rows))


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
