"""A trend over many runs as a page."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.text import one_line
from pytest_vllm.reports import trend_words as words
from pytest_vllm.reports.page import render
from pytest_vllm.reports.plot_frame import LONGEST
from pytest_vllm.reports.plots import Line, Point, Words, line_plot
from pytest_vllm.reports.run_list import image_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.trend_lines import TrendLine, TrendRun, TrendSubject
    from pytest_vllm.reports.plots import Plot
    from pytest_vllm.reports.trend_words import Trend

_MOST_SUBJECTS = 12
_MOST_LINES = 6
"""As many as can be told apart in one plot."""
_MOST_INTERVALS = 120
"""With more points in a line, the bars of their intervals would be a smear."""
_TICKS = 6
_LONGEST_NAME = 300
_HOURS_UNTIL = dt.timedelta(days=3)
_LAST = {"PROMOTE": "good", "REJECT": "bad", "INCONCLUSIVE": "warn"}


def trend_html(trend: Trend) -> str:
    """Write a trend as one self-contained page."""
    subjects = trend.subjects()
    newest = list(reversed(trend.runs))
    return render(
        "trend.html",
        tone=_LAST[newest[0].brief.decision.value] if newest else "info",
        summary=words.summary_line(trend),
        choice=trend.choice,
        unreadable=words.unreadable_line(trend),
        history=[_mark(run) for run in trend.runs],
        subjects=[_subject(subject, trend) for subject in subjects[:_MOST_SUBJECTS]],
        unsaid=max(0, len(subjects) - _MOST_SUBJECTS),
        head=words.head(trend),
        rows=[(run.link, run.brief.reason, words.cells(run, trend)) for run in newest],
    )


def _mark(run: TrendRun) -> dict[str, str]:
    decision = run.brief.decision.value
    image = image_words(run.brief)
    said = f"{decision}, {run.name}, {run.brief.started:%Y-%m-%d %H:%M}{image and f', {image}'}"
    return {"said": said, "tone": _LAST[decision], "letter": decision[0], "link": run.link}


def _subject(subject: TrendSubject, trend: Trend) -> dict[str, Any]:
    found = [_plot(metric, lines, trend.runs) for metric, lines in subject.metrics.items()]
    return {
        "name": words.subject_name(subject),
        "runs": subject.runs,
        "plots": [plot for plot in found if plot is not None],
    }


def _plot(metric: str, lines: Sequence[TrendLine], runs: Sequence[TrendRun]) -> Plot | None:
    by_size = sorted(lines, key=lambda line: -len(line.points))
    left = len(by_size) - _MOST_LINES
    kept = [line for line in lines if line in by_size[:_MOST_LINES]]
    if not kept:
        return None
    points = sum(len(line.points) for line in kept)
    said = [
        f"{points} {'run' if points == 1 else 'runs'} in the order of time",
        "a line joins runs of the same machine, model, arguments and load"
        if points > 1
        else "one point is no trend yet",
    ]
    if left > 0:
        said.append(f"{left} lines with fewer runs are in the table only")
    names = [line.name for line in kept]
    if len(names) > 1 and max(map(len, names)) > LONGEST:
        names = [f"{number}: {name}" for number, name in enumerate(names, start=1)]
        said += [one_line(name, _LONGEST_NAME) for name in names]
    return line_plot(
        metric,
        [
            _line(name, line, runs, spread=points <= _MOST_INTERVALS)
            for name, line in zip(names, kept, strict=True)
        ],
        x="run",
        y=metric,
        words=Words(text="; ".join(said)),
        ticks=_ticks(kept, runs),
        from_zero=False,  # a change of 5 % has to be seen; the intervals say what it is worth
    )


def _line(name: str, line: TrendLine, runs: Sequence[TrendRun], *, spread: bool) -> Line:
    return Line(
        name=name,
        points=[
            Point(
                x=float(point.place),
                y=point.mean.value,
                low=point.mean.low if spread else None,
                high=point.mean.high if spread else None,
                label=_label(runs[point.place], words.mean_words(point.mean)),
            )
            for point in line.points
        ],
    )


def _label(run: TrendRun, value: str) -> str:
    """Say which image it was and when: the digest names it where there is one."""
    digest = run.brief.digest.removeprefix("sha256:")[:12]
    when = f"{run.brief.started:%Y-%m-%d}"
    which = f"image ID {digest}" if run.brief.is_id else digest
    return f"{value}, {which or run.name[:22]}, {when}"


def _ticks(lines: Sequence[TrendLine], runs: Sequence[TrendRun]) -> dict[float, str]:
    """Return times for some of the places that are shown, as exact as their span needs."""
    places = sorted({point.place for line in lines for point in line.points})
    first, last = (runs[places[end]].brief.started for end in (0, -1))
    form = "%Y-%m-%d" if first.year != last.year else "%m-%d"
    if last - first < _HOURS_UNTIL:
        form = "%m-%d %H:%M"
    shown = places[:: max(1, -(-len(places) // _TICKS))]
    return {float(place): f"{runs[place].brief.started:{form}}" for place in shown}
