"""What became of a metric between two sides of a comparison, as plain data for the record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


_LARGEST = math.log(1e300)


class Effect(StrEnum):
    """What became of a metric."""

    WORSE = "worse"
    BETTER = "better"
    NO_CHANGE = "no change"
    CANNOT_TELL = "cannot tell"


class Form(StrEnum):
    """How two sides were compared."""

    PAIRS = "interleaved pairs"
    STORED = "stored baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A metric that a gate looks at.

    Attributes:
        metric: Name of the figure, also of one level of many: `level/metric`.
        tolerance: By what share it may become worse.
        bigger_is_better: Whether a larger figure is the better one.
        asked: A smaller tolerance that was asked for, which this form cannot hold; or none.
        absent: Why nothing can be told when no run has the figure; empty leaves it out then.
    """

    metric: str
    tolerance: float
    bigger_is_better: bool = False
    asked: float | None = None
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """What became of one metric, and how surely.

    All ratios are candidate over base in the metric's own direction: 0.95 of a throughput is
    worse, 0.95 of a latency is better.

    Attributes:
        metric: Name of the figure.
        effect: The result.
        tolerance: By what share it may become worse, see `at_worst`.
        bigger_is_better: Whether a larger figure is the better one.
        base: Median of the base's runs, `None` without figures.
        candidate: Median of the candidate's runs.
        ratio: Estimate of candidate over base, `None` where there is none.
        low: Lower bound of the ratio (strong form 95 % each side; weak form 95 % both), or none.
        high: Upper bound.
        p: Adjusted p-value of being worse, `None` in the weak form.
        detectable: Smallest change, as a share, that this noise and these repeats find in 80 % of
            cases (MDE80).
        repeats: Pairs, or the rounds of the side that has fewer.
        repeats_wanted: How many would tell, `None` when it told or no number would.
        reason: Why nothing can be told, in words; empty when the figures speak.
        asked: A smaller tolerance that was asked for, which this form cannot hold; or none.
    """

    metric: str
    effect: Effect
    tolerance: float
    bigger_is_better: bool = False
    base: float | None = None
    candidate: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    detectable: float | None = None
    repeats: int = 0
    repeats_wanted: int | None = None
    reason: str = ""
    asked: float | None = None

    @property
    def at_worst(self) -> float:
        """The ratio that is just allowed; 10 % of a throughput allow 1 / 1.1 of it.

        A tolerance is of the time that work takes, whichever way a figure counts it.
        """
        return 1 / (1 + self.tolerance) if self.bigger_is_better else 1 + self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a comparison says.

    Attributes:
        form: How it was made.
        changes: Each gated metric.
        repeats: Pairs, or rounds of the side that has fewer.
        wants_more: Whether more pairs may still tell (strong form, fewer than 12).
        obstacles: Why the two sides cannot be compared at all; then there are no changes.
    """

    form: Form
    changes: tuple[MetricChange, ...] = ()
    repeats: int = 0
    wants_more: bool = False
    obstacles: tuple[str, ...] = ()

    @property
    def effect(self) -> Effect:
        """The weightiest: worse, then cannot tell, then no change, then better."""
        effects = {change.effect for change in self.changes}
        for effect in (Effect.WORSE, Effect.CANNOT_TELL, Effect.NO_CHANGE, Effect.BETTER):
            if effect in effects and not self.obstacles:
                return effect
        return Effect.CANNOT_TELL


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A shift to the worse, as a log ratio, and how well it is known.

    Attributes:
        shift: The estimate; above 0 the candidate is worse.
        low: Lower bound, minus infinity for none.
        high: Upper bound, infinity for none.
        detectable: Shift that this noise and these repeats find in 80 % of cases.
        p: Adjusted p-value of being worse.
        repeats_wanted: How many repeats would tell, `None` when none need.
    """

    shift: float
    low: float
    high: float
    detectable: float
    p: float | None = None
    repeats_wanted: int | None = None


def told(
    rule: Rule,
    effect: Effect,
    estimate: Estimate,
    *,
    base: Sequence[float | None],
    candidate: Sequence[float | None],
) -> MetricChange:
    """Write an estimate as a change of the metric, in its own direction."""
    sign = -1 if rule.bigger_is_better else 1
    low, high = sorted((sign * estimate.low, sign * estimate.high))
    return MetricChange(
        metric=rule.metric,
        effect=effect,
        tolerance=rule.tolerance,
        bigger_is_better=rule.bigger_is_better,
        base=middle(base),
        candidate=middle(candidate),
        ratio=_ratio(sign * estimate.shift),
        low=_ratio(low),
        high=_ratio(high),
        p=estimate.p,
        detectable=math.expm1(estimate.detectable) if estimate.detectable < _LARGEST else None,
        repeats=min(len(base), len(candidate)),
        repeats_wanted=estimate.repeats_wanted if effect is Effect.CANNOT_TELL else None,
        asked=rule.asked,
    )


def _ratio(log: float) -> float | None:
    """Return a log ratio as a ratio, `None` where it is endless or beyond all numbers."""
    return math.exp(log) if -math.inf < log < _LARGEST else None


def untold(
    rule: Rule,
    reason: str,
    *,
    base: Sequence[float | None],
    candidate: Sequence[float | None],
    repeats_wanted: int | None = None,
) -> MetricChange:
    """Return the change of a metric of which nothing can be told."""
    return MetricChange(
        metric=rule.metric,
        effect=Effect.CANNOT_TELL,
        tolerance=rule.tolerance,
        bigger_is_better=rule.bigger_is_better,
        base=middle(base),
        candidate=middle(candidate),
        repeats=min(len(base), len(candidate)),
        repeats_wanted=repeats_wanted,
        reason=reason,
        asked=rule.asked,
    )


def middle(figures: Sequence[float | None]) -> float | None:
    """Return the median of the figures that there are, `None` for none."""
    there = [figure for figure in figures if figure is not None]
    return median(there) if there else None
