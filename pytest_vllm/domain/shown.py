"""The results of a run as a reader is shown them, and as runs are compared by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.checks import CheckResult


def without_start(results: Sequence[CheckResult], *, failed_start: bool) -> tuple[CheckResult, ...]:
    """Return the results without the failed start that the first of them carries.

    The first check that asks for the server gets its failed start as an error. It is told once, as
    the failed start, so that check counts as not run like all others.

    Args:
        results: Those of the run.
        failed_start: Whether its server never became ready.
    """
    if not failed_start:
        return tuple(results)
    return tuple(
        replace(
            result,
            outcome=Outcome.NOT_RUN,
            message="not run: no server became ready",
            duration_s=0.0,
            exchanges=(),
        )
        if result.outcome is Outcome.ERROR and not result.exchanges
        else result
        for result in results
    )
