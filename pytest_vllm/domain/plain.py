"""Look into plain data that may hold anything, such as a record that somebody edited."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 1e15
"""Nothing that is measured here is larger: bytes, tokens, seconds, watts."""


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, an empty one for all else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """Return a list as it is, an empty one for all else."""
    return list(value) if isinstance(value, list | tuple) else []


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings in a list, none where it is no list."""
    return [item for item in items(value) if isinstance(item, dict)]


def number(value: object) -> float | None:
    """Return a finite number, `None` for all else; `true` is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def measured(value: object) -> float | None:
    """Return a number as something measured can be, `None` for all else.

    Sums and squares of such numbers are numbers again, which those of others need not be.
    """
    found = number(value)
    return found if found is not None and abs(found) <= LARGEST else None


def is_schema(value: object, wanted: int) -> bool:
    """Tell whether a key `schema` names a version; `true` and 1.0 equal 1, and name none."""
    return type(value) is int and value == wanted


def count(value: object) -> int:
    """Return how many of something there are, 0 where that is no number."""
    found = number(value)
    return 0 if found is None else int(found)
