"""Words of a comparison that all its renderings share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.check_changes import KINDS
from pytest_vllm.domain.run_comparison import Sameness
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.regression import verdict_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.metric_change import Judgement
    from pytest_vllm.domain.run_comparison import Fact, RunComparison, SideBrief

FACT_HEAD = ("what", "base", "candidate", "same?")
CHECK_HEAD = ("change", "check", "before", "now")
NO_LOAD = "performance: neither side has a load in it, so no figure was compared"
FORCED = (
    "FORCED: these figures were compared although they are not comparable. What follows may show "
    "the difference of the machines or of the work, and not of the candidate; decide nothing by it"
)
CAN_BE_FORCED = "the figures all the same: --force, which says beside each that it was forced"
_LONG, _LONGEST = 200, 1000
_TONES = {0: "good", 1: "bad"}


def outcome_line(found: RunComparison) -> str:
    """Say on one line what became of the run: verdict, checks, then figures."""
    sides = found.base.decision, found.candidate.decision
    parts = [f"verdict: {' -> '.join(side or '-' for side in sides)}"] if any(sides) else []
    parts += [checks_line(found)] if found.checks is not None else []
    parts.append(_figures(found))
    return "; ".join(filter(None, parts))


def checks_line(found: RunComparison) -> str:
    """Count what became of the checks."""
    if found.checks is None:
        return ""
    counted = [f"{found.kinds[kind]} {kind}" for kind in KINDS if found.kinds.get(kind)]
    return f"checks: {', '.join(counted) or 'no change'}"


def performance_line(judgement: Judgement, *, forced: bool) -> str:
    """Say on one line what became of the figures; a forced comparison says so first."""
    if judgement.obstacles:
        return f"not comparable: {judgement.obstacles[0]}"
    return (
        f"FORCED, not comparable: {verdict_line(judgement)}" if forced else verdict_line(judgement)
    )


def headline(found: RunComparison) -> str:
    """Say in two or three words what came of it: `Worse`, `Nothing worse`, `Cannot tell`."""
    return {0: "Nothing is worse", 1: "Worse"}.get(found.exit_code, "Cannot tell")


def run_lines(found: RunComparison) -> list[str]:
    """Say what the runs as a whole make of the outcome, the weightiest first; often nothing."""
    said = [f"WARNING: {doubt}" for doubt in found.doubts]
    said += [f"worse: {why}" for why in found.fell]
    said += [f"cannot tell: {why}" for why in found.open]
    if not found.exit_code and found.candidate.decision == Decision.REJECT:
        said.append("both ended in REJECT: nothing became worse, and neither may be promoted")
    return [one_line(text, _LONGEST) for text in said]


def tone(found: RunComparison) -> str:
    """Return the colour of the whole: what was forced is never good."""
    return "warn" if found.forced else _TONES.get(found.exit_code, "warn")


def side_line(side: SideBrief) -> str:
    """Name a side with what it ended in, and why unless it may be promoted."""
    told = [one_line(side.name, _LONG), side.decision, side.started]
    why = side.reason if side.decision != Decision.PROMOTE else ""
    line = ", ".join(filter(None, told))
    return f"{line}: {one_line(why, _LONG)}" if why else line


def fact_rows(facts: Iterable[Fact], *, only: Sameness | None = None) -> list[tuple[str, ...]]:
    """Return a row for each fact, under `FACT_HEAD`.

    Args:
        facts: What both sides tell.
        only: Which of them; all by default.
    """
    return [
        (
            fact.name,
            one_line(fact.base, _LONG) or "-",
            one_line(fact.candidate, _LONG) or "-",
            fact.same,
        )
        for fact in facts
        if only in (None, fact.same)
    ]


def machine_line(found: RunComparison) -> str:
    """Say whether machine and arguments are the same, as far as both sides tell."""
    if not found.machine:
        return "machine: the files tell nothing of it, so nobody checked that it is the same"
    named: dict[Sameness, list[str]] = {}
    for fact in found.machine:
        named.setdefault(fact.same, []).append(fact.name)
    parts = []
    if differs := named.get(Sameness.DIFFERS):
        parts.append(f"other {', '.join(differs)}")
    if same := named.get(Sameness.SAME):
        parts.append(f"same {', '.join(same)}")
    if unknown := named.get(Sameness.NOT_KNOWN):
        parts.append(f"not told by both: {', '.join(unknown)}")
    return f"machine: {'; '.join(parts)}"


def check_rows(found: RunComparison, most: int | None = None) -> list[tuple[str, ...]]:
    """Return a row for each change of a check, under `CHECK_HEAD`, the worst first."""
    return [
        (change.kind, one_line(change.name, _LONG), change.before or "-", change.after or "-")
        for change in (found.checks or ())[:most]
    ]


def _figures(found: RunComparison) -> str:
    judgement = found.performance
    if judgement is None:
        return "no figures"
    return performance_line(judgement, forced=bool(found.forced))


__all__ = [
    "CAN_BE_FORCED",
    "CHECK_HEAD",
    "FACT_HEAD",
    "FORCED",
    "NO_LOAD",
    "check_rows",
    "checks_line",
    "fact_rows",
    "headline",
    "machine_line",
    "outcome_line",
    "performance_line",
    "run_lines",
    "side_line",
    "tone",
]
