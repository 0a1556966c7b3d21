"""Have pygal draw, and keep of its SVG only what a page needs: shapes, classes and texts.

pygal's own output carries a script, a style sheet, a comment with the date and random IDs. What is
written here is built anew out of its tree from known elements and attributes alone.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.plot_frame import (
    COLOURS,
    LETTER,
    LONGEST,
    MARGIN,
    ROW,
    WIDTH,
    draw_bands,
    draw_legend,
    draw_marks,
    draw_names,
    legend_rows,
    number_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.reports.plot_axis import Axis
    from pytest_vllm.reports.plot_frame import Extras

    Series = Sequence[tuple[str, list[Any], Mapping[str, Any]]]

_HEIGHT = 300
_FONT = 13
_BAR = 26
_THINNEST = 1.5
"""Width of a bar that would be too thin to be seen."""
_NUMBER = re.compile(r"-?\d+\.\d+")
_BOX = ("x", "y", "width", "height")


def _pygal() -> Any:
    """Import pygal without the finder that it leaves in Python's list.

    It is for maps, of which there are none here, and of a form that Python 3.11 warns of at each
    later import that fails.
    """
    import pygal  # noqa: PLC0415 - heavy, and no plain run of pytest draws
    import pygal.style  # noqa: PLC0415 - as above

    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)
    ]
    return pygal


def _lines(pygal: Any) -> Any:
    """Return pygal's XY chart with intervals: its own takes a whole point for a height (3.1)."""

    class Lines(pygal.XY):  # type: ignore[misc] # pygal has no types
        def _confidence_interval(
            self, node: Any, x: float, y: float, value: Any, metadata: Any
        ) -> None:
            super()._confidence_interval(node, x, y, value[1], metadata)

    return Lines


def draw(kind: str, series: Series, extras: Extras) -> str:
    """Draw series and return the SVG.

    Args:
        kind: `xy` for lines, `bars` for bars from left to right, each stacked of its series.
        series: Name, values and options of each, as pygal takes them.
        extras: What is around them.
    """
    pygal = _pygal()
    legend = legend_rows(extras)
    marks = len(extras.marks) if kind == "bars" else 0
    lines = len(legend) + marks + bool(extras.bands)
    top = MARGIN + ROW * lines + (ROW if extras.y else 6)
    bars = kind == "bars"
    height = top + 52 + _BAR * len(extras.names) if bars else _HEIGHT + ROW * len(legend)
    chart = (pygal.HorizontalStackedBar if bars else _lines(pygal))(
        width=WIDTH,
        height=height,
        style=pygal.style.Style(
            label_font_size=_FONT, major_label_font_size=_FONT, font_family="monospace"
        ),
        js=(),
        css=(),
        show_legend=False,
        margin=MARGIN,
        margin_top=top,
        margin_bottom=ROW + MARGIN,
        margin_right=16,
        dots_size=3,
        allow_interruptions=True,
        truncate_label=LONGEST,
        formatter=lambda _: "",
    )
    # pygal stacks the last row of a horizontal chart at the top
    order = slice(None, None, -1) if bars else slice(None)
    if bars:
        chart.x_labels = [one_line(name, LONGEST) for name in extras.names][order]
        chart.range = (extras.up.low, extras.up.high)
    else:
        chart.xrange = (extras.across.low, extras.across.high)
        chart.range = (extras.up.low, extras.up.high)
        chart.x_labels = _ticks(extras.across)
    chart.y_labels = _ticks(extras.up)
    for name, values, options in series:
        chart.add(name, values[order], **options)
    made: list[ET.Element] = []

    def keep(root: ET.Element) -> ET.Element:
        made.append(_rebuild(chart, root, extras, legend))
        return root

    chart.add_xml_filter(keep)
    chart.render_tree()
    return ET.tostring(made[0], encoding="unicode", short_empty_elements=True)


def _ticks(axis: Axis) -> list[dict[str, Any]]:
    return [{"value": place, "label": label} for place, label in axis.ticks]


