"""`report.md`: the whole story of a run, fit for a GitHub step summary."""

from __future__ import annotations

import html
import re
import shlex
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.evidence import check_folders
from pytest_vllm.domain.exchange import shorten
from pytest_vllm.domain.text import one_line, printable
from pytest_vllm.reports.diagnosis import diagnosis_name, evidence_line
from pytest_vllm.reports.facts import (
    bad_results,
    comparison_line,
    count_suites,
    failure_line,
    image_name,
    seconds,
    setting_text,
    shown_results,
    target_facts,
    time_line,
)
from pytest_vllm.reports.gpus import HEAD, gpu_use_rows, sample_notes
from pytest_vllm.reports.memory import forecast_line, memory_rows, notes
from pytest_vllm.reports.performance import (
    CHANGE_HEAD,
    LEVEL_HEAD,
    change_rows,
    level_rows,
    performance_notes,
)
from pytest_vllm.reports.preflight import finding_summary
from pytest_vllm.reports.startfacts import counted, server_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.exchange import Exchange
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.verdict import StartFailure

_LIMIT_BYTES = 900_000  # a GitHub step summary may have 1 MiB
_BODY_SHOWN = 2_000
_MESSAGE_SHOWN = 2_000
_EXCHANGES_SHOWN = 3
_ROWS_SHOWN = 200
_SIGNS = {"PROMOTE": "✅", "REJECT": "❌", "INCONCLUSIVE": "⚠️"}


def report_md(record: RunRecord) -> str:
    """Write the report; it stays below the size that GitHub accepts."""
    decision = record.verdict.decision.value
    head = [
        f"# {_SIGNS[decision]} {decision}",
        _bullets(record.verdict.reasons),
        _target(record),
        _failure(record),
        _warnings(record),
        _comparison(record),
        _suites(record),
        _performance(record),
        _samples(record),
    ]
    foot = [
        _unrun(record),
        _observations(record),
        _findings(record),
        _phases(record),
        _server(record),
        _memory(record),
        _gpu_use(record),
        _launch(record),
        _settings(record),
        _environment(record),
    ]
    room = _LIMIT_BYTES - sum(_size(part) for part in (*head, *foot))
    parts = [*head, *_checks(record, room), *foot]
    return "\n\n".join(part for part in parts if part) + "\n"


def code(text: str, limit: int = 500) -> str:
    """Show foreign text on one line as a code span, which interprets nothing inside it."""
    line = one_line(text, limit)
    if not line:
        return "-"
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: str, limit: int = _BODY_SHOWN, *, kind: str = "text") -> str:
    """Show foreign text as a fenced block that its content cannot end."""
    content = shorten(printable(text[: 2 * limit]), limit) if len(text) > limit else printable(text)
    fence = "`" * max(3, _longest_run(content) + 1)
    return f"{fence}{kind}\n{content}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _sentence(text: str) -> str:
    """Show the sentence of a check's author: it may use code spans, but no HTML."""
    return html.escape(one_line(text), quote=False)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace")) + 2


