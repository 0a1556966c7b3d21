"""`docs/regression-gate.md`: the rule, and how often it is right, out of what is on record."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.interval import Score
from pytest_vllm.domain.metric_change import Effect
from tools.gate.prose import AFTER, BEFORE, LIMITS, OVERLAPPING, RECORDED, SIMULATED, TRUTH, WEAK
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

    from tools.gate.recorded import Pair, Series

_COUNTED = ("slower by", "comparisons", "worse", "no change", "cannot tell", "better")
_ENOUGH = 20
"""Comparisons below which a share in whole percents would say too much."""
_SHARED = "windows that share no run"
_SLID = "every window of 12 pairs (they overlap)"


@cache
def render() -> str:
    """Return the page."""
    simulated = json.loads((FOLDER / "simulated.json").read_text(encoding="utf-8"))
    parts = [
        BEFORE,
        _short(simulated["rows"]),
        *_truth(),
        *_real(),
        SIMULATED.format(what=simulated["what"]),
        _strong_hosts(simulated["rows"]),
        WEAK,
        _weak_hosts(simulated["rows"]),
        *_weak_recorded(),
        _weak_limits(simulated["rows"]),
        AFTER,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _short(rows: Iterable[dict[str, Any]]) -> str:
    """Return a row for each source: false alarms, and what was found of each slowdown.

    What shares no run comes first and in a table of its own: only its intervals are right.
    """
    truth = {
        name: {factor: tally for factor, (tally, _) in _made(name).items()}
        for name in _truth_files()
    }
    apart = {"**our client, truth server, all**": _pooled(truth.values())}
    apart |= {f"our client, truth server ({name})": found for name, found in truth.items()}
    slid = {}
    for series in read_series():
        name = f"{series.header['what']} ({series.name})"
        apart[name] = {factor: _apart(series.name, factor) for factor in series.factors}
        slid[name] = {factor: _slid(series.name, factor) for factor in series.factors}
    for row in rows:
        if row["form"] == "strong":
            apart.setdefault(f"simulated {row['host']}", {})[row["factor"]] = _tally(row)
    return "\n\n".join((_sources(apart), OVERLAPPING.strip(), _sources(slid)))


def _sources(sources: dict[str, dict[float, Tally]]) -> str:
    cells = []
    for name, found in sources.items():
        same = found[1.0]
        rates = [_found(found, factor) for factor in (1.0, 1.02, 1.05, 1.1)]
        pairs = f"{same.pairs / same.trials:.1f}" if same.trials else "-"
        cells.append((name, str(same.trials), *rates, pairs))
    head = ("source", "A/A", "false alarms", "found of 2 %", "of 5 %", "of 10 %", "pairs of A/A")
    return _table(head, cells)


def _pooled(found: Iterable[dict[float, Tally]]) -> dict[float, Tally]:
    """Return what became of the comparisons of several files together."""
    sums: dict[float, Tally] = {}
    for tallies in found:
        for factor, one in tallies.items():
            before = sums.get(factor, Tally(trials=0, effects=dict.fromkeys(Effect, 0)))
            sums[factor] = Tally(
                trials=before.trials + one.trials,
                effects={effect: before.effects[effect] + one.effects[effect] for effect in Effect},
                pairs=before.pairs + one.pairs,
            )
    return sums


def _found(found: dict[float, Tally], factor: float) -> str:
    tally = found.get(factor)
    return _rate(tally.effects[Effect.WORSE], tally.trials) if tally and tally.trials else "-"


def _truth_files() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("truth*.jsonl"))


@cache
def _made(name: str) -> dict[float, tuple[Tally, float]]:
    """Return what became of a file's comparisons by slowdown, and the minutes of one."""
    found: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for comparison in comparisons(name):
        found[comparison["factor"]].append(comparison)
    made = {}
    for factor, rows in sorted(found.items()):
        effects = [row["effect"] for row in rows]
        counts = {effect: effects.count(effect) for effect in Effect}
        pairs = sum(row["pairs"] for row in rows)
        took = sum(row["seconds"] for row in rows) / len(rows) / 60
        made[factor] = Tally(trials=len(rows), effects=counts, pairs=pairs), took
    return made


def _truth() -> Iterator[str]:
    yield TRUTH
    for name in _truth_files():
        header, _ = read_lines(name)
        yield f"**{name}**: {header['what']}; {header['host']}; {header['date']}."
        rows = [
            (*_cells(factor, tally), f"{tally.pairs / tally.trials:.1f}", f"{took:.2f}")
            for factor, (tally, took) in _made(name).items()
        ]
        yield _table((*_COUNTED, "pairs", "minutes"), rows)


def _real() -> Iterator[str]:
    yield RECORDED
    for series in read_series():
        yield _about(series)
        rows = []
        for factor in series.factors:
            for how, tally in (
                (_SHARED, _apart(series.name, factor)),
                (_SLID, _slid(series.name, factor)),
            ):
                if not tally.trials:
                    continue
                mean = tally.pairs / tally.trials
                took = f"{minutes(series, mean):.2f}"
                rows.append((how, *_cells(factor, tally), f"{mean:.1f}", took))
        yield _table(("windows", *_COUNTED, "pairs", "minutes"), rows)


@cache
def _slid(name: str, factor: float) -> Tally:
    return sliding(_pairs(name, factor), both=factor == 1)


@cache
def _apart(name: str, factor: float) -> Tally:
    return disjoint(_pairs(name, factor), both=factor == 1)


def _pairs(name: str, factor: float) -> list[Pair]:
    (series,) = (one for one in read_series() if one.name == name)
    return pairs_of(series, factor)


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


def _weak_limits(rows: Iterable[dict[str, Any]]) -> str:
    """Say how often an unchanged run cannot be told from another one."""
    seen = {
        f"the simulated {row['host']}": _tally(row)
        for row in rows
        if row["form"] == "weak" and row["factor"] == 1 and " 0 % apart" in row["host"]
    }
    seen |= {
        f"{series.header['what']} ({series.name})": told
        for series in read_series()
        if (told := stored(series, 1.0)).trials >= _ENOUGH
    }
    lines = [
        f"- {name}: {told.effects[Effect.NO_CHANGE] / told.trials:.0%} *no change*, "
        f"{told.effects[Effect.CANNOT_TELL] / told.trials:.0%} *cannot tell*"
        for name, told in seen.items()
    ]
    return LIMITS.strip().format(lines="\n".join(lines))


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
