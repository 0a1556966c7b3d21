"""Ways in which a test ends without judging the server, told apart by type."""

from __future__ import annotations

from typing import NoReturn

from _pytest.outcomes import Failed, Skipped

SHARED = (
    "this needs the server and its host for itself, and the workers of pytest-xdist share them; "
    "run it without -n"
)


class NotApplicable(Skipped):
    """The requirement does not apply to this server."""


class NotRun(Skipped):
    """Nothing was learnt about the server."""


class Tolerated(NotRun):
    """Nothing was learnt, for how the run is made; only profile `promote` does not allow it."""


class OutOfTime(Tolerated):
    """What is required takes longer on this server than the run allows."""


class NotAlone(Tolerated):
    """What is required shows only while nobody else uses the server, as the workers of xdist do."""

    def __init__(self) -> None:
        super().__init__(f"not run: {SHARED}")


class AfterStop(NotRun):
    """What is required shows only when the server has been stopped; the run judges it then."""


class CapabilityMissing(Failed):
    """The profile declares a capability that the server lacks: the server's fault."""


def not_applicable(reason: str) -> NoReturn:
    """End a check as NOT_APPLICABLE.

    Args:
        reason: What about this server makes the requirement moot, for the report.
    """
    raise NotApplicable(reason)


def not_run(reason: str) -> NoReturn:
    """End a check as NOT_RUN: nothing was learnt about the server.

    Args:
        reason: What stood in the way and what would help, for the report.
    """
    raise NotRun(f"not run: {reason}")


def out_of_time(reason: str) -> NoReturn:
    """End a check as NOT_RUN for want of time, which only profile `promote` does not put up with.

    Args:
        reason: How long it would take, and the option that allows it.
    """
    raise OutOfTime(f"not run: {reason}")


def after_stop() -> NoReturn:
    """Leave a check to the end of the run, which judges it once the server has been stopped."""
    raise AfterStop("judged when the server has been stopped")
