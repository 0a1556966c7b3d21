"""What a server says about itself in its log: the figures of a start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Figures out of the log; `None` and empty texts stand for what it does not say.

    Attributes:
        version: Version of vLLM.
    """

    version: str = ""
