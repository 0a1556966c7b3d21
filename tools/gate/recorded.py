"""What the gate says of series of real runs that are on record in `tests/data/gate/`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.gated import STORED_TOLERANCE, rules_for
from pytest_vllm.domain.regression import FEWEST_PAIRS, MOST_PAIRS, STEP, judge_pairs, judge_stored
from tools.gate.trials import Tally, tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.domain.metric_change import Judgement, Rule

FOLDER = Path(__file__).parents[2] / "tests" / "data" / "gate"
ROUNDS = 5
Run = dict[str, float]
Pair = tuple[Run, Run]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run of a series.

    Attributes:
        factor: How much its server was slowed down on purpose.
        block: Its block: one run of each factor, in random order.
        seconds: How long it took.
        figures: What it measured.
    """

    factor: float
    block: int
    seconds: float
    figures: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Runs on one server, one after the other.

    Attributes:
        name: Name of its file.
        header: What, where and when.
        rows: The runs in the order of time.
    """

    name: str
    header: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def factors(self) -> list[float]:
        """Every slowdown that it has."""
        return sorted({row.factor for row in self.rows})


def read_lines(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the header and the rows of a file of the folder."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return json.loads(lines[0])["header"], [json.loads(line) for line in lines[1:]]


@cache
def read_series() -> tuple[Series, ...]:
    """Return every recorded series of real vLLM."""
    found = []
    for path in sorted(FOLDER.glob("*vllm*.jsonl")):
        header, lines = read_lines(path.name)
        rows = tuple(
            Row(
                factor=line["factor"],
                block=line["block"],
                seconds=line["seconds"],
                figures=line["figures"],
            )
            for line in lines
            if line["figures"]  # a run in which a request failed has none
        )
        found.append(Series(name=path.name, header=header, rows=rows))
    return tuple(found)


def pairs_of(series: Series, factor: float) -> list[Pair]:
    """Return a pair out of each block: a run at full speed, and one slowed down by a factor.

    At factor 1 they are the block's two runs at full speed. A block's runs are neighbours in
    random order, so a pair is one of a randomized A B or B A. Where every block is one run at full
    speed, runs are taken in the order A B B A.
    """
    if series.factors == [1] and len({row.block for row in series.rows}) == len(series.rows):
        runs = [row.figures for row in series.rows]
        halves = zip(runs[::2], runs[1::2], strict=False)
        return [pair if place % 2 == 0 else pair[::-1] for place, pair in enumerate(halves)]
    blocks: dict[int, list[Row]] = {}
    for row in series.rows:
        blocks.setdefault(row.block, []).append(row)
    pairs: list[Pair] = []
    for rows in blocks.values():
        base = [row.figures for row in rows if row.factor == 1]
        slow = base[1:] if factor == 1 else [r.figures for r in rows if r.factor == factor]
        if base and slow:
            pairs.append((base[0], slow[0]))
    return pairs


def sequential(pairs: Sequence[Pair], *, swapped: bool = False) -> Judgement:
    """Judge pairs as `pytest-vllm ab` does: the first 6, then 2 more at a time up to 12."""
    judgement = None
    for count in range(FEWEST_PAIRS, MOST_PAIRS + 1, STEP):
        sides = [list(side) for side in zip(*pairs[:count], strict=True)]
        base, candidate = reversed(sides) if swapped else sides
        judgement = judge_pairs(base, candidate, _rules([*base, *candidate]))
        if not judgement.wants_more:
            break
    assert judgement is not None  # noqa: S101 - the range is not empty
    return judgement


def _rules(runs: Sequence[Run], *, at_least: float = 0.0) -> list[Rule]:
    """Return the rules for the figures that a record keeps: a series may be of one alone."""
    return [rule for rule in rules_for(runs, at_least=at_least) if not rule.absent]


def disjoint(pairs: Sequence[Pair], *, both: bool) -> Tally:
    """Judge windows that share no run, each as long as its comparison needed.

    Args:
        pairs: All pairs, in the order of time.
        both: Whether each window is judged a second time with its sides swapped (A/A only).
    """
    trials: list[Judgement] = []
    start = 0
    while start + MOST_PAIRS <= len(pairs):
        window = pairs[start : start + MOST_PAIRS]
        here = [sequential(window)]
        if both:
            here.append(sequential(window, swapped=True))
        trials += here
        start += max(judgement.repeats for judgement in here)
    return tally(trials.__getitem__, len(trials))


def sliding(pairs: Sequence[Pair], *, both: bool) -> Tally:
    """Judge every window of 12 pairs; neighbours share most of their runs."""
    windows = [pairs[at : at + MOST_PAIRS] for at in range(len(pairs) - MOST_PAIRS + 1)]
    trials = [sequential(window) for window in windows]
    if both:
        trials += [sequential(window, swapped=True) for window in windows]
    return tally(trials.__getitem__, len(trials))


def stored(series: Series, factor: float) -> Tally:
    """Judge five rounds in a row against five of another time, for every two of such times.

    The later five are the candidate's. Times overlap in no run.
    """
    base = _groups(series, 1.0)
    slow = _groups(series, factor)
    trials = [
        judge_stored(then, now, _rules([*then, *now], at_least=STORED_TOLERANCE))
        for place, then in enumerate(base)
        for now in slow[place + 1 :]
    ]
    return tally(trials.__getitem__, len(trials))


def _groups(series: Series, factor: float) -> list[list[Run]]:
    runs = [row.figures for row in series.rows if row.factor == factor]
    if factor == 1:
        sound = [row for row in series.rows if row.factor == 1]
        first = {row.block: row for row in reversed(sound)}
        runs = [first[block].figures for block in dict.fromkeys(row.block for row in sound)]
    return [runs[at : at + ROUNDS] for at in range(0, len(runs) - ROUNDS + 1, ROUNDS)]


def spreads(series: Series) -> dict[str, tuple[float, float, float]]:
    """Return for each metric its CV, its lag-1 correlation and the share of outliers, at factor 1.

    An outlier is more than 4 standard deviations (by the median absolute deviation) off.
    """
    rows = [row.figures for row in series.rows if row.factor == 1]
    return {name: _spread([math.log(row[name]) for row in rows]) for name in rows[0]}


def _spread(logs: Sequence[float]) -> tuple[float, float, float]:
    mean, middle = fmean(logs), median(logs)
    squares = math.fsum((x - mean) ** 2 for x in logs)
    steps = math.fsum((a - mean) * (b - mean) for a, b in pairwise(logs))
    robust = 1.4826 * median(abs(x - middle) for x in logs)
    outliers = sum(abs(x - middle) > 4 * robust for x in logs) / len(logs)
    return math.sqrt(squares / (len(logs) - 1)), steps / squares, outliers


def minutes(series: Series, pairs: float) -> float:
    """Return how many minutes so many pairs took."""
    return 2 * pairs * fmean(row.seconds for row in series.rows) / 60


def comparisons(name: str) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of a file of `tools.gate.collect`, each judged anew."""
    header, lines = read_lines(name)
    for line in lines:
        sides: dict[str, list[Run]] = {"A": [], "B": []}
        for side, run in zip(line["order"], line["runs"], strict=True):
            sides[side].append(dict(zip(header["metrics"], run, strict=True)))
        base, candidate = sides["A"], sides["B"]
        judgement = judge_pairs(base, candidate, _rules([*base, *candidate]))
        yield {**line, "effect": judgement.effect, "pairs": judgement.repeats}
