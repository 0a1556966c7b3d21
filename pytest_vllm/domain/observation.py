"""What a run saw of a server without judging it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One thing that was seen.

    Attributes:
        name: What was looked at.
        value: What was seen.
    """

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A reply that a person should read.

    Attributes:
        title: What the request was.
        prompt: What the model was asked.
        text: What it wrote.
    """

    title: str
    prompt: str
    text: str
