"""Whether a candidate is slower than a base: the gate on figures of whole runs.

The unit is a whole run, never a request or a token. Two forms, and docs/regression-gate.md has
what either was measured to find and to cry wolf at:

- strong, `judge_pairs`: base and candidate in turns on one host (`pair_order`), 6 to 12 pairs;
- weak, `judge_stored`: rounds of this run against those of an earlier one.
"""

from __future__ import annotations

import math
from statistics import fmean, variance
from typing import TYPE_CHECKING

from pytest_vllm.domain import paired
from pytest_vllm.domain.metric_change import Effect, Estimate, Form, Judgement, told, untold
from pytest_vllm.domain.plain import LARGEST
from pytest_vllm.domain.students_t import t_quantile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.metric_change import MetricChange, Rule

FEWEST_PAIRS = 6
"""Five pairs cannot give a p below 0.031, three none below 0.125."""
MOST_PAIRS = 12
STEP = 2
"""Pairs added at a time: whole A B B A blocks."""
ALPHA = 0.025
"""Significance of `worse` and of `better`, Holm over the metrics, at each look."""
BLIND, BLIND_ALPHA = 1.2, 0.01
"""Where what pairs could see, outliers counted, is more than so many tolerances, the tolerance
keeps no chance finding out, and four looks at 0.025 gave 3 % of false alarms: there the smaller one
holds."""
PASS_ALPHA = 0.05
"""One minus the confidence of the bound that must lie inside the tolerance."""
FEWEST_ROUNDS = 5
"""Rounds a side of the weak form."""
STORED_ALPHA = 0.025
"""On each side of the weak form's interval."""
_ENDLESS = math.log(1e6)
"""Log ratio that stands for a figure of nothing against something."""
MISSED = 0.2
"""Share of cases in which the smallest detectable change is missed."""
_MOST_ROUNDS = 40
"""Past it another round narrows an interval by less than 1 %."""
_MOST_REPEATS = 9999
"""More than anyone makes: nothing that can be named."""


def judge_pairs(
    base: Sequence[Mapping[str, float]],
    candidate: Sequence[Mapping[str, float]],
    rules: Sequence[Rule],
) -> Judgement:
    """Judge pairs of runs made in turns, pair i being run i of either side.

    Worse: the Hodges-Lehmann estimate is past the tolerance and the exact signed-rank test says
    that it is no chance. No change: the upper bound is inside the tolerance, and the pairs could
    have shown a change as large as the tolerance. Else it cannot be told, and up to 12 more pairs
    are wanted. A metric that is worse ends it at once.

    Args:
        base: Figures of the base's runs.
        candidate: Those of the candidate's, as many.
        rules: What is gated. A metric that no run has is left out (a p99 of few requests), unless
            its rule says why it should be there: then nothing can be told of it.

    Raises:
        ValueError: The sides have not equally many runs.
    """
    if len(base) != len(candidate):
        raise ValueError(f"{len(base)} runs of the base, {len(candidate)} of the candidate")
    pairs = len(base)
    gated = _gated(base, candidate, rules)
    sides = [(_column(base, rule), _column(candidate, rule)) for rule in gated]
    shifts = [_worsening(rule, *side) for rule, side in zip(gated, sides, strict=True)]
    whole = [shift for shift in shifts if shift]
    p_worse = iter(paired.holm([paired.signed_rank_p(shift) for shift in whole]))
    p_better = iter(paired.holm([paired.signed_rank_p([-d for d in shift]) for shift in whole]))
    changes: list[MetricChange] = []
    for rule, (before, after), shift in zip(gated, sides, shifts, strict=True):
        if shift:
            effect, estimate = _paired(rule, shift, p_worse=next(p_worse), p_better=next(p_better))
            changes.append(told(rule, effect, estimate, base=before, candidate=after))
        else:
            reason = rule.absent or _lacking(before, after)
            changes.append(untold(rule, reason, base=before, candidate=after))
    worse = any(change.effect is Effect.WORSE for change in changes)
    still_open = any(
        change.effect is Effect.CANNOT_TELL and not change.reason for change in changes
    )
    return Judgement(
        form=Form.PAIRS,
        changes=tuple(changes),
        repeats=pairs,
        wants_more=not pairs or (still_open and not worse and pairs < MOST_PAIRS),
    )


