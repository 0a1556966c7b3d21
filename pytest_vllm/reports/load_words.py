"""Numbers of a load as a person reads them: a latency with its interval, or why there is none."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.load.measurement import Distribution, Percentile

NAMES = {
    "ttft": "TTFT",
    "ttft_sched": "TTFT sched.",
    "ttft_content": "TTFT cont.",
    "tpot": "TPOT",
    "itl": "ITL",
    "icl": "ICL",
    "stall": "worst stall",
    "e2el": "E2EL",
    "e2el_sched": "E2EL sched.",
    "e2e_close": "close",
    "normalized": "E2EL/token",
}
"""Names of the metrics in tables."""

MEANINGS = {
    "ttft_sched": "sched.: counted from when the request was due",
    "ttft_content": "cont.: to the first content after the reasoning",
    "icl": "ICL: gap between two events",
    "stall": "worst stall: longest gap of a request",
    "e2e_close": "close: to the end of the body",
    "normalized": "E2EL/token: E2EL for each token written",
}
"""What is not said by a name."""

_SECOND_MS = 1000.0
_MICRO_MS = 0.1
_WHOLE, _ONE, _TWO = 1000.0, 100.0, 10.0
_LABEL = 12


def unit_of(distribution: Distribution) -> tuple[str, float]:
    """Choose the unit of a row: its name and how many of it a millisecond is."""
    size = distribution.mean or 0.0
    if size >= _SECOND_MS:
        return "s", 1e-3
    return ("us", 1e3) if 0 < size < _MICRO_MS else ("ms", 1.0)


def number(value: float) -> str:
    """Write a number with about four digits that say something."""
    size = abs(value)
    if size >= _WHOLE or not size:
        return f"{value:,.0f}"
    digits = 1 if size >= _ONE else 2 if size >= _TWO else 3
    return f"{value:.{digits}f}"


def cell(told: Percentile, scale: float, *, had: int) -> str:
    """Write a percentile with its interval of 95 %, or how many requests of how many it has."""
    if told.value is None:
        return f"refused: {had} of {told.needs}"
    low = "" if told.low is None else number(told.low * scale)
    high = "" if told.high is None else number(told.high * scale)
    return f"{number(told.value * scale)} [{low}-{high}]"


def milliseconds(value: float) -> str:
    """Write a time."""
    if value >= _SECOND_MS:
        return f"{number(value / _SECOND_MS)} s"
    return f"{number(value)} ms"


def paragraph(label: str, text: str, width: int) -> list[str]:
    """Write a text beside a label, its further lines below its first."""
    return textwrap.wrap(
        text,
        width=width,
        initial_indent=f"{label:<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_on_hyphens=False,
    )


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lay out rows, the first columns to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if n < left else text.rjust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def slo_words(slo: Mapping[str, float]) -> str:
    """Say what a good request keeps."""
    names = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2el_ms": "E2EL", "stall_ms": "stall"}
    return ", ".join(f"{names.get(name, name)} <= {most:g} ms" for name, most in slo.items())
