"""`report.md`: the whole story of a run, fit for a GitHub step summary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.reports.diagnosis import diagnosis_name, evidence_line
from pytest_vllm.reports.facts import (
    comparison_line,
    count_suites,
    failure_line,
    image_name,
    target_facts,
    time_line,
)
from pytest_vllm.reports.gpus import HEAD, gpu_use_rows, sample_notes
from pytest_vllm.reports.markdown_checks import bad_checks
from pytest_vllm.reports.markdown_text import (
    Rows,
    Section,
    bullets,
    code,
    fence,
    first_rows,
    size,
    table,
)
from pytest_vllm.reports.memory import forecast_line, memory_rows, notes
from pytest_vllm.reports.performance import (
    CHANGE_HEAD,
    LEVEL_HEAD,
    change_rows,
    level_rows,
    performance_notes,
)
from pytest_vllm.reports.preflight import finding_summary
from pytest_vllm.reports.rows import CHANGE_HEAD as CHECK_CHANGE_HEAD
from pytest_vllm.reports.rows import (
    MATERIAL_HEAD,
    PHASE_HEAD,
    SETTING_HEAD,
    UNJUDGED_HEAD,
    check_change_rows,
    launch_rows,
    material_rows,
    phase_rows,
    setting_rows,
    unjudged_rows,
)
from pytest_vllm.reports.startfacts import server_rows
from pytest_vllm.reports.waivers import HEAD as WAIVER_HEAD
from pytest_vllm.reports.waivers import waiver_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.verdict import StartFailure

_LIMIT_BYTES = 1_000_000
"""Of UTF-8: GitHub drops a step summary of more than 1 MiB (1,048,576) as a whole."""
_FIRST = 100_000
"""Bytes for what must not be missing: the reasons, and why there was no server."""
_LONG = 20_000
"""Characters of a log's end, and of a command, which is worth nothing when it is cut."""
_DOUBTS = 8_000
"""Bytes that the doubts about a record take at most: four, each of a line."""
_CUT = (
    "> Cut to stay below the 1 MiB that GitHub takes; `report.html` and `run.json` of the evidence "
    "have all of it."
)
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?( (s|ms|min|GiB))?")
_SIGNS = {"PROMOTE": "✅", "REJECT": "❌", "INCONCLUSIVE": "⚠️"}


def report_md(record: RunRecord) -> str:
    """Write the report; it stays below the size that GitHub accepts, and says what that cost."""
    decision = record.verdict.decision.value
    reasons = Section(title="", blocks=(bullets(record.verdict.reasons),), most=_FIRST)
    first = [
        reasons,
        _target(record),
        _failure(record),
        _warnings(record),
        _waivers(record),
        _comparison(record),
        _suites(record),
        _performance(record),
    ]
    last = [
        _samples(record),
        _unrun(record),
        _observations(record),
        _findings(record),
        _phases(record),
        _server(record),
        _memory(record),
        _gpu_use(record),
        _launch(record),
        _settings(record),
        _materials(record),
        _environment(record),
    ]
    head, foot = ([section.fitted() for section in sections] for sections in (first, last))
    room = _LIMIT_BYTES - sum(size(text) for text, _ in (*head, *foot)) - size(_CUT) - _DOUBTS
    checks, lost = bad_checks(record, room)
    is_cut = lost or any(cut for _, cut in (*head, *foot))
    texts = [text for text, _ in head] + checks + [text for text, _ in foot]
    doubted = bullets(f"WARNING: {doubt}" for doubt in doubts(record)).text
    sign = "⚠️" if doubted else _SIGNS[decision]
    title = [f"# {sign} {decision}", doubted, *([_CUT] if is_cut else [])]
    return "\n\n".join(text for text in (*title, *texts) if text) + "\n"


def _target(record: RunRecord) -> Section:
    image = image_name(record, whole_digest=True)
    facts = [(label, image if label == "Image" else text) for label, text in target_facts(record)]
    rules = record.rules
    facts += [("Profile", rules.profile)] if rules is not None and rules.profile else []
    facts += [("Time", time_line(record)), ("Started", record.started), ("Run", record.run_id)]
    rows = ((label, code(text, 1000)) for label, text in facts)
    return Section(title="Target", blocks=(table(("What", "Seen"), rows),))


def _failure(record: RunRecord) -> Section:
    failure = record.failure
    if failure is None:
        return Section(title="Start failed", blocks=())
    parts: list[str | Rows] = [code(failure_line(record, failure)), fence(failure.message)]
    if failure.advice:
        parts.append(f"What to do: {code(failure.advice)}")
    parts += _diagnosis(failure)
    if failure.tail:
        parts += ["End of the log:", fence("\n".join(failure.tail), _LONG, from_end=True)]
    return Section(title="Start failed", blocks=tuple(parts), most=_FIRST)


def _diagnosis(failure: StartFailure) -> Iterator[str | Rows]:
    """Yield row and ID of what was found, its lines, and what else would fit."""
    found = failure.diagnosis
    if found is None:
        return
    fault = f", {found.fault} at fault" if found.fault is not None else ""
    yield f"Failure: {code(diagnosis_name(found))}{fault}"
    if found.evidence:
        yield fence("\n".join(evidence_line(item) for item in found.evidence))
    if failure.others:
        yield "What else would fit:"
        yield bullets(f"{diagnosis_name(other)}: {other.cause}" for other in failure.others)


