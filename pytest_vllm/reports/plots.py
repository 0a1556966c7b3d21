"""Plots as inline SVG: drawn by pygal, coloured by the page, each with the same in words and rows.

Every constructor takes plain numbers and names, drops what cannot be drawn (NaN, infinities, values
beyond 1e15, and what is not above 0 on a logarithmic axis), and gives the same bytes for the same
data. The classes in the SVG are those of `assets/plots.css`.
"""

from __future__ import annotations

import math
from bisect import bisect
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.plot_axis import Axis, axis_over, is_drawable, told
from pytest_vllm.reports.plot_data import Band, Bar, Line, Plot, Point, Words
from pytest_vllm.reports.plot_frame import WIDTH, Extras
from pytest_vllm.reports.plot_svg import draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MOST_DOTS = 40
"""A line with more points is drawn without dots; nobody could point at one."""
_LONGEST_NAME = 60


def line_plot(  # noqa: PLR0913 - what a plot of lines is
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    words: Words,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = True,
    ticks: Mapping[float, str] | None = None,
    marks: Mapping[str, float] | None = None,
    bands: Sequence[Band] = (),
) -> Plot | None:
    """Draw lines over two axes; `None` where there is nothing to draw.

    Args:
        title: What is shown.
        lines: What is drawn.
        x: Name and unit of the x axis.
        y: Name and unit of the y axis.
        words: What is said besides.
        log_x: Whether the x axis is logarithmic.
        log_y: Whether the y axis is logarithmic.
        from_zero: Whether the y axis begins at 0 (where it is not logarithmic).
        ticks: Labels of the x axis by their places; round numbers by default.
        marks: Bounds by name: lines across the plot.
        bands: Stretches of the x axis.
    """
    kept = [(line, _points(line, log_x=log_x, log_y=log_y)) for line in lines]
    kept = [(line, points) for line, points in kept if any(p.y is not None for p in points)]
    if not kept:
        return None
    bounds = {n: v for n, v in (marks or {}).items() if is_drawable(v, log=log_y)}
    bands = [b for b in bands if is_drawable(b.low, log=log_x) and is_drawable(b.high, log=log_x)]
    places = [p.x for _, points in kept for p in points]
    places += [end for band in bands for end in (band.low, band.high)]
    heights = [v for _, points in kept for p in points for v in (p.y, p.low, p.high)]
    across = axis_over(places, log=log_x, ticks=ticks, tight=True)
    up = axis_over(
        [v for v in (*heights, *bounds.values()) if v is not None], log=log_y, zero=from_zero
    )
    series = [
        (
            line.name,
            [_xy(point, across, up) for point in points],
            {
                "stroke": line.joined,
                "fill": line.filled,
                "show_dots": not line.joined or len(points) <= _MOST_DOTS,
            },
        )
        for line, points in kept
    ]
    svg = draw(
        "xy",
        series,
        Extras(
            label=f"{title}. {words.text}",
            across=across,
            up=up,
            x=x,
            y=y,
            legend=tuple(name for name, _, _ in series),
            marks=bounds,
            bands=tuple((band.low, band.high, band.name) for band in bands),
        ),
    )
    return _plot(title, svg, words)


def bar_plot(
    title: str,
    bars: Sequence[Bar],
    *,
    x: str,
    words: Words,
    marks: Mapping[str, float] | None = None,
) -> Plot | None:
    """Draw bars from left to right, one below the other; `None` where there is none.

    Args:
        title: What is shown.
        bars: The bars, the topmost first.
        x: Name and unit of the axis.
        words: What is said besides.
        marks: Bounds by name: lines across the bars.
    """
    kept = [bar for bar in bars if is_drawable(bar.value) and is_drawable(bar.start)]
    if not kept:
        return None
    groups = list(dict.fromkeys(bar.group for bar in kept))
    series: list[tuple[str, list[Any], dict[str, Any]]] = []
    if any(bar.start for bar in kept):
        series.append(("", [bar.start for bar in kept], {}))
    for group in groups:
        values = [
            {"value": bar.value, "label": _name(bar.label or told(bar.value))}
            if bar.group == group
            else None
            for bar in kept
        ]
        series.append((group, values, {}))
    bounds = {n: v for n, v in (marks or {}).items() if is_drawable(v)}
    reach = [bar.start + bar.value for bar in kept]
    extras = Extras(
        label=f"{title}. {words.text}",
        up=axis_over([*reach, *bounds.values()], zero=True),
        x=x,
        legend=tuple(groups) if len(groups) > 1 else (),
        names=tuple(_name(bar.name) for bar in kept),
        marks=bounds,
        offset=bool(series and not series[0][0] and any(bar.start for bar in kept)),
    )
    return _plot(title, draw("bars", series, extras), words)


