"""Which plots a record has: its start, its memory, its loads, and what happened over time.

Each function returns none where the record has no data for them; a record may hold anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.load_plots import load_plots
from pytest_vllm.reports.memory_plots import memory_plots
from pytest_vllm.reports.plot_axis import is_drawable, told
from pytest_vllm.reports.plots import Bar, Plot, Words, bar_plot, drawn
from pytest_vllm.reports.timeline_plots import timeline_plots

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

_MOST_PHASES = 60


def startup_plots(record: RunRecord) -> list[Plot]:
    """Draw the phases of the start as spans of time."""
    phases = [p for p in record.phases if is_drawable(p.start_s) and is_drawable(p.duration_s)]
    bars = [
        Bar(
            name=f"{one_line(phase.name, 24)}  {phase.duration_s or 0.0:.1f} s",
            start=max(0.0, phase.start_s),
            value=max(0.0, phase.duration_s or 0.0),
            label=f"{phase.name}: {told(phase.duration_s or 0.0)} s from {told(phase.start_s)} s",
        )
        for phase in phases[:_MOST_PHASES]
    ]
    if not bars:
        return []
    longest = max(phases, key=lambda phase: phase.duration_s or 0.0)
    end = max(bar.start + bar.value for bar in bars)
    words = Words(
        text=f"{told(end)} s in all; the longest phase is {one_line(longest.name, 40)}: "
        f"{told(longest.duration_s or 0.0)} s.",
        head=("Phase", "Begin (s)", "Duration (s)"),
        rows=[(p.name, f"{p.start_s:.2f}", f"{p.duration_s:.2f}") for p in phases],
    )
    return drawn(bar_plot("Start-up", bars, x="seconds since the launch", words=words))


__all__ = ["load_plots", "memory_plots", "startup_plots", "timeline_plots"]
