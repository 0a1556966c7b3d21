"""What a report of test cases has beyond the results: the verdict, and checks without a result.

A reader of cases alone (Jenkins, a dashboard) must not see a green run where the verdict is not
PROMOTE: a server that died, a run that was ended early, a waiver that nobody needs and checks that
nobody ran are reasons that no case of a check tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.facts import shown_results

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

NAME = "verdict"
"""Of the case and of its suite."""
NO_RESULT = "the profile wants a result of this check, and it has none"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictCase:
    """The verdict as a case of its own.

    Attributes:
        outcome: `FAIL` where the image is rejected, `ERROR` where nobody knows.
        message: The weightiest reason.
        reasons: All of them, a line each.
    """

    outcome: Outcome
    message: str
    reasons: str


def verdict_case(record: RunRecord) -> VerdictCase | None:
    """Return the verdict as a case, `None` where the other cases say the same.

    A record whose results do not bear its verdict always has one; so the case is never a pass, for
    PROMOTE without a check that passed is such a record.
    """
    decision, reasons = record.verdict.decision, record.verdict.reasons
    if doubted := doubts(record):
        return VerdictCase(
            outcome=Outcome.ERROR, message=doubted[0], reasons="\n".join([*doubted, *reasons])
        )
    if decision is Decision.PROMOTE or record.failure is not None:
        return None
    outcome = Outcome.FAIL if decision is Decision.REJECT else Outcome.ERROR
    if any(
        result.outcome is outcome and result.check.level is Level.MUST
        for result in shown_results(record)
    ):
        return None
    first = next(iter(reasons), "no reason is given")
    return VerdictCase(outcome=outcome, message=f"{decision}: {first}", reasons="\n".join(reasons))


def missing_checks(record: RunRecord) -> tuple[str, ...]:
    """Return the IDs of the checks that must have a result and are in no case."""
    there = {result.check.id for result in record.results}
    required = record.rules.required if record.rules is not None else ()
    return tuple(name for name in dict.fromkeys(required) if name not in there)
