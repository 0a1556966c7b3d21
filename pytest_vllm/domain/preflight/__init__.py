"""Rules over facts: what can be known before anything heavy starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.finding import Finding


class Rule(Protocol):
    """A pure function: facts in, findings out."""

    def __call__(self, facts: LaunchFacts, /) -> Iterable[Finding]:
        """Judge the facts."""
