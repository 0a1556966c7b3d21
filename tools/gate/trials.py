"""Comparisons by the gate's own rule, counted: how often it is right, and at what cost."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.gated import STORED_TOLERANCE, rules_for
from pytest_vllm.domain.metric_change import Effect
from pytest_vllm.domain.pair_order import Side, abba
from pytest_vllm.domain.regression import FEWEST_PAIRS, MOST_PAIRS, STEP, judge_pairs, judge_stored
from tools.gate.noise import figures, series

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_vllm.domain.metric_change import Judgement
    from tools.gate.noise import Noise

Run = dict[str, float]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What so many comparisons ended in.

    Attributes:
        trials: How many there were.
        effects: How many ended in each effect.
        pairs: Pairs (or rounds a side) that they took together.
    """

    trials: int
    effects: dict[Effect, int]
    pairs: int = 0


def tally(trial: Callable[[int], Judgement], trials: int) -> Tally:
    """Make so many comparisons, numbered from 0."""
    count = Tally(trials=trials, effects=dict.fromkeys(Effect, 0))
    for number in range(trials):
        judgement = trial(number)
        count.effects[judgement.effect] += 1
        count.pairs += judgement.repeats
    return count


def sequential(measure: Callable[[Side], Run], *, seed: int) -> Judgement:
    """Compare in turns as `pytest-vllm ab` does: 6 pairs, then 2 more at a time up to 12."""
    order = abba(MOST_PAIRS, seed=seed)
    runs: Mapping[Side, list[Run]] = {side: [] for side in Side}
    pairs = 0
    while True:
        more = STEP if pairs else FEWEST_PAIRS
        for side in order[2 * pairs : 2 * (pairs + more)]:
            runs[side].append(measure(side))
        pairs += more
        base, candidate = runs[Side.BASE], runs[Side.CANDIDATE]
        judgement = judge_pairs(base, candidate, rules_for([*base, *candidate]))
        if not judgement.wants_more:
            return judgement


def simulated_pairs(noise: Noise, factor: float, *, seed: str) -> Callable[[int], Judgement]:
    """Return a comparison in turns on a host with such noise, the candidate slower by a factor."""

    def trial(number: int) -> Judgement:
        host = series(noise, random.Random(f"{seed} {factor} {number}"))  # noqa: S311 - noise
        slower = {Side.BASE: 1.0, Side.CANDIDATE: factor}
        return sequential(lambda side: figures(next(host), slower[side]), seed=number)

    return trial


def simulated_stored(
    noise: Noise, factor: float, *, rounds: int, seed: str
) -> Callable[[int], Judgement]:
    """Return a comparison of rounds with those of another day, on a host with such noise."""

    def trial(number: int) -> Judgement:
        runs = []
        for day, slower in (("then", 1.0), ("now", factor)):
            host = series(noise, random.Random(f"{seed} {day} {factor} {number}"))  # noqa: S311
            runs.append([figures(next(host), slower) for _ in range(rounds)])
        rules = rules_for([*runs[0], *runs[1]], at_least=STORED_TOLERANCE)
        return judge_stored(runs[0], runs[1], rules)

    return trial
