"""A plot of what became of the figures: each change with its interval, in one look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.reports.plots import Line, Point, Words, line_plot
from pytest_vllm.reports.regression import share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.metric_change import MetricChange
    from pytest_vllm.reports.plots import Plot

_MOST = 6
"""As many names as have room below a plot."""
_BOTH = 2


def changes_plot(changes: Sequence[MetricChange], *, forced: bool = False) -> Plot | None:
    """Draw by how much each figure became worse; `None` where no change is known.

    Args:
        changes: Those of a judgement; the first six are drawn.
        forced: Whether the sides are not comparable and were compared all the same.
    """
    shown = changes[:_MOST]
    points = [
        _point(place, change, change.ratio)
        for place, change in enumerate(shown)
        if change.ratio is not None and change.ratio > 0
    ]
    if not points:
        return None
    edges = [Point(x=place, y=None) for place in (-0.5, len(shown) - 0.5)]  # room at both sides
    text = "each figure with its bounds of 95 %; above 0 is worse, whichever way the figure counts"
    return line_plot(
        "Change to the worse",
        [Line(name="change", points=[edges[0], *points, edges[1]], joined=False)],
        x="figure",
        y="% worse",
        words=Words(text=f"FORCED. {text}" if forced else text),
        marks={"no change": 0.0},
        from_zero=False,
        ticks={
            float(place): change.metric.replace("output_", "") for place, change in enumerate(shown)
        },
    )


def _point(place: int, change: MetricChange, ratio: float) -> Point:
    ends = sorted(_worsening(change, end) for end in (change.low, change.high) if end)
    low, high = ends if len(ends) == _BOTH else (None, None)
    return Point(
        x=float(place),
        y=_worsening(change, ratio),
        low=low,
        high=high,
        label=f"{change.metric}: {share(change.ratio)}, {change.effect}",
    )


def _worsening(change: MetricChange, ratio: float) -> float:
    """Return by how many per cent a ratio is worse."""
    return 100 * ((1 / ratio if change.bigger_is_better else ratio) - 1)
