"""Ways in which a test ends without judging the server, told apart by type."""

from __future__ import annotations

from typing import NoReturn

import pytest


class NotApplicable(pytest.skip.Exception):
    """The requirement does not apply to this server."""


class NotRun(pytest.skip.Exception):
    """Nothing was learnt about the server."""


class CapabilityMissing(pytest.fail.Exception):
    """The profile declares a capability that the server lacks: the server's fault."""


def not_applicable(reason: str) -> NoReturn:
    """End a check as NOT_APPLICABLE.

    Args:
        reason: What about this server makes the requirement moot, for the report.
    """
    raise NotApplicable(reason)
