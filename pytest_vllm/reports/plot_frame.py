"""What is around the series of a plot: axes' names, legend, bounds, bands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.plot_axis import Axis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH = 480
MARGIN = 8
ROW = 20
"""Height of a line of the legend."""
LETTER = 8.2
"""Width of a letter in the mean, as fonts without serifs have it at this size."""
COLOURS = 8
LONGEST = 34
"""Most letters of a name."""
_SMALL_LETTER = 6.0
_MOST_IN_LEGEND = 12
_AXIS = Axis(low=0.0, high=1.0, ticks=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is around the series.

    Attributes:
        label: What the whole shows, for those who do not see it.
        across: The x axis of lines.
        up: The y axis of lines, and the axis along bars.
        x: Name of the axis below.
        y: Name of the axis at the left.
        legend: Names of the series, by their numbers; none for no legend.
        names: Names of bars, the topmost first.
        marks: Bounds by name.
        bands: Begin, end and name of stretches of the x axis.
        offset: Whether the first series is only the begin of the bars, which is not seen.
        inside: Whether a part of a bar carries its name where there is room.
    """

    label: str
    across: Axis = _AXIS
    up: Axis = _AXIS
    x: str = ""
    y: str = ""
    legend: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    marks: Mapping[str, float] = field(default_factory=dict)
    bands: tuple[tuple[float, float, str], ...] = ()
    offset: bool = False
    inside: bool = False


def draw_bands(plain: ET.Element, chart: Any, extras: Extras) -> None:
    """Shade stretches of the x axis, and name those that are wide enough."""
    for number, (low, high, name) in enumerate(extras.bands):
        begin, end = (chart.view.x(extras.across.place(value)) for value in (low, high))
        height = chart.view.height
        group = ET.SubElement(plain, "g", {"class": f"bd bd{number % 2}"})
        width = max(0.5, end - begin)
        ET.SubElement(group, "title").text = one_line(name, 120)
        box = {"x": begin, "y": 0.0, "width": width, "height": height}
        ET.SubElement(group, "rect", {key: number_text(value) for key, value in box.items()})
        if width >= _SMALL_LETTER * len(name):
            place = {"x": number_text((begin + end) / 2), "y": "-4"}
            text = ET.SubElement(group, "text", {"text-anchor": "middle", **place})
            text.text = one_line(name, LONGEST)


def draw_marks(plain: ET.Element, chart: Any, extras: Extras) -> None:
    """Draw bounds: across the plot, their names above the line or above the bars."""
    width, height = chart.view.width, chart.view.height
    for row, (name, value) in enumerate(extras.marks.items()):
        group = ET.SubElement(plain, "g", {"class": "mk"})
        place = chart.view.y(extras.up.place(value))
        at = number_text(place)
        if extras.names:
            above = 4 + ROW * (row + 1)
            path = f"M{at} {4 - above}V{number_text(height)}"
            end = place > width / 2
            spot = {"x": number_text(place + (-4 if end else 4)), "y": number_text(14 - above)}
        else:
            path, end = f"M0 {at}H{number_text(width)}", True
            spot = {"x": number_text(width - 2), "y": number_text(place - 4)}
        ET.SubElement(group, "path", {"d": path})
        anchor = "end" if end else "start"
        ET.SubElement(group, "text", {**spot, "text-anchor": anchor}).text = one_line(name, 60)


def draw_names(svg: ET.Element, chart: Any, extras: Extras) -> None:
    """Name the axes: that below under its middle, that at the left above its end."""
    if extras.x:
        middle = chart.margin_box.left + chart.view.width / 2
        spot = {
            "x": number_text(middle),
            "y": number_text(chart.height - 8),
            "text-anchor": "middle",
        }
        ET.SubElement(svg, "text", {"class": "nm", **spot}).text = one_line(extras.x, 80)
    if extras.y:
        above = chart.margin_box.top - (ROW if extras.bands else 6)
        spot = {"x": "4", "y": number_text(above)}
        ET.SubElement(svg, "text", {"class": "nm", **spot}).text = one_line(extras.y, 80)


def legend_rows(extras: Extras) -> list[list[tuple[int, str, float]]]:
    """Break the legend into rows: number of the series, name, place. None with too many names."""
    if not 1 < len(extras.legend) <= _MOST_IN_LEGEND:
        return []
    rows: list[list[tuple[int, str, float]]] = [[]]
    at = float(MARGIN)
    for number, full in enumerate(extras.legend):
        name = one_line(full, LONGEST)
        wide = 26 + LETTER * len(name) + 12
        if rows[-1] and at + wide > WIDTH - MARGIN:
            rows.append([])
            at = float(MARGIN)
        rows[-1].append((number, name, at))
        at += wide
    return rows


def draw_legend(
    svg: ET.Element, extras: Extras, rows: Sequence[Sequence[tuple[int, str, float]]]
) -> None:
    """Write the legend above the plot: a stroke or a box of each series, and its name."""
    for row, entries in enumerate(rows):
        for number, name, at in entries:
            group = ET.SubElement(svg, "g", {"class": f"lg s s{number % COLOURS}"})
            middle = MARGIN + ROW * row + 5
            if extras.names:
                box = {
                    "x": number_text(at),
                    "y": number_text(middle - 6),
                    "width": "12",
                    "height": "12",
                }
                ET.SubElement(group, "rect", box)
            else:
                line = {"class": "li", "d": f"M{number_text(at)} {middle}h20"}
                ET.SubElement(group, "path", line)
            spot = {
                "x": number_text(at + (18 if extras.names else 26)),
                "y": number_text(middle + 4),
            }
            ET.SubElement(group, "text", spot).text = name


def number_text(value: float) -> str:
    """Write a number with at most one digit behind the point: a tenth of a pixel."""
    text = f"{value:.1f}".removesuffix(".0") if math.isfinite(value) else "0"
    return "0" if text == "-0" else text
