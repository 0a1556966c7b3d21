"""Facts about the model, read from its files on this host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The model as its files describe it.

    Attributes:
        asked: As the user named it.
        cached: Whether its files are on this host, complete.
        weights_bytes: Size of all weights, from files or from the table of known models.
    """

    asked: str
    cached: bool = False
    weights_bytes: int | None = None
