"""One thing that was looked at in the evidence of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was found.

    Attributes:
        ok: Whether it is as it should be; `None` where that was not asked or cannot be told.
        about: What it is about, in a word or two.
        text: What was seen.
    """

    ok: bool | None
    about: str
    text: str
