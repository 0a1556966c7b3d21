"""What became of a run since another one: machine, checks and figures, as one plain result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.check_changes import WORSE, compare_checks
from pytest_vllm.domain.metric_change import Effect
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.run_brief import brief_record
from pytest_vllm.domain.shown import without_start
from pytest_vllm.domain.stored import GPUS, compare_performance, figures_of, overruled
from pytest_vllm.domain.whole_runs import fell, unsettled, weightiest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.metric_change import Judgement
    from pytest_vllm.domain.record import Change, RunRecord
    from pytest_vllm.domain.run_brief import RunBrief

NAMES = ("the base", "the candidate")
_WORSE, _OPEN = 1, 75


class Sameness(StrEnum):
    """Whether a fact is the same on both sides."""

    SAME = "same"
    DIFFERS = "differs"
    NOT_KNOWN = "not known"
    """At least one side does not tell it, so that nobody can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: What a reader calls it: its path, and the run that it is of.
        performance: Its loads, as in `RunRecord.performance`; empty for none.
        facts: What must be the same on both sides for figures to be compared.
        record: The run, `None` for a load alone.
    """

    name: str
    performance: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    record: RunRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A fact of both sides.

    Attributes:
        name: What it is, in words.
        base: Of the base, empty when it is not known.
        candidate: Of the candidate.
        same: Whether it is the same.
    """

    name: str
    base: str
    candidate: str
    same: Sameness


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBrief:
    """What a reader is told of a side.

    Attributes:
        name: What it is called.
        run_id: The run, empty for a load alone.
        started: When it began, in ISO 8601; empty for a load alone.
        decision: What it ended in; empty for a load alone.
        reason: The weightiest reason for that.
    """

    name: str
    run_id: str = ""
    started: str = ""
    decision: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRounds:
    """A compared figure of every round of both sides, for a plot.

    Attributes:
        metric: Name of the figure.
        base: Its values.
        candidate: Its values.
    """

    metric: str
    base: tuple[float, ...]
    candidate: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """All that a comparison says; every rendering is made of it alone.

    Attributes:
        base: The earlier side.
        candidate: The later one.
        machine: What must be the same for figures to be compared: GPUs, driver, model and its
            content, arguments, ...
        others: What may differ, often on purpose: image, version, host, variables.
        doubts: Why what a side says of itself cannot be, a sentence each.
        fell: Why the candidate is worse as a whole, whatever became of single checks.
        open: Why nobody can say that it is not worse, a sentence each.
        checks: What became of the checks, `None` where one side has none.
        performance: What became of the figures, `None` where neither side has a load.
        forced: Obstacles that were overruled: with any of them, no figure can be trusted.
        could_be_forced: Whether there are obstacles, and all of them could be overruled.
        rounds: The compared figures of every round.
    """

    base: SideBrief
    candidate: SideBrief
    machine: tuple[Fact, ...] = ()
    others: tuple[Fact, ...] = ()
    doubts: tuple[str, ...] = ()
    fell: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    checks: tuple[Change, ...] | None = None
    performance: Judgement | None = None
    forced: tuple[str, ...] = ()
    could_be_forced: bool = False
    rounds: tuple[MetricRounds, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 nothing is worse, 1 something is, 75 it cannot be told."""
        effect = None if self.performance is None else self.performance.effect
        broke = any(change.kind in WORSE for change in self.checks or ())
        if effect is Effect.WORSE or broke or self.fell:
            return _WORSE
        if self.open or self.doubts:
            return _OPEN
        if effect is Effect.CANNOT_TELL or (effect is None and self.checks is None):
            return _OPEN
        return 0

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many checks changed in each way."""
        return Counter(change.kind for change in self.checks or ())


def compare_runs(
    base: Side,
    candidate: Side,
    *,
    allowed: Mapping[str, float] | None = None,
    force: bool = False,
) -> RunComparison:
    """Compare two sides.

    Args:
        base: The earlier one.
        candidate: The later one.
        allowed: Allowed change by metric, as a share.
        force: Whether figures are compared in spite of what differs.
    """
    sides = base.performance, candidate.performance
    facts = base.facts, candidate.facts
    judgement = compare_performance(*sides, facts=facts, allowed=allowed, names=NAMES, force=force)
    over = overruled(*sides, facts=facts, names=NAMES) if judgement else ()
    checks = None
    if base.record is not None and candidate.record is not None:
        failed = candidate.record.failure is not None
        results = without_start(candidate.record.results, failed_start=failed)
        checks = compare_checks(base.record, results).changes
    return RunComparison(
        base=_told(base),
        candidate=_told(candidate),
        machine=tuple(_pairs(*facts)),
        others=tuple(
            fact
            for fact in _pairs(_others(base), _others(candidate))
            if fact.base or fact.candidate
        ),
        doubts=tuple(_doubts(base, candidate)),
        fell=tuple(fell(base.record, candidate.record)),
        open=tuple(unsettled(base.record, candidate.record, checks or ())),
        checks=checks,
        performance=judgement,
        forced=over if force else (),
        could_be_forced=bool(over) and not force,
        rounds=tuple(_rounds(*sides, judgement)) if judgement else (),
    )


def _doubts(base: Side, candidate: Side) -> Iterator[str]:
    for name, side in zip(NAMES, (base, candidate), strict=True):
        for doubt in doubts(side.record) if side.record is not None else ():
            yield f"{name}: {doubt}"


def _told(side: Side) -> SideBrief:
    if side.record is None:
        return SideBrief(name=side.name)
    return SideBrief(
        reason=weightiest(side.record),
        name=side.name,
        run_id=side.record.run_id,
        started=side.record.started,
        decision=side.record.verdict.decision,
    )


def _pairs(base: Mapping[str, str], candidate: Mapping[str, str]) -> Iterator[Fact]:
    for name in dict.fromkeys((*base, *candidate)):
        before, after = base.get(name, ""), candidate.get(name, "")
        known = Sameness.SAME if before == after else Sameness.DIFFERS
        same = known if before and after else Sameness.NOT_KNOWN
        if name == GPUS and bool(before) is not bool(after):
            same = Sameness.DIFFERS  # one side ran on the CPU, or nobody looked: not comparable
        yield Fact(name=name, base=before, candidate=after, same=same)


def _others(side: Side) -> dict[str, str]:
    if side.record is None:
        return {}
    run: RunBrief = brief_record(side.record)
    values = {item.name: item.value for item in side.record.settings}
    variables = values.get("env")
    return {
        "image": run.image,
        "image digest": run.address,
        "vLLM": run.version,
        "backend": side.record.backend,
        "profile": run.profile,
        "variables": " ".join(map(str, variables)) if isinstance(variables, list | tuple) else "",
        "host": str(side.record.environment.get("host") or ""),
    }


def _rounds(
    before: Mapping[str, Any], after: Mapping[str, Any], judgement: Judgement
) -> Iterator[MetricRounds]:
    base, candidate = figures_of(before, after)
    for change in judgement.changes:
        yield MetricRounds(
            metric=change.metric,
            base=tuple(run[change.metric] for run in base if change.metric in run),
            candidate=tuple(run[change.metric] for run in candidate if change.metric in run),
        )
