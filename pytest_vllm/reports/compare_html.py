"""A comparison as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.run_comparison import Sameness
from pytest_vllm.reports import compare_words as words
from pytest_vllm.reports.change_plot import changes_plot
from pytest_vllm.reports.page import render
from pytest_vllm.reports.plots import Line, Point, Words, drawn, line_plot
from pytest_vllm.reports.regression import (
    HEAD,
    cannot_tell,
    change_cells,
    estimate_note,
    figure,
    share,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.domain.metric_change import MetricChange
    from pytest_vllm.domain.run_comparison import MetricRounds, RunComparison
    from pytest_vllm.reports.plots import Plot

_MOST_CHECKS = 5_000
_MOST_PLOTS = 24


def compare_html(found: RunComparison) -> str:
    """Write a comparison as one self-contained page."""
    judgement = found.performance
    changes = judgement.changes if judgement is not None else ()
    checks = found.checks or ()
    return render(
        "compare.html",
        tone=words.tone(found),
        headline=words.headline(found),
        found=found,
        sides=[
            ("Base", words.side_line(found.base)),
            ("Candidate", words.side_line(found.candidate)),
        ],
        outcome=words.outcome_line(found),
        of_runs=words.run_lines(found),
        machine_line=words.machine_line(found),
        fact_head=words.FACT_HEAD,
        machine=words.fact_rows(found.machine),
        others=words.fact_rows(found.others),
        differs=any(fact.same is Sameness.DIFFERS for fact in found.machine),
        checks_line=words.checks_line(found),
        check_head=words.CHECK_HEAD,
        checks=words.check_rows(found, _MOST_CHECKS),
        unsaid=max(0, len(checks) - _MOST_CHECKS),
        judgement=judgement,
        performance_line=words.performance_line(judgement, forced=bool(found.forced))
        if judgement is not None
        else words.NO_LOAD,
        forced_words=words.FORCED,
        can_be_forced=words.CAN_BE_FORCED if found.could_be_forced else "",
        change_head=HEAD,
        estimate=estimate_note(judgement.form) if judgement is not None else "",
        changes=[change_cells(change, forced=bool(found.forced)) for change in changes],
        untold=[
            f"{change.metric}: {said}"
            for change in changes
            if judgement is not None and (said := cannot_tell(change, judgement.form))
        ],
        plots=list(_plots(found)),
    )


def _plots(found: RunComparison) -> Iterator[Plot]:
    changes = found.performance.changes if found.performance is not None else ()
    yield from drawn(changes_plot(changes, forced=bool(found.forced)))
    by_metric = {rounds.metric: rounds for rounds in found.rounds}
    for change in changes[:_MOST_PLOTS]:
        if rounds := by_metric.get(change.metric):
            yield from drawn(_rounds_plot(change, rounds, forced=bool(found.forced)))


def _rounds_plot(change: MetricChange, rounds: MetricRounds, *, forced: bool) -> Plot | None:
    """Draw every round of both sides: what the interval was made of.

    The change stands apart from the two medians, for it is none between them.
    """
    better = "higher" if change.bigger_is_better else "lower"
    moved = f": estimated {share(change.ratio)}" if change.ratio is not None else ""
    text = (
        f"{'FORCED. ' if forced else ''}{change.effect}{moved}; median {figure(change.base)} of "
        f"the base, {figure(change.candidate)} of the candidate; {better} is better"
    )
    sides = (("base", rounds.base), ("candidate", rounds.candidate))
    lines = [
        Line(
            name=name,
            points=[
                Point(x=number, y=value, label=f"{name}, round {number}: {figure(value)}")
                for number, value in enumerate(values, start=1)
            ],
        )
        for name, values in sides
    ]
    most = max(len(rounds.base), len(rounds.candidate))
    marks = _allowed(change)
    return line_plot(
        change.metric,
        lines,
        x="round",
        y=change.metric,
        words=Words(text=text, head=("round", "base", "candidate"), rows=_rows(rounds, most)),
        marks=marks,
        from_zero=False,
        ticks={float(n): str(n) for n in range(1, most + 1)} if most <= _FEW else None,
    )


_FEW = 20


def _allowed(change: MetricChange) -> dict[str, float]:
    """Return the base's median and what it may become at worst."""
    if change.base is None:
        return {}
    return {"base's median": change.base, "allowed": change.base * change.at_worst}


def _rows(rounds: MetricRounds, most: int) -> Sequence[tuple[str, ...]]:
    def cell(values: Sequence[float], number: int) -> str:
        return figure(values[number]) if number < len(values) else "-"

    return [
        (str(number + 1), cell(rounds.base, number), cell(rounds.candidate, number))
        for number in range(most)
    ]
