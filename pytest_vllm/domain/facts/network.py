"""Facts about the network as a container sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What a throw-away container could reach.

    Attributes:
        hub: URL of the model hub.
        resolved: Whether its name was resolved.
        reached: Whether it answered.
        problem: What went wrong, empty when nothing did.
    """

    hub: str = ""
    resolved: bool = False
    reached: bool = False
    problem: str = ""
