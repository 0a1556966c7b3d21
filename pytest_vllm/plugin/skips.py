"""Ways in which a test ends without judging the server, told apart by type."""

from __future__ import annotations

from typing import NoReturn

from _pytest.outcomes import Failed, Skipped


class NotApplicable(Skipped):
    """The requirement does not apply to this server."""


class NotRun(Skipped):
    """Nothing was learnt about the server."""


class CapabilityMissing(Failed):
    """The profile declares a capability that the server lacks: the server's fault."""


def not_applicable(reason: str) -> NoReturn:
    """End a check as NOT_APPLICABLE.

    Args:
        reason: What about this server makes the requirement moot, for the report.
    """
    raise NotApplicable(reason)
