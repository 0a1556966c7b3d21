"""What a token event costs: CPU without what a client takes to start and to end."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SURE = 3.0
"""How many times larger than the spread of the fixed cost a cost must be to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What a client costs whatever its work is, CPU seconds.

    Attributes:
        whole_s: For one request of two tokens, from its start to its end.
        after_s: Of that, from its first request on.
        spread_s: Between the least and the most of the latter, or without it of the former.
    """

    whole_s: float = 0.0
    after_s: float = 0.0
    spread_s: float = 0.0

    @classmethod
    def of(cls, idle: Sequence[Mapping[str, Any]]) -> Fixed:
        """Reckon it from a client's measurements without work."""
        if not idle:
            return cls()
        whole = [row["cpu_s"] for row in idle]
        after = [row["cpu_s"] - row.get("start_cpu_s", 0.0) for row in idle]
        return cls(whole_s=median(whole), after_s=median(after), spread_s=max(after) - min(after))

    def work_s(self, row: Mapping[str, Any]) -> float:
        """Return the CPU seconds of a measurement that its work took."""
        if "start_cpu_s" in row:
            return float(row["cpu_s"] - row["start_cpu_s"] - self.after_s)
        return float(row["cpu_s"] - self.whole_s)


def event_us(rows: Sequence[Mapping[str, Any]], idle: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return a client's CPU microseconds for each event, by measurement.

    Empty where they cannot be told from how much its fixed cost varies.
    """
    fixed = Fixed.of(idle)
    work = [fixed.work_s(row) for row in rows]
    if not work or median(work) <= SURE * fixed.spread_s:
        return []
    return [took / row["events"] * 1e6 for took, row in zip(work, rows, strict=True)]


def slope_us(few: Sequence[Mapping[str, Any]], many: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the CPU microseconds of one more event, from less work to more, median of rounds.

    What a start takes is in both, so this stands also where that varies; `None` without both.
    """
    before = {row["round"]: row for row in few}
    slopes: list[float] = [
        (row["cpu_s"] - before[row["round"]]["cpu_s"])
        / (row["events"] - before[row["round"]]["events"])
        * 1e6
        for row in many
        if row["round"] in before and row["events"] > before[row["round"]]["events"]
    ]
    return median(slopes) if slopes else None
