"""Which checks changed between two runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import CheckResult, Outcome, worst
from pytest_vllm.domain.record import Change, Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.record import RunRecord

_BAD = (Outcome.FAIL, Outcome.ERROR)
_ORDER = ("broken", "gone", "new", "fixed")


def compare_checks(baseline: RunRecord, results: Sequence[CheckResult]) -> Comparison:
    """Name the checks that broke, were fixed, are new or are gone since a baseline.

    A check that was not run has no outcome to compare: it counts as absent.
    """
    before = _outcomes(baseline.results)
    after = _outcomes(results)
    changes = [
        Change(name=name, kind=kind, before=before.get(name, ""), after=after.get(name, ""))
        for name in sorted(before.keys() | after.keys())
        if (kind := _kind(before.get(name), after.get(name)))
    ]
    changes.sort(key=lambda change: _ORDER.index(change.kind))
    return Comparison(
        run_id=baseline.run_id, decision=baseline.verdict.decision, changes=tuple(changes)
    )


def _outcomes(results: Sequence[CheckResult]) -> dict[str, Outcome]:
    grouped: dict[str, list[Outcome]] = {}
    for result in results:
        if result.outcome is Outcome.NOT_RUN:
            continue
        grouped.setdefault(result.name, []).append(result.outcome)
    return {name: worst(outcomes) for name, outcomes in grouped.items()}


def _kind(before: Outcome | None, after: Outcome | None) -> str:
    if before is None:
        return "new"
    if after is None:
        return "gone"
    if (before in _BAD) == (after in _BAD):
        return ""
    return "broken" if after in _BAD else "fixed"
