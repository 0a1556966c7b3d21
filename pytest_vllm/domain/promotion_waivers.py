"""What the waivers of a run hold against a promotion."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.refusal import AGAIN, Refusal
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import RunRecord, WaiverUse


def waiver_refusals(record: RunRecord, today: dt.date) -> Iterator[Refusal]:
    """Say what speaks against a run because of its waivers, or of what nobody waived.

    Args:
        record: The run.
        today: The day in UTC; a waiver counts to the end of its last one.
    """
    where = f"profile {one_line(record.rules.profile)}" if record.rules else "the profile"
    for waiver in record.waivers:
        needed = any(r.outcome is Outcome.WAIVED and _covers(waiver, r) for r in record.results)
        yield from _of_waiver(waiver, today, where, needed=needed)
    for result in record.results:
        if result.outcome is Outcome.WAIVED and not any(
            _covers(waiver, result) for waiver in record.waivers
        ):
            yield Refusal(
                message=f"{one_line(result.name)} is waived, but the run has no waiver of it",
                cure=AGAIN,
            )


def _covers(waiver: WaiverUse, result: CheckResult) -> bool:
    """Tell whether a waiver says that it waived a result, and is one of its check."""
    return result.name in waiver.waived and waiver.check in (result.check.id, result.name)


def _of_waiver(waiver: WaiverUse, today: dt.date, where: str, *, needed: bool) -> Iterator[Refusal]:
    name = one_line(waiver.check)
    missing = [key for key in ("reason", "link") if not getattr(waiver, key).strip()]
    if missing:
        yield Refusal(
            message=f"the waiver of {name} has no {' and no '.join(missing)}",
            cure=f"write {' and '.join(missing)} in {where}, and run the acceptance again",
        )
    try:
        last = dt.date.fromisoformat(waiver.expires)
    except ValueError:
        yield Refusal(
            message=f"the waiver of {name} expires on {one_line(waiver.expires)!r}, which is "
            "no date",
            cure=f"write expires = YYYY-MM-DD in {where}, and run the acceptance again",
        )
        return
    if last < today:
        yield Refusal(
            message=f"the waiver of {name} expired on {last} (today is {today})",
            cure=f"mend what it waived ({one_line(waiver.link)}), or renew it in {where}, and "
            "run the acceptance again",
        )
    if not needed:
        yield Refusal(
            message=f"the waiver of {name} was not needed: "
            f"{one_line(waiver.note) or 'no check failed that it waives'}",
            cure=f"remove it from {where}, and run the acceptance again",
        )
