"""Earlier forms of `run.json`, and how each becomes the present one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEMA = 2
"""Version of the form that is written."""

Document = dict[str, Any]


def upgrade(document: Mapping[str, Any], *, where: str) -> Document:
    """Return a parsed `run.json` in the present form, without its key `schema`.

    Args:
        document: The parsed file.
        where: Name of the file for error messages.

    Raises:
        TargetError: It names no schema, or one that this version does not know.
        ValueError: It has a key that its schema has not; what that meant is not guessed.
    """
    found = document.get("schema")
    if isinstance(found, bool) or not isinstance(found, int) or found < min(_STEPS):
        raise TargetError(
            f"{where} is not a run record: its key schema is {one_line(repr(found), 60)}",
            advice="name a run.json that pytest-vllm wrote, or its folder",
        )
    if found > SCHEMA:
        raise TargetError(
            f"{where} was written by a newer pytest-vllm: its schema is "
            f"{one_line(str(found), 60)}, and this version knows those up to {SCHEMA}",
            advice="upgrade pytest-vllm",
        )
    current = {key: value for key, value in document.items() if key != "schema"}
    for version in range(found, SCHEMA):
        current = _STEPS[version](current)
    return current


def _from_1(document: Document) -> Document:
    """Schema 1 knew neither rules, waivers nor materials; their absence says so."""
    for name in _NEW_IN_2:
        if name in document:
            raise ValueError(f"run has {name!r}, which schema 1 has not")
    return document


_NEW_IN_2 = ("rules", "waivers", "materials")


_STEPS: Mapping[int, Callable[[Document], Document]] = {1: _from_1}
"""What makes the next form out of each earlier one."""
