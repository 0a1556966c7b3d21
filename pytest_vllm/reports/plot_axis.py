"""Axes of plots: from where to where, with round numbers in between, and how numbers are told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.plain import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STEPS = (1, 2, 2.5, 5, 10)
_TICKS = 6
_MILLION = 1e6
_FLAT = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A stretch of numbers, in the places at which they are drawn.

    Attributes:
        low: Place of its begin.
        high: Place of its end.
        ticks: Place and label of each tick.
        log: Whether a place is the logarithm of its number.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, number: float) -> float:
        """Return where a number is drawn; what no logarithmic axis holds is at its begin."""
        if not self.log:
            return number
        return math.log10(number) if number > 0 else self.low

    def tell(self, number: float) -> str:
        """Say a number as its tick does."""
        names = {place: label for place, label in self.ticks if place == self.place(number)}
        return next(iter(names.values()), told(number))


def axis_over(
    numbers: Sequence[float],
    *,
    log: bool = False,
    zero: bool = False,
    ticks: Mapping[float, str] | None = None,
    tight: bool = False,
) -> Axis:
    """Return the axis for some numbers.

    Args:
        numbers: What is drawn on it, each fit for it by `is_drawable`; at least one.
        log: Whether it is logarithmic.
        zero: Whether it has to hold 0 (where it is not logarithmic).
        ticks: Labels by number; round numbers by default.
        tight: Whether it ends at the last number, else at the next tick.
    """
    places = [math.log10(number) if log else float(number) for number in numbers]
    if zero and not log:
        places.append(0.0)
    low, high = min(places), max(places)
    if high - low <= _FLAT * max(1.0, abs(low), abs(high)):
        room = 0.5 if log or abs(high) < _FLAT else abs(high) / 2
        low, high = low - room, high + room
    if ticks is not None:
        known = [(n, str(label)) for n, label in ticks.items() if is_drawable(n, log=log)]
        marked = [(math.log10(n) if log else float(n), label) for n, label in known]
    else:
        marked = _log_ticks(low, high) if log else _round_ticks(low, high)
    if not tight and not log and ticks is None:
        low, high = min(low, marked[0][0]), max(high, marked[-1][0])
    shown = [(place, label) for place, label in marked if low <= place <= high]
    return Axis(low=low, high=high, ticks=tuple(shown), log=log)


def is_drawable(number: object, *, log: bool = False) -> bool:
    """Tell whether something is a number that a plot can hold."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return abs(number) <= LARGEST and math.isfinite(number) and (not log or number > _FLAT)


def told(number: float) -> str:
    """Say a number with three digits or more, large ones with separators."""
    if round(abs(number)) >= _MILLION:
        return f"{_digits(number / _MILLION, 4)} million"
    return _digits(number, 3) if number else "0"


def _digits(number: float, least: int) -> str:
    """Write a number with so many digits, or all that stand before the point."""
    if abs(float(f"{number:.{least}g}")) < 10**least:
        return f"{number:,.{least}g}"
    return f"{number:,.0f}"


def _round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return ticks from below the lowest to above the highest number, at round numbers."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * s for s in _STEPS if power * s >= raw * (1 - _FLAT))
    first, last = math.floor(low / step + _FLAT), math.ceil(high / step - _FLAT)
    return [(number * step, _label(number * step, step)) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return ticks at powers of ten, and at 2 and 5 times those where few fit."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    times: tuple[int, ...] = (1, 2, 5) if high - low <= 2.5 else (1,)  # noqa: PLR2004 - decades
    if high - low < 0.5:  # noqa: PLR2004 - less than from 1 to 3
        times = (1, 2, 3, 4, 5, 6, 7, 8, 9)
    every = max(1, len(decades) // _TICKS)
    return [(math.log10(m) + d, told(m * 10.0**d)) for d in decades[::every] for m in times]


def _label(number: float, step: float) -> str:
    if abs(number) >= _MILLION:
        return f"{_digits(number / _MILLION, 6)}M"
    digits = max(0, -math.floor(math.log10(step) + _FLAT))
    if round(step, digits) != step:  # a step of 2.5
        digits += abs(step * 10**digits - round(step * 10**digits)) > _FLAT
    return f"{number:,.{min(digits, 9)}f}" if number else "0"