def _bullets(texts: Iterable[str]) -> str:
    rows = list(texts)
    more = [f"- and {len(rows) - _ROWS_SHOWN} more"] if len(rows) > _ROWS_SHOWN else []
    return "\n".join([*(f"- {code(text)}" for text in rows[:_ROWS_SHOWN]), *more])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    # a bar ends a cell even inside a code span, and readers differ on how to escape it
    cells = [tuple(cell.replace("|", "¦") for cell in row) for row in rows]
    lines = [head, ("---",) * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _target(record: RunRecord) -> str:
    image = image_name(record, whole_digest=True)
    facts = [(label, image if label == "Image" else text) for label, text in target_facts(record)]
    facts += [("Time", time_line(record)), ("Started", record.started), ("Run", record.run_id)]
    return _section("Target", _table(("What", "Seen"), ((a, code(b, 1000)) for a, b in facts)))


def _failure(record: RunRecord) -> str:
    failure = record.failure
    if failure is None:
        return ""
    parts = [code(failure_line(record, failure)), block(failure.message)]
    if failure.advice:
        parts.append(f"What to do: {code(failure.advice)}")
    parts += _diagnosis(failure)
    if failure.tail:
        parts += ["End of the log:", block("\n".join(failure.tail), 20_000)]
    return _section("Start failed", "\n\n".join(parts))


def _diagnosis(failure: StartFailure) -> Iterator[str]:
    """Yield row and ID of what was found, its lines, and what else would fit."""
    found = failure.diagnosis
    if found is None:
        return
    fault = f", {found.fault} at fault" if found.fault is not None else ""
    yield f"Failure: {code(diagnosis_name(found))}{fault}"
    if found.evidence:
        yield block("\n".join(evidence_line(item) for item in found.evidence))
    if failure.others:
        also = (f"{diagnosis_name(other)}: {other.cause}" for other in failure.others)
        yield f"What else would fit:\n\n{_bullets(also)}"


def _warnings(record: RunRecord) -> str:
    return _section("Warnings", _bullets(record.warnings))


def _findings(record: RunRecord) -> str:
    """Tell what the look before the launch and the clean-up have found."""
    return _section("Findings", _bullets(finding_summary(record.findings)))


def _comparison(record: RunRecord) -> str:
    comparison = record.comparison
    if comparison is None:
        return ""
    rows = [
        (change.kind, code(change.name), code(change.before), code(change.after))
        for change in comparison.changes[:_ROWS_SHOWN]
    ]
    table = f"\n\n{_table(('Change', 'Check', 'Before', 'Now'), rows)}" if rows else ""
    return _section("Since the baseline", f"{code(comparison_line(comparison))}{table}")


def _suites(record: RunRecord) -> str:
    counts = count_suites(record)
    if not counts:
        return _section("Suites", "No check ran.")
    rows = [
        (code(count.suite), *(str(count.outcomes.get(outcome, 0)) for outcome in Outcome))
        for count in counts
    ]
    return _section("Suites", _table(("Suite", *(outcome.value for outcome in Outcome)), rows))


def _samples(record: RunRecord) -> str:
    """Show what the model wrote to a few fixed requests, for a person to judge."""
    parts = [
        f"{code(sample.title)}: {code(sample.prompt)}\n\n{block(sample.text)}"
        for sample in record.samples[:_ROWS_SHOWN]
    ]
    return _section("Samples", "\n\n".join(parts))


def _observations(record: RunRecord) -> str:
    rows = [(code(seen.name), code(seen.value)) for seen in record.observations[:_ROWS_SHOWN]]
    table = _table(("What", "Seen"), rows) if rows else ""
    return _section("Observations (not judged)", table)


def _checks(record: RunRecord, room: int) -> list[str]:
    """Describe what did not pass, as much of it as there is room for."""
    bad = bad_results(record)
    folders = {id(result): folder for folder, result in check_folders(record.results).items()}
    parts = ["## Checks that did not pass"] if bad else []
    for index, result in enumerate(bad):
        part = _check(result, folders.get(id(result), ""))
        room -= _size(part)
        if room < 0:
            left = len(bad) - index
            parts.append(f"**{left} more are left out here for their size; see `run.json`.**")
            break
        parts.append(part)
    return parts


def _check(result: CheckResult, folder: str) -> str:
    level = f"{result.check.level.value} {result.outcome.value}"
    parts = [f"### {code(result.name)} ({level})", _sentence(result.check.requirement)]
    parts.append(block(result.message or "no message", _MESSAGE_SHOWN))
    left_out = len(result.exchanges) - _EXCHANGES_SHOWN
    if left_out > 0:
        parts.append(f"{left_out} earlier requests are in `{folder}/exchange.json`.")
    parts += [_exchange(exchange) for exchange in result.exchanges[-_EXCHANGES_SHOWN:]]
    if folder:
        parts.append(f"Repeat it: `sh {folder}/replay.sh`")
    return "\n\n".join(parts)


def _exchange(exchange: Exchange) -> str:
    request = [f"{exchange.method} {exchange.url}", _headers(exchange.request_headers)]
    request.append(_body(exchange.request_body))
    status = "no reply" if exchange.status is None else f"HTTP {exchange.status}"
    reply = [f"{status} after {exchange.elapsed_ms:.0f} ms", _headers(exchange.response_headers)]
    reply += [exchange.failure, _body(exchange.response_body)]
    texts = ("\n".join(part for part in parts if part) for parts in (request, reply))
    return "\n\n".join(block(text, 3 * _BODY_SHOWN, kind="http") for text in texts)


def _body(text: str) -> str:
    return f"\n{shorten(text, _BODY_SHOWN)}" if text else ""


def _headers(headers: tuple[tuple[str, str], ...]) -> str:
    return shorten("\n".join(f"{name}: {value}" for name, value in headers), _BODY_SHOWN)


def _unrun(record: RunRecord) -> str:
    """Name what did not apply, was waived or did not run, equal reasons together."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for result in shown_results(record):
        if result.outcome in (Outcome.NOT_APPLICABLE, Outcome.WAIVED, Outcome.NOT_RUN):
            key = (result.outcome.value, result.message)
            grouped.setdefault(key, []).append(result.name)
    rows = [
        (outcome, code(message), str(len(names)), code(", ".join(names), 2000))
        for (outcome, message), names in list(grouped.items())[:_ROWS_SHOWN]
    ]
    rows += [
        ("deselected", "by the user", "1", code(name)) for name in record.deselected[:_ROWS_SHOWN]
    ]
    table = _table(("Outcome", "Why", "Count", "Checks"), rows) if rows else ""
    return _section("Checks without a judgement", table)


def _phases(record: RunRecord) -> str:
    rows = [
        (
            code(phase.name),
            f"{phase.start_s:.1f}",
            "-" if phase.duration_s is None else seconds(phase.duration_s),
            "-" if phase.progress is None else code(counted(phase.progress)),
        )
        for phase in record.phases
    ]
    table = _table(("Phase", "from second", "took", "reached"), rows) if rows else ""
    return _section("Start-up", table)


def _server(record: RunRecord) -> str:
    rows = [(name, code(value)) for name, value in server_rows(record.server_facts)]
    table = _table(("Figure", "Value"), rows) if rows else ""
    return _section("What the server says of itself", table)


def _memory(record: RunRecord) -> str:
    """Hold what was forecast before the launch against what the server said after it."""
    rows = [(name, *(code(value) for value in values)) for name, *values in memory_rows(record)]
    said = forecast_line(record)
    parts = [f"Forecast: {code(said, 1000)}"] if said else []
    parts += [_table(("Figure", "Forecast", "Measured", "Error"), rows)] if rows else []
    parts += [_bullets(notes(record))]
    return _section("Memory", "\n\n".join(part for part in parts if part))


def _gpu_use(record: RunRecord) -> str:
    """Show what the GPUs did, from before the launch until their memory was back."""
    rows = [tuple(map(code, row)) for row in gpu_use_rows(record)]
    parts = [_table(HEAD, rows)] if rows else []
    parts += [_bullets(sample_notes(record))]
    return _section("GPUs during the run", "\n\n".join(part for part in parts if part))


def _performance(record: RunRecord) -> str:
    """Show what each load level came to, and what became of it since the baseline."""
    parts = []
    for head, rows in ((LEVEL_HEAD, level_rows(record)), (CHANGE_HEAD, change_rows(record))):
        if rows:
            parts.append(_table(head, (tuple(map(code, row)) for row in rows)))
    return _section(
        "Performance", "\n\n".join([*parts, _bullets(performance_notes(record))]).strip()
    )


def _launch(record: RunRecord) -> str:
    """Tell the plain facts of the launch, and how to do the same by hand."""
    facts = record.launch
    rows = [
        (code(name), code(shlex.join(map(str, value)) if isinstance(value, list) else str(value)))
        for name, value in facts.items()
        if isinstance(value, str | int | list) and value and name != "docker_run"
    ]
    parts = [_table(("Fact", "Value"), rows)] if rows else []
    if facts.get("docker_run"):
        parts += ["The same by hand:", block(str(facts["docker_run"]), kind="sh")]
    return _section("Launch", "\n\n".join(parts))


def _settings(record: RunRecord) -> str:
    rows = [
        (code(item.name), code(setting_text(item)), code(item.source))
        for item in sorted(record.settings, key=lambda item: item.source == "default")
        if setting_text(item)
    ]
    table = _table(("Setting", "Value", "Source"), rows) if rows else ""
    return _section("Settings", table)


def _environment(record: RunRecord) -> str:
    rows = [(code(name), code(value)) for name, value in record.environment.items()]
    return _section("Environment", _table(("What", "Version"), rows) if rows else "")
