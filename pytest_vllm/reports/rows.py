"""Tables that every report has, as rows of plain text; how they look is the report's own."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.facts import seconds, setting_text, shown_results
from pytest_vllm.reports.startfacts import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.phases import Phase
    from pytest_vllm.domain.record import RunRecord

PHASE_HEAD = ("Phase", "from second", "took", "reached")
UNJUDGED_HEAD = ("Outcome", "Why", "Count", "Checks")
SETTING_HEAD = ("Setting", "Value", "Source")
CHANGE_HEAD = ("Check", "Change", "Before", "Now")
MATERIAL_HEAD = ("What", "Kind", "SHA-256", "Of")
_UNJUDGED = (Outcome.NOT_APPLICABLE, Outcome.WAIVED, Outcome.NOT_RUN)


def phase_rows(phases: Iterable[Phase]) -> list[tuple[str, ...]]:
    """Return a row for each phase of a start, under `PHASE_HEAD`."""
    return [
        (
            one_line(phase.name),
            f"{phase.start_s:.1f}",
            "-" if phase.duration_s is None else seconds(phase.duration_s),
            "-" if phase.progress is None else one_line(counted(phase.progress)),
        )
        for phase in phases
    ]


def unjudged_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Name what has no judgement, equal reasons together, under `UNJUDGED_HEAD`."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for result in shown_results(record):
        if result.outcome in _UNJUDGED:
            key = (result.outcome.value, result.message)
            grouped.setdefault(key, []).append(result.name)
    return [
        (outcome, one_line(message) or "-", str(len(names)), one_line(", ".join(names), 2000))
        for (outcome, message), names in grouped.items()
    ]


def launch_rows(record: RunRecord) -> list[tuple[str, str]]:
    """Return the plain facts of the launch; how to do the same by hand is a text of its own."""
    return [
        (
            one_line(name),
            one_line(shlex.join(map(str, value)) if isinstance(value, list) else str(value), 4000),
        )
        for name, value in record.launch.items()
        if isinstance(value, str | int | list) and value and name != "docker_run"
    ]


def setting_rows(record: RunRecord, *, default: bool) -> list[tuple[str, str, str]]:
    """Return the options that somebody set, or those at their default, under `SETTING_HEAD`."""
    return [
        (one_line(item.name), setting_text(item), one_line(item.source))
        for item in record.settings
        if (item.source == "default") is default and setting_text(item)
    ]


def check_change_rows(record: RunRecord) -> list[tuple[str, str, str, str]]:
    """Return each check that came to something else than in the baseline, under `CHANGE_HEAD`."""
    if record.comparison is None:
        return []
    return [
        (one_line(change.name), change.kind, change.before or "-", change.after or "-")
        for change in record.comparison.changes
    ]


def material_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Return what the result rests on, each with its digest, under `MATERIAL_HEAD`."""
    return [
        (one_line(item.name), one_line(item.kind), item.sha256, one_line(item.of) or "the file")
        for item in record.materials
    ]
