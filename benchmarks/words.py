"""How figures and tables are written."""

from __future__ import annotations

import textwrap
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def prose(*paragraphs: str) -> list[str]:
    """Return paragraphs as lines of at most 100 characters."""
    return [line for text in paragraphs for line in textwrap.wrap(text, 100) or [""]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    return [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def middle(rows: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
    """Return the median of a figure, empty where no row tells it."""
    values = [row[name] for row in rows if name in row]
    return f"{median(values):,.{digits}f}" if values else ""


def spread(values: Sequence[float]) -> str:
    """Return a median with the least and the most."""
    if not values:
        return ""
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"