def judge_stored(
    base: Sequence[Mapping[str, float]],
    candidate: Sequence[Mapping[str, float]],
    rules: Sequence[Rule],
) -> Judgement:
    """Judge the rounds of a run against those of an earlier one, made at another time.

    Nothing was interleaved, so what the host itself changed in between counts as a change of the
    candidate: hence the wide tolerance, and a whole interval of 95 % that must lie past it.

    Args:
        base: Figures of the earlier run's rounds.
        candidate: Those of this run.
        rules: What is gated, with tolerances of `gated.STORED_TOLERANCE` or more.
    """
    gated = _gated(base, candidate, rules)
    changes: list[MetricChange] = []
    for rule in gated:
        before, after = _column(base, rule), _column(candidate, rule)
        logs = _logs(before), _logs(after)
        if reason := rule.absent or _unfit(before, after):
            few = min(map(len, logs)) < FEWEST_ROUNDS
            wanted = FEWEST_ROUNDS if few and not rule.absent else None
            changes.append(
                untold(rule, reason, base=before, candidate=after, repeats_wanted=wanted)
            )
        else:
            effect, estimate = _stored(rule, *logs)
            changes.append(told(rule, effect, estimate, base=before, candidate=after))
    return Judgement(
        form=Form.STORED, changes=tuple(changes), repeats=min(len(base), len(candidate))
    )


def _gated(
    base: Sequence[Mapping[str, float]],
    candidate: Sequence[Mapping[str, float]],
    rules: Sequence[Rule],
) -> list[Rule]:
    return [
        rule
        for rule in rules
        if rule.absent or any(rule.metric in run for run in (*base, *candidate))
    ]


def _column(runs: Sequence[Mapping[str, float]], rule: Rule) -> list[float | None]:
    """Return a figure of every run; what nobody can have measured is none.

    Raises:
        TypeError: A figure is no number.
    """
    figures = [run.get(rule.metric) for run in runs]
    return [figure if figure is not None and 0 <= figure <= LARGEST else None for figure in figures]


def _worsening(
    rule: Rule, base: Sequence[float | None], candidate: Sequence[float | None]
) -> list[float]:
    """Return by how much each pair is worse, as a log ratio; empty when a run has no figure.

    Nothing against nothing is no change; nothing against something is as bad (or good) as a
    factor of a million.
    """
    shifts = []
    for before, after in zip(base, candidate, strict=True):
        if before is None or after is None:
            return []
        if before > 0 and after > 0:
            shift = math.log(after / before)
        else:
            shift = _ENDLESS * ((after > 0) - (before > 0))
        shifts.append(-shift if rule.bigger_is_better else shift)
    return shifts


def _paired(
    rule: Rule, shifts: Sequence[float], *, p_worse: float, p_better: float
) -> tuple[Effect, Estimate]:
    pairs = len(shifts)
    limit = math.log1p(rule.tolerance)
    shift = paired.hodges_lehmann(shifts)
    low, high = paired.bounds(shifts, alpha=PASS_ALPHA)
    sd = paired.spread(shifts)
    detectable = paired.detectable(sd, pairs)
    blind = paired.detectable(paired.spread(shifts, outliers=True), pairs) > BLIND * limit
    alpha = BLIND_ALPHA if blind else ALPHA
    if pairs < FEWEST_PAIRS:
        effect = Effect.CANNOT_TELL
    elif shift > limit and p_worse <= alpha:
        effect = Effect.WORSE
    elif shift < -limit and p_better <= alpha:
        effect = Effect.BETTER
    elif high < limit and detectable <= limit:
        effect = Effect.NO_CHANGE
    else:
        effect = Effect.CANNOT_TELL
    return effect, Estimate(
        shift=shift,
        low=low,
        high=high,
        detectable=detectable,
        p=p_worse,
        repeats_wanted=_pairs_wanted(sd, shift, limit, pairs),
    )


