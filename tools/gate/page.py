"""`docs/regression-gate.md`: the rule, and how often it is right, out of what is on record."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.interval import Score
from pytest_vllm.domain.metric_change import Effect
from tools.gate.prose import AFTER, BEFORE, RECORDED, SIMULATED, TRUTH, WEAK
from tools.gate.recorded import (
    FOLDER,
    comparisons,
    disjoint,
    minutes,
    pairs_of,
    read_lines,
    read_series,
    sliding,
    spreads,
    stored,
)
from tools.gate.trials import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tools.gate.recorded import Series

_COUNTED = ("slower by", "comparisons", "worse", "no change", "cannot tell", "better")
_SHARED = "windows that share no run"
_SLID = "every window of 12 pairs"


@cache
def render() -> str:
    """Return the page."""
    simulated = json.loads((FOLDER / "simulated.json").read_text(encoding="utf-8"))
    parts = [
        BEFORE,
        *_truth(),
        *_real(),
        SIMULATED.format(what=simulated["what"]),
        _strong_hosts(simulated["rows"]),
        WEAK,
        _weak_hosts(simulated["rows"]),
        *_weak_recorded(),
        AFTER,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _truth() -> Iterator[str]:
    yield TRUTH
    for path in sorted(FOLDER.glob("truth*.jsonl")):
        header, _ = read_lines(path.name)
        found: dict[float, list[dict[str, Any]]] = defaultdict(list)
        for comparison in comparisons(path.name):
            found[comparison["factor"]].append(comparison)
        yield f"**{path.name}**: {header['what']}; {header['host']}; {header['date']}."
        rows = []
        for factor, made in sorted(found.items()):
            effects = [row["effect"] for row in made]
            counts = {effect: effects.count(effect) for effect in Effect}
            pairs = sum(row["pairs"] for row in made)
            tally = Tally(trials=len(made), effects=counts, pairs=pairs)
            took = sum(row["seconds"] for row in made) / len(made) / 60
            rows.append((*_cells(factor, tally), f"{pairs / len(made):.1f}", f"{took:.2f}"))
        yield _table((*_COUNTED, "pairs", "minutes"), rows)


def _real() -> Iterator[str]:
    yield RECORDED
    for series in read_series():
        yield _about(series)
        rows = []
        for factor in series.factors:
            pairs = pairs_of(series, factor)
            for how, tally in (
                (_SHARED, disjoint(pairs, both=factor == 1)),
                (_SLID, sliding(pairs, both=factor == 1)),
            ):
                if not tally.trials:
                    continue
                mean = tally.pairs / tally.trials
                took = f"{minutes(series, mean):.1f}"
                rows.append((how, *_cells(factor, tally), f"{mean:.1f}", took))
        yield _table(("windows", *_COUNTED, "pairs", "minutes"), rows)


def _about(series: Series) -> str:
    header = series.header
    told = "; ".join(str(header[key]) for key in ("what", "load", "host", "date") if key in header)
    noise = ", ".join(
        f"{name} CV {cv:.1%}, lag-1 correlation {memory:.2f}, outliers {outliers:.1%}"
        for name, (cv, memory, outliers) in spreads(series).items()
    )
    return f"**{series.name}**: {told}. {len(series.rows)} runs. At full speed: {noise}."


def _strong_hosts(rows: Iterable[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        if row["form"] == "strong":
            mean = row["repeats"] / row["trials"]
            cells.append((row["host"], *_cells(row["factor"], _tally(row)), f"{mean:.1f}"))
    return _table(("host", *_COUNTED, "pairs"), cells)


def _weak_hosts(rows: Iterable[dict[str, Any]]) -> str:
    """Return a row for each host: what it says at no change, and what of each slowdown."""
    hosts: dict[str, dict[float, Tally]] = defaultdict(dict)
    for row in rows:
        if row["form"] == "weak":
            hosts[row["host"]][row["factor"]] = _tally(row)
    asked = (
        (1.0, Effect.WORSE),
        (1.0, Effect.NO_CHANGE),
        (1.1, Effect.NO_CHANGE),
        (1.2, Effect.NO_CHANGE),
        (1.2, Effect.WORSE),
        (1.3, Effect.WORSE),
        (1.5, Effect.WORSE),
    )
    head = [f"{effect} at {100 * (factor - 1):.0f} %" for factor, effect in asked]
    cells = [
        (
            host,
            *(
                _rate(found[factor].effects[effect], found[factor].trials)
                for factor, effect in asked
            ),
        )
        for host, found in hosts.items()
    ]
    return _table(("host", *head), cells)


def _tally(row: dict[str, Any]) -> Tally:
    effects = {Effect(effect): number for effect, number in row["effects"].items()}
    return Tally(trials=row["trials"], effects=effects, pairs=row["repeats"])


def _weak_recorded() -> Iterator[str]:
    rows = [
        (series.name, *_cells(factor, tally))
        for series in read_series()
        for factor in series.factors
        if (tally := stored(series, factor)).trials
    ]
    if rows:
        yield "Rounds of the recorded series of real vLLM, five against five of a later time:"
        yield _table(("series", *_COUNTED), rows)


def _cells(factor: float, tally: Tally) -> tuple[str, ...]:
    effects = (Effect.WORSE, Effect.NO_CHANGE, Effect.CANNOT_TELL, Effect.BETTER)
    counts = [_rate(tally.effects[effect], tally.trials) for effect in effects]
    return (f"{100 * (factor - 1):.0f} %", str(tally.trials), *counts)


def _rate(number: int, trials: int) -> str:
    """Return a rate with Wilson's interval of 95 %."""
    low, high = Score(right=number, total=trials).interval
    return f"{100 * number / trials:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
