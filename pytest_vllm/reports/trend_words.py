"""Words of a trend that all its renderings share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_vllm.domain.trend_lines import mean_in, trend_of
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.regression import mean_words
from pytest_vllm.reports.run_list import check_words, image_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.run_brief import RunBrief
    from pytest_vllm.domain.trend_lines import TrendRun, TrendSubject

_HEAD = ("run", "began (UTC)", "verdict", "image", "model", "GPUs", "checks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """All that a trend says; every rendering is made of it alone.

    Attributes:
        runs: The runs, the oldest first.
        metrics: Names of the figures.
        choice: Which runs were asked for, in words; empty for all.
        unreadable: Folders without a record that can be read.
    """

    runs: Sequence[TrendRun]
    metrics: Sequence[str]
    choice: str = ""
    unreadable: Sequence[str] = field(default_factory=tuple)

    def subjects(self) -> list[TrendSubject]:
        """Return the lines, see `trend_of`."""
        return trend_of(self.runs, self.metrics)


def summary_line(trend: Trend) -> str:
    """Say how many runs there are, how they ended and from when to when they are."""
    if not trend.runs:
        return "no run"
    counts = Counter(run.brief.decision for run in trend.runs)
    ended = ", ".join(f"{counts[one]} {one.value}" for one in Decision if counts[one])
    first, last = (f"{trend.runs[end].brief.started:%Y-%m-%d}" for end in (0, -1))
    when = f"on {first}" if first == last else f"from {first} to {last}"
    noun = "run" if len(trend.runs) == 1 else "runs"
    return f"{len(trend.runs)} {noun} {when}: {ended}"


def unreadable_line(trend: Trend) -> str:
    """Say which folders could not be read, empty for none."""
    if not trend.unreadable:
        return ""
    shown = ", ".join(trend.unreadable[:5])
    more = len(trend.unreadable) - 5
    return f"{len(trend.unreadable)} unreadable: {shown}{f' and {more} more' if more > 0 else ''}"


def head(trend: Trend) -> tuple[str, ...]:
    """Return the head of the table of runs."""
    return (*_HEAD, *trend.metrics)


def cells(run: TrendRun, trend: Trend) -> tuple[str, ...]:
    """Return the row of a run under `head`."""
    brief = run.brief
    return (
        run.name,
        f"{brief.started:%Y-%m-%d %H:%M}",
        brief.decision.value,
        image_words(brief) or "-",
        brief.model or "-",
        brief.gpus or "-",
        check_words(brief),
        *(metric_cell(brief, metric) for metric in trend.metrics),
    )


def metric_cell(run: RunBrief, metric: str) -> str:
    """Return a figure with its interval."""
    mean = mean_in(run, metric)
    return mean_words(mean) if mean is not None else "-"


def subject_name(subject: TrendSubject) -> str:
    """Name a model on GPUs."""
    return f"{subject.model or 'a model that is not known'} on {subject.gpus or 'GPUs not known'}"


__all__ = [
    "Trend",
    "cells",
    "head",
    "mean_words",
    "metric_cell",
    "subject_name",
    "summary_line",
    "unreadable_line",
]
