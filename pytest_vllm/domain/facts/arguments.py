"""Facts about the flags that a server knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpFacts:
    """What the help of a server says.

    Attributes:
        version: Version of vLLM, empty when unknown.
        source: Where it was read, such as the cache or a container.
    """

    version: str = ""
    source: str = ""