def _warnings(record: RunRecord) -> Section:
    return Section(title="Warnings", blocks=(bullets(record.warnings),))


def _waivers(record: RunRecord) -> Section:
    """Tell what may fail, for how long, and whether it did."""
    return Section(title="Waivers", blocks=(_coded(WAIVER_HEAD, waiver_rows(record)),))


def _findings(record: RunRecord) -> Section:
    """Tell what the look before the launch and the clean-up have found."""
    return Section(title="Findings", blocks=(bullets(finding_summary(record.findings)),))


def _comparison(record: RunRecord) -> Section:
    title, comparison = "Since the baseline", record.comparison
    if comparison is None:
        return Section(title=title, blocks=())
    changes = _coded(CHECK_CHANGE_HEAD, check_change_rows(record))
    return Section(title=title, blocks=(code(comparison_line(comparison)), changes))


def _suites(record: RunRecord) -> Section:
    rows = [
        (code(count.suite), *(str(count.outcomes.get(outcome, 0)) for outcome in Outcome))
        for count in count_suites(record)
    ]
    counts = table(("Suite", *(outcome.value for outcome in Outcome)), rows)
    return Section(title="Suites", blocks=(counts or "No check ran.",))


def _samples(record: RunRecord) -> Section:
    """Show what the model wrote to a few fixed requests, for a person to judge."""
    parts = (
        (f"{code(sample.title)}: {code(sample.prompt)}", fence(sample.text))
        for sample in record.samples
    )
    return Section(title="Samples", blocks=tuple(part for pair in parts for part in pair))


def _observations(record: RunRecord) -> Section:
    rows = first_rows(("What", "Seen"), ((seen.name, seen.value) for seen in record.observations))
    return Section(title="Observations (not judged)", blocks=(rows,))


def _unrun(record: RunRecord) -> Section:
    """Name what did not apply, was waived or did not run, equal reasons together."""
    rows = unjudged_rows(record)
    if record.deselected:
        names = ", ".join(record.deselected)
        rows.append(("deselected", "by the user", str(len(record.deselected)), names))
    return Section(
        title="Checks without a judgement", blocks=(_coded(UNJUDGED_HEAD, rows, limit=2000),)
    )


def _phases(record: RunRecord) -> Section:
    return Section(title="Start-up", blocks=(_coded(PHASE_HEAD, phase_rows(record.phases)),))


def _server(record: RunRecord) -> Section:
    rows = ((name, code(value)) for name, value in server_rows(record.server_facts))
    figures = table(("Figure", "Value"), rows)
    return Section(title="What the server says of itself", blocks=(figures,))


def _memory(record: RunRecord) -> Section:
    """Hold what was forecast before the launch against what the server said after it."""
    said = forecast_line(record)
    rows = ((name, *(code(value) for value in values)) for name, *values in memory_rows(record))
    blocks = (
        f"Forecast: {code(said, 1000)}" if said else "",
        table(("Figure", "Forecast", "Measured", "Error"), rows),
        bullets(notes(record)),
    )
    return Section(title="Memory", blocks=blocks)


def _gpu_use(record: RunRecord) -> Section:
    """Show what the GPUs did, from before the launch until their memory was back."""
    blocks = (_coded(HEAD, gpu_use_rows(record)), bullets(sample_notes(record)))
    return Section(title="GPUs during the run", blocks=blocks)


def _performance(record: RunRecord) -> Section:
    """Show what each load level came to, and what became of it since the baseline."""
    blocks = (
        _coded(LEVEL_HEAD, level_rows(record)),
        _coded(CHANGE_HEAD, change_rows(record)),
        bullets(performance_notes(record)),
    )
    return Section(title="Performance", blocks=blocks)


def _launch(record: RunRecord) -> Section:
    """Tell the plain facts of the launch, and how to do the same by hand."""
    blocks: list[str | Rows] = [_coded(("Fact", "Value"), launch_rows(record))]
    if by_hand := record.launch.get("docker_run"):
        blocks += ["The same by hand:", fence(str(by_hand), _LONG, kind="sh")]
    return Section(title="Launch", blocks=tuple(blocks))


def _settings(record: RunRecord) -> Section:
    rows = (*setting_rows(record, default=False), *setting_rows(record, default=True))
    return Section(title="Settings", blocks=(_coded(SETTING_HEAD, rows),))


def _materials(record: RunRecord) -> Section:
    """Tell what the result rests on, each by its digest."""
    rows = _coded(MATERIAL_HEAD, material_rows(record))
    return Section(title="What the result rests on", blocks=(rows,))


def _environment(record: RunRecord) -> Section:
    rows = _coded(("What", "Version"), record.environment.items())
    return Section(title="Environment", blocks=(rows,))


def _coded(head: Sequence[str], rows: Iterable[Sequence[str]], *, limit: int = 500) -> Rows:
    """Show rows of foreign text as a table of code spans; plain numbers stay plain."""
    return first_rows(
        head, rows, lambda cell: cell if _NUMBER.fullmatch(cell) else code(cell, limit)
    )


__all__ = ["code", "report_md"]
