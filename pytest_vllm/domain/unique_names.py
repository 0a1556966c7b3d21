"""Names of which each occurs once: one that is taken gets a number, however often it is wanted."""

from __future__ import annotations


class UniqueNames:
    """The names that were given out, each with the last number that was put behind it.

    No number is tried twice for the same name, so that any number of equal ones costs little.
    """

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def take(self, wanted: str) -> str:
        """Return `wanted`, or the first of `wanted-2`, `wanted-3`, ... that is not taken."""
        name = wanted
        while name in self._numbers:
            self._numbers[wanted] += 1
            name = f"{wanted}-{self._numbers[wanted]}"
        self._numbers[name] = 1
        return name
