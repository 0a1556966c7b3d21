"""What a plot is made of, as data: the plot itself, points and lines, bars, bands, words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot, and the same for those who do not see it.

    Attributes:
        title: What is shown, for a heading.
        svg: An inline `<svg>` without script, style, IDs or anything remote; safe as it is.
        text: What it shows, in a sentence.
        head: Head of the table with the same figures.
        rows: Its rows.
    """

    title: str
    svg: str
    text: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of a line.

    Attributes:
        x: Where.
        y: How much, `None` for a gap in the line.
        low: Lower end of its interval, `None` for none.
        high: Upper end.
        label: What a pointer over it tells; by default both values.
    """

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot.

    Attributes:
        name: What it is.
        points: Its points from left to right; pairs of two numbers do as well.
        joined: Whether a line goes through them.
        filled: Whether the area below is shaded.
    """

    name: str
    points: Sequence[Point | tuple[float, float | None]]
    joined: bool = True
    filled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A stretch of the x axis that is shaded and named.

    Attributes:
        low: From where.
        high: To where.
        name: What it is.
    """

    low: float
    high: float
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar.

    Attributes:
        name: What stands beside it.
        value: Its length.
        start: Where it begins, for spans of time.
        group: Bars of one group have one colour, and the legend names it.
        label: What a pointer over it tells; by default the value.
    """

    name: str
    value: float
    start: float = 0.0
    group: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a plot says besides the drawing.

    Attributes:
        text: What it shows, in a sentence.
        head: Head of the table with the same figures.
        rows: Its rows.
    """

    text: str
    head: tuple[str, ...] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)
