"""Which checks changed between two runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import CheckResult, Level, Outcome, worst
from pytest_vllm.domain.record import Change, Comparison
from pytest_vllm.domain.shown import without_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.record import RunRecord

_ANSWERS = (Outcome.PASS, Outcome.NOT_APPLICABLE, Outcome.WAIVED, Outcome.FAIL)
"""Outcomes that say something of the image; of an error and of what was not run nobody knows."""
NEW_FAILING = "new and failing"
NO_ANSWER = "no answer"
WORSE = (NEW_FAILING, "broken", "unwaived")
"""Kinds for which a candidate is worse."""
KINDS = (*WORSE, NO_ANSWER, "gone", "waived", "changed", "level", "new", "fixed")
"""Kinds of changes, the worst first. `new and failing` had no answer before, fails and is a MUST;
`broken` fails and did not; `unwaived` fails, and a waiver put up with it before; `no answer` is an
error or was not run, so that nobody knows; `gone` is not there any more; `waived` fails, and a
waiver puts up with it now; `changed` applied before or applies now; `level` weighs another way
(MUST, SHOULD); `new` had no answer before; `fixed` passes and failed, waived or not. Records of
earlier versions know neither `new and failing`, only `new`, nor `no answer`, which was `broken` or
`gone` there."""


def compare_checks(baseline: RunRecord, results: Sequence[CheckResult]) -> Comparison:
    """Name the checks that changed since a baseline, see `KINDS`."""
    before = outcomes_of(_shown(baseline))
    after = outcomes_of(results)
    must = {result.name for result in results if result.check.level is Level.MUST}
    changes = [
        Change(name=name, kind=kind, before=before.get(name, ""), after=after.get(name, ""))
        for name in sorted(before.keys() | after.keys())
        if (kind := _kind(before.get(name), after.get(name), must=name in must))
    ]
    changes += _other_levels(baseline.results, results)
    changes.sort(key=lambda change: KINDS.index(change.kind))
    return Comparison(
        run_id=baseline.run_id, decision=baseline.verdict.decision, changes=tuple(changes)
    )


def lost_checks(baseline: RunRecord, results: Sequence[CheckResult]) -> tuple[str, ...]:
    """Name the MUST checks that passed in the baseline and that this run does not have.

    They are not there any more, or need a capability that the server does not show any more.
    """
    after = outcomes_of(results)
    must = {r.name: r.check for r in baseline.results if r.check.level is Level.MUST}
    return tuple(
        name
        for name, outcome in sorted(outcomes_of(_shown(baseline)).items())
        if outcome is Outcome.PASS
        and name in must
        and (name not in after or (after[name] is Outcome.NOT_APPLICABLE and must[name].needs))
    )


def _shown(baseline: RunRecord) -> tuple[CheckResult, ...]:
    return without_start(baseline.results, failed_start=baseline.failure is not None)


def outcomes_of(results: Sequence[CheckResult]) -> dict[str, Outcome]:
    """Return the worst outcome of each name: what failed once did, whatever else became of it."""
    grouped: dict[str, list[Outcome]] = {}
    for result in results:
        grouped.setdefault(result.name, []).append(result.outcome)
    return {name: _told(outcomes) for name, outcomes in grouped.items()}


def unanswered(changes: Sequence[Change]) -> tuple[str, ...]:
    """Name the checks of which nobody knows any more what they would come to."""
    return tuple(change.name for change in changes if change.kind == NO_ANSWER)


def _told(outcomes: Sequence[Outcome]) -> Outcome:
    ran = [outcome for outcome in outcomes if outcome is not Outcome.NOT_RUN]
    return Outcome.FAIL if Outcome.FAIL in ran else worst(ran or outcomes)


def _kind(before: Outcome | None, after: Outcome | None, *, must: bool) -> str:
    if after not in _ANSWERS:
        return _unknown(before, after)
    if before not in _ANSWERS:
        return NEW_FAILING if must and after is Outcome.FAIL else "new"
    return "" if before is after else _other(before, after)


def _other(before: Outcome | None, after: Outcome | None) -> str:
    """Name what became of a check that had one answer and has another one."""
    if after is Outcome.FAIL:
        return "unwaived" if before is Outcome.WAIVED else "broken"
    if after is Outcome.WAIVED:
        return "waived"
    if after is Outcome.PASS and before in (Outcome.FAIL, Outcome.WAIVED):
        return "fixed"
    return "changed"


def _unknown(before: Outcome | None, after: Outcome | None) -> str:
    """Name what became of a check without an answer; of one that never had any nothing did."""
    if after is None:
        return "" if before in (None, Outcome.NOT_RUN) else "gone"
    first = before is None and after is Outcome.ERROR
    return NO_ANSWER if first or before in _ANSWERS else ""


def _other_levels(before: Sequence[CheckResult], after: Sequence[CheckResult]) -> list[Change]:
    """Name checks of both runs that weigh another way now, each once and not each of its cases."""
    then: dict[str, Level] = {result.check.id: result.check.level for result in before}
    now: dict[str, Level] = {result.check.id: result.check.level for result in after}
    return [
        Change(name=name, kind="level", before=then[name], after=now[name])
        for name in sorted(then.keys() & now.keys())
        if then[name] is not now[name]
    ]
