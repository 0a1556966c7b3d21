"""Values of a `config.json`, which comes from anywhere: one of the wrong type counts as absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 2**53
"""Above it a JSON number is not exact any more."""


def count(value: object) -> int | None:
    """Return a whole number above zero, else `None`."""
    if isinstance(value, float) and value.is_integer() and value < LARGEST:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < LARGEST:
        return None
    return value


def is_impossible(value: object) -> bool:
    """Tell whether a value is a number that counts nothing: below zero, or a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not (value >= 0 and (isinstance(value, int) or value.is_integer()))


def first(table: Mapping[str, object], *keys: str) -> int | None:
    """Return the first whole number above zero that one of the keys holds."""
    return next((found for key in keys if (found := count(table.get(key))) is not None), None)


def number(value: object) -> float | None:
    """Return a finite number, else `None`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None


def flag(table: Mapping[str, object], key: str, *, default: bool = False) -> bool:
    """Return a truth value; anything but one counts as absent."""
    value = table.get(key)
    return value if isinstance(value, bool) else default


def text(value: object) -> str:
    """Return a text, empty for anything else."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> tuple[str, ...]:
    """Return the texts of a list."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def table(value: object) -> dict[str, object]:
    """Return an object, empty for anything else."""
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def round_up(value: int, step: int) -> int:
    """Return the least multiple of the step that is not below the value."""
    return -(-value // step) * step
