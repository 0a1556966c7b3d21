"""A plot of what became of the figures: each change with its interval, in one look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.metric_change import Effect
from pytest_vllm.reports.plot_axis import told
from pytest_vllm.reports.plots import Line, Point, Words, line_plot
from pytest_vllm.reports.regression import share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.metric_change import MetricChange
    from pytest_vllm.reports.plots import Plot

_MOST = 6
"""As many names as have room below a plot."""


def changes_plot(changes: Sequence[MetricChange], *, forced: bool = False) -> Plot | None:
    """Draw by how much each figure became worse; `None` where no change is known.

    Args:
        changes: Those of a judgement; the six that became worst are drawn, and the table has all.
        forced: Whether the sides are not comparable and were compared all the same.
    """
    known = [(change, ratio) for change in changes if (ratio := change.ratio) and ratio > 0]
    known.sort(key=lambda one: _weight(*one), reverse=True)
    shown = known[:_MOST]
    if not shown:
        return None
    points = [_point(place, change, ratio) for place, (change, ratio) in enumerate(shown)]
    edges = [Point(x=place, y=None) for place in (-0.5, len(shown) - 0.5)]  # room at both sides
    return line_plot(
        "Change to the worse",
        [Line(name="change", points=[edges[0], *points, edges[1]], joined=False)],
        x="figure",
        y="% worse",
        words=Words(
            text=_text(len(shown), len(known), len(changes), forced=forced),
            head=("figure", "% worse", "from", "to", "result"),
            rows=[_row(change, ratio) for change, ratio in known],
        ),
        marks={"no change": 0.0},
        from_zero=False,
        ticks={
            float(place): change.metric.replace("output_", "")
            for place, (change, _) in enumerate(shown)
        },
    )


def _weight(change: MetricChange, ratio: float) -> tuple[bool, float]:
    """Return what puts the worst first: those that count as worse, then by how much they are."""
    return change.effect is Effect.WORSE, _worsening(change, ratio)


def _text(shown: int, known: int, given: int, *, forced: bool) -> str:
    text = "each figure with its bounds of 95 %; above 0 is worse, whichever way the figure counts"
    if shown < known:
        text += f"; the {shown} worst of {known} are drawn, the table has all"
    if known < given:
        text += f"; {given - known} without an estimate are left out"
    return f"FORCED. {text}" if forced else text


def _row(change: MetricChange, ratio: float) -> tuple[str, ...]:
    low, high = _bounds(change)
    cells = ("open" if end is None else told(end) for end in (low, high))
    return (change.metric, told(_worsening(change, ratio)), *cells, change.effect.value)


def _point(place: int, change: MetricChange, ratio: float) -> Point:
    low, high = _bounds(change)
    whole = low is not None and high is not None
    return Point(
        x=float(place),
        y=_worsening(change, ratio),
        low=low if whole else None,
        high=high if whole else None,
        label=f"{change.metric}: {share(change.ratio)}, {change.effect}",
    )


def _bounds(change: MetricChange) -> tuple[float | None, float | None]:
    """Return the least and the most by which a figure became worse, `None` where it is open."""
    ends = (change.high, change.low) if change.bigger_is_better else (change.low, change.high)
    low, high = (_worsening(change, end) if end else None for end in ends)
    return low, high


def _worsening(change: MetricChange, ratio: float) -> float:
    """Return by how many per cent a ratio is worse."""
    return 100 * ((1 / ratio if change.bigger_is_better else ratio) - 1)
