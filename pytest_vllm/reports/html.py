"""`report.html`: the whole story of a run in one file that needs no network and no script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.text import printable
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports import rows
from pytest_vllm.reports.change_plot import changes_plot
from pytest_vllm.reports.diagnosis import diagnosis_name, evidence_line
from pytest_vllm.reports.facts import comparison_line, failure_line, image_digest, is_image_id
from pytest_vllm.reports.gpus import HEAD as USE_HEAD
from pytest_vllm.reports.gpus import gpu_use_rows, sample_notes
from pytest_vllm.reports.html_checks import checks_of, reasons_of
from pytest_vllm.reports.html_facts import GPU_HEAD, gpu_rows, identity, which
from pytest_vllm.reports.memory import forecast_line, memory_rows, notes
from pytest_vllm.reports.page import render
from pytest_vllm.reports.performance import (
    CHANGE_HEAD,
    LEVEL_HEAD,
    change_rows,
    level_rows,
    performance_notes,
)
from pytest_vllm.reports.plots import drawn
from pytest_vllm.reports.preflight import finding_summary
from pytest_vllm.reports.record_plots import (
    load_plots,
    memory_plots,
    startup_plots,
    timeline_plots,
)
from pytest_vllm.reports.regression import cannot_tell
from pytest_vllm.reports.startfacts import server_rows
from pytest_vllm.reports.waivers import HEAD as WAIVER_HEAD
from pytest_vllm.reports.waivers import waiver_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.reports.plots import Plot

REASONS_SHOWN = 6
"""Reasons of the verdict that are in sight; the rest unfolds."""
ROWS_SHOWN = 500
"""Most rows of a table other than that of the checks."""
_PROMISES = "This image may be promoted: pytest-vllm promote --run RUN --to REF."
_MEANS = {
    Decision.PROMOTE: "All that was asked holds. To promote an image takes a run of it under "
    "profile promote.",
    Decision.REJECT: "This image must not be promoted.",
    Decision.INCONCLUSIVE: "This run does not tell whether the image may be promoted. It can be "
    "repeated without blaming the image.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    """As many of some rows as a page can hold.

    Attributes:
        rows: The first ones.
        left: How many are left out.
    """

    rows: Sequence[object]
    left: int


def report_html(record: RunRecord) -> str:
    """Write the report."""
    checks = checks_of(record)
    reasons = reasons_of(record, checks, ROWS_SHOWN)
    failure = record.failure
    story = {
        "record": record,
        "decision": record.verdict.decision,
        "doubts": doubts(record),
        "means": _means(record),
        "reasons": reasons[:REASONS_SHOWN],
        "more_reasons": reasons[REASONS_SHOWN:],
        "unsaid": max(len(record.verdict.reasons) - ROWS_SHOWN, 0),
        "which": which(record),
        "identity": identity(record),
        "failure": failure,
        "failed_how": failure_line(record, failure) if failure is not None else "",
        "checks": checks,
        "unjudged": _some(rows.unjudged_rows(record)),
        "deselected": _some(list(record.deselected)),
        "warnings": _some(list(record.warnings)),
        "findings": _some(finding_summary(record.findings)),
        "stopped": any(finding.severity is Severity.FATAL for finding in record.findings),
        "since": comparison_line(record.comparison) if record.comparison is not None else "",
        "check_changes": _some(rows.check_change_rows(record)),
        "figure_changes": change_rows(record),
        "figure_notes": _figure_notes(record),
        "levels": level_rows(record),
        "performance_notes": performance_notes(record),
        "phases": rows.phase_rows(record.phases),
        "server": server_rows(record.server_facts),
        "forecast": forecast_line(record),
        "memory": memory_rows(record),
        "memory_notes": notes(record),
        "gpus": gpu_rows(record),
        "gpu_use": [_without_curve(row) for row in gpu_use_rows(record)],
        "sample_notes": sample_notes(record),
        "launch": rows.launch_rows(record),
        "by_hand": printable(str(record.launch.get("docker_run") or "")),
        "asked": rows.setting_rows(record, default=False),
        "defaults": rows.setting_rows(record, default=True),
        "waivers": _some(waiver_rows(record)),
        "materials": _some(rows.material_rows(record)),
        "samples": _some(record.samples),
        "observations": _some(record.observations),
        "plots": {
            "changes": _change_plots(record),
            "start": startup_plots(record),
            "memory": memory_plots(record),
            "load": load_plots(record),
            "timeline": timeline_plots(record),
        },
    }
    heads = {
        "use": _without_curve(USE_HEAD),
        "gpu": GPU_HEAD,
        "figures": CHANGE_HEAD,
        "levels": LEVEL_HEAD,
        "phases": rows.PHASE_HEAD,
        "settings": rows.SETTING_HEAD,
        "unjudged": rows.UNJUDGED_HEAD,
        "changes": rows.CHANGE_HEAD,
        "waivers": WAIVER_HEAD,
        "materials": rows.MATERIAL_HEAD,
    }
    names = {"diagnosis_name": diagnosis_name, "evidence_line": evidence_line}
    return render("report.html", ways=_ways(story), heads=heads, **names, **story)


def _means(record: RunRecord) -> str:
    """Say what follows from the verdict; an image is promoted for a complete run of it only."""
    rules = record.rules
    if doubts(record):
        return "Nothing follows from this record: run the acceptance again."
    whole = rules is not None and rules.complete and rules.pinned_image
    if record.verdict.decision is Decision.PROMOTE and whole and _has_digest(record):
        return _PROMISES
    return _MEANS[record.verdict.decision]


def _has_digest(record: RunRecord) -> bool:
    """Tell whether a registry knows the image by what ran; an image ID says nothing to it."""
    return bool(image_digest(record)) and not is_image_id(record)


def _without_curve(row: tuple[str, ...]) -> tuple[str, ...]:
    """Return a row of what a GPU did without the curve made of letters: the page has plots."""
    return (row[0], *row[2:])


def _change_plots(record: RunRecord) -> list[Plot]:
    metrics = record.comparison.metrics if record.comparison is not None else None
    return drawn(changes_plot(metrics.changes)) if metrics is not None else []


def _figure_notes(record: RunRecord) -> list[str]:
    """Say why figures could not be compared, or why nothing can be told of some."""
    metrics = record.comparison.metrics if record.comparison is not None else None
    if metrics is None:
        return []
    untold = ((change.metric, cannot_tell(change, metrics.form)) for change in metrics.changes)
    return [
        *(f"not comparable: {obstacle}" for obstacle in metrics.obstacles),
        *(f"{metric}: {said}" for metric, said in untold if said),
    ]


def _some(found: Sequence[object]) -> Some:
    return Some(rows=found[:ROWS_SHOWN], left=max(len(found) - ROWS_SHOWN, 0))


def _ways(story: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return address and name of each section that the page has."""
    plots = story["plots"]
    sections = (
        ("start-failed", "Why it did not start", story["failure"]),
        ("target", "Target", True),
        ("warnings", "Warnings", story["warnings"].rows),
        ("baseline", "Since the baseline", story["since"]),
        ("checks", "Checks", True),
        ("load", "Load", story["levels"] or plots["load"]),
        ("timeline", "GPUs and time", story["gpu_use"] or story["gpus"] or plots["timeline"]),
        ("memory", "Memory", story["forecast"] or story["memory"] or plots["memory"]),
        ("start-up", "Start-up", story["phases"] or story["server"]),
        ("samples", "Samples", story["samples"].rows),
        ("arguments", "Arguments", True),
        ("seen", "Seen, not judged", story["observations"].rows or story["findings"].rows),
        ("evidence", "Evidence", True),
    )
    return [(address, name) for address, name, there in sections if there]