def stacked_plot(  # noqa: PLR0913 - what a plot of parts is
    title: str,
    names: Sequence[str],
    parts: Mapping[str, Sequence[float | None]],
    *,
    x: str,
    words: Words,
    marks: Mapping[str, float] | None = None,
) -> Plot | None:
    """Draw bars that are made of parts; `None` where there is nothing to draw.

    Args:
        title: What is shown.
        names: The bars, the topmost first.
        parts: What they are made of: by name the size in each bar, `None` where it has none.
        x: Name and unit of the axis.
        words: What is said besides.
        marks: Bounds by name: lines across the bars.
    """
    series: list[tuple[str, list[Any], dict[str, Any]]] = []
    ends = [0.0] * len(names)
    for part, sizes in parts.items():
        values: list[Any] = []
        for number, size in enumerate(list(sizes)[: len(names)]):
            if size is None or not is_drawable(size) or size <= 0:
                values.append(None)
                continue
            ends[number] += size
            values.append({"value": size, "label": _name(f"{part}: {told(size)}")})
        if any(value is not None for value in values):
            series.append((part, values, {}))
    if not series:
        return None
    bounds = {n: v for n, v in (marks or {}).items() if is_drawable(v)}
    extras = Extras(
        label=f"{title}. {words.text}",
        up=axis_over([*ends, *bounds.values()], zero=True),
        x=x,
        legend=tuple(name for name, _, _ in series),
        names=tuple(_name(name) for name in names),
        marks=bounds,
        inside=True,
    )
    return _plot(title, draw("bars", series, extras), words)


def drawn(*plots: Plot | None) -> list[Plot]:
    """Return those that have something to show."""
    return [plot for plot in plots if plot is not None]


def thin(points: Sequence[tuple[float, float | None]], most: int) -> list[tuple[float, Any]]:
    """Return at most so many points that look the same: lowest and highest of each stretch stay.

    Args:
        points: From left to right.
        most: How many are kept; gaps (`None`) between those are kept besides, one each.
    """
    if len(points) <= most:
        return list(points)
    stretches = max(1, most // 2)
    kept: list[tuple[float, float | None]] = []
    for number in range(stretches):
        begin, end = (len(points) * n // stretches for n in (number, number + 1))
        inside = points[begin:end]
        known = [(y, n) for n, (_, y) in enumerate(inside) if y is not None and math.isfinite(y)]
        ends = sorted({min(known)[1], max(known)[1]}) if known else []
        gaps = [n for n, (_, y) in enumerate(inside) if y is None]
        between = {bisect(ends, n): n for n in reversed(gaps)}  # the first gap before each end
        kept += [inside[n] for n in sorted((*ends, *between.values()))]
    return kept


def _plot(title: str, svg: str, words: Words) -> Plot:
    return Plot(
        title=title,
        svg=svg,
        text=words.text,
        head=tuple(words.head),
        rows=tuple(tuple(row) for row in words.rows),
    )


def _points(line: Line, *, log_x: bool, log_y: bool) -> list[Point]:
    return list(_drawable(line.points, log_x=log_x, log_y=log_y))


def _drawable(
    points: Iterable[Point | tuple[float, float | None]], *, log_x: bool, log_y: bool
) -> Iterable[Point]:
    for item in points:
        point = item if isinstance(item, Point) else Point(x=item[0], y=item[1])
        if not is_drawable(point.x, log=log_x):
            continue
        if point.y is None:
            yield point
        elif is_drawable(point.y, log=log_y):
            spread = point.low is not None and point.high is not None
            if spread and is_drawable(point.low) and is_drawable(point.high):
                yield point
            else:
                yield Point(x=point.x, y=point.y, label=point.label)


def _xy(point: Point, across: Axis, up: Axis) -> dict[str, Any]:
    """Return a point as pygal takes it, in places of the two axes."""
    if point.y is None:
        return {"value": (across.place(point.x), None)}
    label = point.label or f"{across.tell(point.x)}: {told(point.y)}"
    item: dict[str, Any] = {
        "value": (across.place(point.x), up.place(point.y)),
        "label": _name(label),
    }
    if point.low is not None and point.high is not None:
        item["ci"] = {"low": up.place(point.low), "high": up.place(point.high)}
    return item


def _name(text: str) -> str:
    return one_line(text, _LONGEST_NAME)


__all__ = [
    "WIDTH",
    "Band",
    "Bar",
    "Line",
    "Plot",
    "Point",
    "Words",
    "bar_plot",
    "drawn",
    "line_plot",
    "stacked_plot",
    "thin",
]