def _rebuild(
    chart: Any, root: ET.Element, extras: Extras, legend: Sequence[Sequence[tuple[int, str, float]]]
) -> ET.Element:
    """Build the SVG anew while pygal's view is there to tell where things are."""
    svg = ET.Element(
        "svg",
        {
            "class": "chart",
            "viewBox": f"0 0 {chart.width} {chart.height}",
            "role": "img",
            "aria-label": one_line(extras.label, 400),
        },
    )
    left, top = int(chart.margin_box.left), int(chart.margin_box.top)
    plain = ET.SubElement(svg, "g", {"transform": f"translate({left},{top})"})
    draw_bands(plain, chart, extras)
    graph = next(node for node in root if _class(node).startswith("graph"))
    groups: dict[int, ET.Element] = {}
    for layer in graph:
        if _class(layer) not in ("plot", "plot overlay"):
            continue
        for node in layer:
            name = _class(node)
            if name.startswith("axis"):
                _axis(plain, node, upright=None if extras.names else chart.view.height)
            elif found := re.match(r"series serie-(\d+)", name):
                number = int(found[1])
                if extras.offset and number == 0:
                    continue
                if number not in groups:
                    groups[number] = _group(plain, number, extras)
                _shapes(groups[number], node)
    if extras.inside:
        for number, group in groups.items():
            _inside(group, extras.legend[number])
    draw_marks(plain, chart, extras)
    draw_names(svg, chart, extras)
    draw_legend(svg, extras, legend)
    return svg


def _group(parent: ET.Element, number: int, extras: Extras) -> ET.Element:
    group = ET.SubElement(parent, "g", {"class": f"s s{_colour(number, extras)}"})
    names = ("", *extras.legend) if extras.offset else extras.legend
    if number < len(names) and names[number]:
        ET.SubElement(group, "title").text = one_line(names[number], 120)
    return group


def _colour(number: int, extras: Extras) -> int:
    return (number - extras.offset) % COLOURS


def _axis(parent: ET.Element, node: ET.Element, *, upright: float | None) -> None:
    """Take over an axis: lines, labels.

    Args:
        parent: Where to.
        node: What pygal drew.
        upright: Height of the axis at the left of lines, where pygal takes the tick at place 0 for
            it, wherever that is.
    """
    side = "y" if " y" in _class(node) else "x"
    group = ET.SubElement(parent, "g", {"class": f"ax ax-{side}"})
    for item in node.iter():
        if item.tag == "path":
            ticked = upright is not None and side == "x"
            line = "gd" if ticked or "guide" in _class(item) else "ln"
            ET.SubElement(group, "path", {"class": line, "d": _short(item.get("d", ""))})
        elif item.tag == "text" and item.text:
            text = ET.SubElement(group, "text", _at(item, "x", "y"))
            text.text = one_line(item.text, LONGEST)
    if upright is not None and side == "x":
        ET.SubElement(group, "path", {"class": "ln", "d": f"M0 0V{number_text(upright)}"})


def _shapes(group: ET.Element, node: ET.Element) -> None:
    """Take over lines, dots, bars and intervals; what pygal tells of one becomes its title."""
    for item in node.iter():
        kinds = _class(item).split()
        if item.tag == "path" and "line" in kinds:
            shape = "li" if "nofill" in kinds else "fi"
            ET.SubElement(group, "path", {"class": shape, "d": _short(item.get("d", ""))})
        elif "ci" in kinds:
            for path in item.iter("path"):
                ET.SubElement(group, "path", {"class": "ci", "d": _short(path.get("d", ""))})
        elif "dots" in kinds or "bar" in kinds:
            _dots_and_bars(group, item)


def _dots_and_bars(group: ET.Element, node: ET.Element) -> None:
    said = next((d.text for d in node.iter("desc") if d.get("class") == "label"), None)
    for item in node:
        if item.tag == "circle":
            shape = ET.SubElement(group, "circle", _at(item, "cx", "cy", "r"))
        elif item.tag == "rect" and said:  # pygal draws a bar that is not there as one of 0
            places = _at(item, *_BOX)
            if float(places["width"]) < _THINNEST:
                places["width"] = number_text(_THINNEST)
            shape = ET.SubElement(group, "rect", places)
        else:
            continue
        if said:
            ET.SubElement(shape, "title").text = one_line(said, 120)


def _inside(group: ET.Element, name: str) -> None:
    """Write the name of a part into its bars: colours alone do not tell them apart."""
    shown = one_line(name, LONGEST)
    for bar in [node for node in group if node.tag == "rect"]:
        x, y, width, height = (float(bar.get(key, "0")) for key in _BOX)
        if width > LETTER * len(shown) + MARGIN:
            spot = {"x": number_text(x + width / 2), "y": number_text(y + height / 2 + 4.5)}
            text = ET.SubElement(group, "text", {"text-anchor": "middle", **spot})
            text.text = shown


def _class(node: ET.Element) -> str:
    return str(node.get("class", ""))


def _at(node: ET.Element, *names: str) -> dict[str, str]:
    return {name: number_text(float(node.get(name) or 0)) for name in names}


def _short(path: str) -> str:
    return _NUMBER.sub(lambda found: number_text(float(found[0])), path)