def _pairs_wanted(sd: float, shift: float, limit: float, pairs: int) -> int | None:
    """Return how many pairs would tell: those that see the tolerance, and on which side it is."""
    distance = min(limit, abs(limit - shift))
    if not distance:
        return None
    wanted = max(paired.pairs_to_tell(sd, distance), FEWEST_PAIRS, pairs + 1)
    wanted += wanted % STEP
    return wanted if wanted <= _MOST_REPEATS else None


def _stored(
    rule: Rule, base: Sequence[float], candidate: Sequence[float]
) -> tuple[Effect, Estimate]:
    """Compare by Welch's interval of the log ratio, each run's level known as well as one round.

    Rounds of one run share its start, its neighbours and its clocks: they tell little of what the
    next run will show. So a level's variance is that of its mean plus that of one round, as if runs
    differed by as much as rounds do. Without that, hosts that drift give 4 to 14 % false alarms.
    """
    limit = math.log1p(rule.tolerance)
    shift = fmean(candidate) - fmean(base)
    shift = -shift if rule.bigger_is_better else shift
    parts = [variance(side) * (1 + 1 / len(side)) for side in (base, candidate)]
    error = math.sqrt(sum(parts))
    freedom = _freedom(parts, [len(base), len(candidate)])
    half = t_quantile(STORED_ALPHA, freedom) * error
    if shift - half > limit:
        effect = Effect.WORSE
    elif shift + half < -limit:
        effect = Effect.BETTER
    elif shift + half < limit:
        effect = Effect.NO_CHANGE
    else:
        effect = Effect.CANNOT_TELL
    noise = math.sqrt((variance(base) + variance(candidate)) / 2)
    return effect, Estimate(
        shift=shift,
        low=shift - half,
        high=shift + half,
        detectable=(t_quantile(STORED_ALPHA, freedom) + t_quantile(MISSED, freedom)) * error,
        repeats_wanted=_rounds_wanted(noise, abs(limit - shift), min(len(base), len(candidate))),
    )


def _rounds_wanted(noise: float, distance: float, rounds: int) -> int | None:
    """Return how many rounds a side have an interval of half a width below a distance."""
    for more in range(max(rounds + 1, FEWEST_ROUNDS), _MOST_ROUNDS + 1):
        error = noise * math.sqrt(2 * (1 + 1 / more))
        if t_quantile(STORED_ALPHA, float(2 * more - 2)) * error < distance:
            return more
    return None


def _freedom(parts: Sequence[float], rounds: Sequence[int]) -> float:
    """Return the degrees of freedom of Welch and Satterthwaite (B. L. Welch, Biometrika 34)."""
    below = sum(part**2 / (n - 1) for part, n in zip(parts, rounds, strict=True))
    return sum(parts) ** 2 / below if below else float(sum(rounds) - 2)


def _logs(figures: Sequence[float | None]) -> list[float]:
    return [math.log(figure) for figure in figures if figure]


def _unfit(base: Sequence[float | None], candidate: Sequence[float | None]) -> str:
    """Say why rounds cannot be compared, empty when they can."""
    if None in base or None in candidate:
        return _lacking(base, candidate)
    if 0 in base or 0 in candidate:
        return "a round has a figure of 0"
    if min(len(base), len(candidate)) < FEWEST_ROUNDS:
        return f"rounds: {len(base)} then, {len(candidate)} now; {FEWEST_ROUNDS} each are needed"
    return ""


def _lacking(base: Sequence[float | None], candidate: Sequence[float | None]) -> str:
    sides = (("base", base), ("candidate", candidate))
    lacking = [
        f"{side.count(None)} of {len(side)} runs of the {name}"
        for name, side in sides
        if None in side
    ]
    return f"no figure in {' and '.join(lacking)}"
