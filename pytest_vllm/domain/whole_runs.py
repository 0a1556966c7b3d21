"""What two runs as a whole say of each other: verdicts, starts, and checks that went missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.check_changes import lost_checks, unanswered
from pytest_vllm.domain.shown import without_start
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.domain.record import Change, RunRecord

_NAMED, _LONG = 5, 300


def fell(base: RunRecord | None, candidate: RunRecord | None) -> Iterator[str]:
    """Say in what the candidate as a whole is worse than the base."""
    if base is None or candidate is None or candidate.verdict.decision is not Decision.REJECT:
        return
    before, after = base.verdict.decision, candidate.verdict.decision
    if before is Decision.PROMOTE:
        yield f"the base ended in {before}, the candidate in {after}: {weightiest(candidate)}"
    elif base.failure is None and candidate.failure is not None:
        yield f"the server of the base started, the candidate's did not: {weightiest(candidate)}"


def unsettled(
    base: RunRecord | None, candidate: RunRecord | None, changes: Sequence[Change]
) -> Iterator[str]:
    """Say why the candidate may be worse although nothing was seen to be.

    Args:
        base: The earlier run, `None` for a load alone.
        candidate: The later one.
        changes: What became of the checks.
    """
    if candidate is None:
        return
    after = candidate.verdict.decision
    known = base.verdict.decision if base is not None else None
    if after is Decision.INCONCLUSIVE:
        yield f"the candidate ended in {after}: {weightiest(candidate)}"
    elif after is Decision.REJECT and known in (None, Decision.INCONCLUSIVE):
        of_base = f"the base in {known}" if known is not None else "the base has no verdict"
        yield f"the candidate ended in {after}, {of_base}: {weightiest(candidate)}"
    if silent := unanswered(changes):
        have = "check has" if len(silent) == 1 else "checks have"
        yield f"{len(silent)} {have} no answer now: {_listed(silent)}"
    if base is not None:
        results = without_start(candidate.results, failed_start=candidate.failure is not None)
        if lost := lost_checks(base, results):
            yield _lost(lost, candidate.deselected)


def weightiest(record: RunRecord) -> str:
    """Return the first reason of the verdict on one line."""
    return one_line(next(iter(record.verdict.reasons), "") or "no reason is given", _LONG)


def _lost(names: Sequence[str], deselected: Sequence[str]) -> str:
    left_out = sum(name.partition("[")[0] in set(deselected) for name in names)
    meant = f" ({left_out} of them left out by who ran it)" if left_out else ""
    what = "check that passed was" if len(names) == 1 else "checks that passed were"
    return f"{len(names)} MUST {what} not shown again{meant}: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(one_line(name, _LONG) for name in names[:_NAMED]) + more
