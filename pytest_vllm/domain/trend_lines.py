"""Many runs in the order of time: which of them may be joined by a line, and where each stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.rounds import mean_of
from pytest_vllm.domain.stored import GPUS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_vllm.domain.rounds import Mean
    from pytest_vllm.domain.run_brief import LevelBrief, RunBrief

METRICS = ("output_tokens_per_s", "ttft_p50_ms", "tpot_p50_ms")
"""What is shown unless it is said otherwise: what every comparison looks at."""
_WORK = ("workload", "prompts")
"""Conditions of a load that change its figures; how many requests were sent depends on how fast the
server was when the rounds were sized, and is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendRun:
    """A run in a trend.

    Attributes:
        name: Name of its evidence folder.
        brief: What it came to.
        link: Address of its report, relative to the page; empty for none.
    """

    name: str
    brief: RunBrief
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPoint:
    """A figure of a run.

    Attributes:
        place: Which of all runs it is, from 0, the oldest first.
        mean: The figure over the rounds of the compared level.
    """

    place: int
    mean: Mean


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendLine:
    """A figure of runs that may be compared: same machine, model, arguments and load.

    Attributes:
        name: What tells this line from others of its subject.
        conditions: What is the same of all its runs.
        points: One for each run, the oldest first.
    """

    name: str
    conditions: Mapping[str, str]
    points: tuple[TrendPoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendSubject:
    """A model on GPUs: what a reader looks for.

    Attributes:
        model: The model.
        gpus: The GPUs, empty where none are known.
        runs: How many runs have a load of it.
        metrics: By figure the lines that show it.
    """

    model: str
    gpus: str
    runs: int
    metrics: Mapping[str, tuple[TrendLine, ...]]


def trend_of(runs: Sequence[TrendRun], metrics: Sequence[str] = METRICS) -> list[TrendSubject]:
    """Return the lines of runs, the subject with the most runs first.

    Args:
        runs: All runs, the oldest first.
        metrics: Names of figures.
    """
    subjects: dict[tuple[str, str], dict[tuple[tuple[str, str], ...], list[int]]] = {}
    for place, run in enumerate(runs):
        level = run.brief.compared
        if level is not None:
            key = tuple(_conditions(run.brief, level).items())
            lines = subjects.setdefault((run.brief.model, run.brief.gpus), {})
            lines.setdefault(key, []).append(place)
    found = [
        TrendSubject(
            model=model,
            gpus=gpus,
            runs=sum(map(len, lines.values())),
            metrics={metric: _lines(runs, lines, metric) for metric in metrics},
        )
        for (model, gpus), lines in subjects.items()
    ]
    return sorted(found, key=lambda subject: (-subject.runs, subject.model, subject.gpus))


def mean_in(run: RunBrief, metric: str) -> Mean | None:
    """Return a figure of a run's compared level over its rounds, `None` where it has none."""
    values = run.compared.figures.get(metric) if run.compared is not None else None
    return mean_of(values) if values else None


def _conditions(run: RunBrief, level: LevelBrief) -> dict[str, str]:
    """Return what must be the same for a line to join two runs."""
    work = {name: level.conditions.get(name, "") for name in _WORK}
    return {**run.facts, "level": level.name, **work}


def _lines(
    runs: Sequence[TrendRun],
    lines: Mapping[tuple[tuple[str, str], ...], Sequence[int]],
    metric: str,
) -> tuple[TrendLine, ...]:
    conditions = [dict(key) for key in lines]
    found = []
    for own, places in zip(conditions, lines.values(), strict=True):
        points = tuple(
            TrendPoint(place=place, mean=mean)
            for place in places
            if (mean := mean_in(runs[place].brief, metric)) is not None
        )
        if points:
            found.append(TrendLine(name=_name(own, conditions), conditions=own, points=points))
    return tuple(found)


def _name(own: Mapping[str, str], conditions: Sequence[Mapping[str, str]]) -> str:
    """Return what tells a line from the others: `driver 6.16.9, level c16`."""
    apart = {
        name: values
        for name in dict.fromkeys(name for other in conditions for name in other)
        if name != GPUS and len(values := {other.get(name, "") for other in conditions}) > 1
    }
    told = [_apart(name, own.get(name, ""), values) for name, values in apart.items()]
    return ", ".join(told) or f"{own.get('workload') or 'load'} at {own['level']}"


def _apart(name: str, own: str, values: Collection[str]) -> str:
    """Return in what a condition differs from the others: of arguments only those that differ."""
    if not own:
        return f"{name} not known"
    parts = {value: _parts(value) for value in values if value}
    common = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    short = {
        value: " ".join(part for part in found if part not in common)
        for value, found in parts.items()
    }
    if len(set(short.values())) < len(short):
        return f"{name} {own}"  # the order tells them apart
    return f"{name} {short[own]}" if short[own] else f"no other {name}"


def _parts(value: str) -> list[str]:
    """Split what is an argument each: words that begin with a dash, with those that follow."""
    parts: list[str] = []
    for word in value.split():
        if parts and not word.startswith("-"):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return parts
