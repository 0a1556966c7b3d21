"""What our client has to reach, and whether it did."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.words import prose, table

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = dict[str, Any]
_OURS, _FLOOR = "pytest-vllm", "bare epoll loop"


def targets(peers: Sequence[Row], own: Sequence[Row]) -> list[str]:
    """Return the section that holds the figures against what was asked for."""
    rows = [
        _row(
            "p99 error of events at 512 streams",
            "below 100 us",
            _median(peers, "event_error_p99_us", work="paced-512", client=_OURS),
            100.0,
            "us",
        ),
        *(
            _row(
                f"CPU for each event, of the bare epoll loop's, {work}",
                "at most 1.5x",
                _ratio(peers, work, _FLOOR),
                1.5,
                "x",
            )
            for work in ("paced-64", "paced-256", "paced-512")
        ),
        *(
            _row(
                f"CPU for each event, of the best peer's, {work}",
                "at most 0.5x",
                _best(peers, work),
                0.5,
                "x",
            )
            for work in ("paced-64", "paced-256", "paced-512", "flood")
        ),
        _row(
            "events/s in a flood on one core",
            "at least 100,000",
            _median(own, "true_tokens_per_s", part="one core", client=_OURS),
            100_000.0,
            "/s",
            least=True,
        ),
        _row(
            "memory for 1,000,000 events: all processes (PSS)",
            "below 120 MB",
            _median(own, "pss_mb", part="one core", client=_OURS),
            120.0,
            " MB",
        ),
        _row(
            "memory for 1,000,000 events: the collector (peak RSS)",
            "below 120 MB",
            _median(own, "collector_peak_rss_mb", part="one core", client=_OURS),
            120.0,
            " MB",
        ),
    ]
    return [
        "## What was to be reached",
        "",
        *prose(
            "Peers are the load tools and libraries of the tables below; the best of them is the "
            "one with the least CPU for each event in that row's work."
        ),
        "",
        *table(("figure", "asked", "measured", "reached"), rows),
    ]


def cost_us(rows: Sequence[Row], work: str, client: str) -> float | None:
    """Return a client's CPU microseconds for each event, less its fixed cost; medians."""
    idle = _median(rows, "cpu_s", work="idle", client=client)
    took = [r for r in rows if r["work"] == work and r["client"] == client]
    if idle is None or not took:
        return None
    return median((r["cpu_s"] - idle) / r["events"] * 1e6 for r in took)


def _ratio(rows: Sequence[Row], work: str, other: str) -> float | None:
    """Return the median over the rounds of ours by another's of the same round."""
    idle = {c: _median(rows, "cpu_s", work="idle", client=c) or 0.0 for c in (_OURS, other)}
    cpu = {
        (r["client"], r["round"]): r["cpu_s"] - idle[r["client"]]
        for r in rows
        if r["work"] == work and r["client"] in idle
    }
    pairs: list[float] = [
        cpu[_OURS, number] / cpu[other, number]
        for client, number in cpu
        if client == other and (_OURS, number) in cpu
    ]
    return median(pairs) if pairs else None


def _best(rows: Sequence[Row], work: str) -> float | None:
    clients = {row["client"] for row in rows} - {_OURS, _FLOOR}
    costs = {client: cost_us(rows, work, client) for client in clients}
    told = {client: cost for client, cost in costs.items() if cost is not None}
    if not told:
        return None
    return _ratio(rows, work, min(told, key=lambda client: told[client]))


def _median(rows: Sequence[Row], name: str, **key: str) -> float | None:
    wanted = [r for r in rows if all(r.get(k) == v for k, v in key.items())]
    values: list[float] = [row[name] for row in wanted if name in row]
    return median(values) if values else None


def _row(  # noqa: PLR0913 - the cells of a line
    figure: str, asked: str, value: float | None, bound: float, unit: str, *, least: bool = False
) -> tuple[str, str, str, str]:
    if value is None:
        return figure, asked, "not measured", "**no**"
    good = value >= bound if least else value < bound or (unit == "x" and value <= bound)
    digits = 2 if unit == "x" else 0
    return figure, asked, f"{value:,.{digits}f}{unit}", "yes" if good else "**no**"
