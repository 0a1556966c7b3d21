"""What a defect is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pytest_vllm.simulator.wire import Handler

Break = Callable[[Handler], Handler]
"""Makes a broken handler out of a sound one; what it remembers begins anew with each call."""


class Where(StrEnum):
    """Where a defect sits."""

    WIRE = "wire"
    """In what goes in and out: works in front of any server."""
    ENGINE = "engine"
    """In the simulator's own model: cannot be put in front of another server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One way in which a server can be broken.

    Attributes:
        name: Short name in lower-case words joined by dashes.
        summary: One sentence: what the server does wrong.
        issue: Public issue where a real server did so, such as `vllm#33678`; empty for none.
        breaks: Breaks a handler; `None` when the defect sits in the simulator's engine.
        flaw: Name of the flaw of the simulator's engine, in place of `breaks`.
    """

    name: str
    summary: str
    issue: str = ""
    breaks: Break | None = None
    flaw: str = ""

    @property
    def where(self) -> Where:
        """Where the defect sits."""
        return Where.ENGINE if self.breaks is None else Where.WIRE
