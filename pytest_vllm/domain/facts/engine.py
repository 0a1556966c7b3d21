"""Facts about the Docker engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """The engine as it describes itself.

    Attributes:
        endpoint: URL of the endpoint.
        source: What named it.
        problem: Why it cannot be used, empty when it can.
        version: Version of the engine.
    """

    endpoint: str = ""
    source: str = ""
    problem: str = ""
    version: str = ""
