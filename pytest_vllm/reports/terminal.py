"""The one screen at the end of a run."""

from __future__ import annotations

import io
import shlex
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.evidence import check_folders
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.text import one_line, printable
from pytest_vllm.domain.verdict import PREFLIGHT, Decision
from pytest_vllm.domain.waivers import waived_words
from pytest_vllm.reports.diagnosis import diagnosis_name, evidence_line
from pytest_vllm.reports.facts import (
    SuiteCount,
    bad_results,
    comparison_line,
    count_suites,
    failure_line,
    phase_line,
    setting,
    shown_results,
    sum_up,
    target_facts,
    time_line,
)
from pytest_vllm.reports.gpus import gpu_use_line
from pytest_vllm.reports.memory import memory_line
from pytest_vllm.reports.performance import performance_lines
from pytest_vllm.reports.registry import REPORTS
from pytest_vllm.reports.startup import StartupView, cut

if TYPE_CHECKING:
    from pytest_vllm.domain.finding import Diagnosis
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.verdict import StartFailure

__all__ = ["StartupView", "summary"]

_BAR = {
    Decision.PROMOTE: "bold white on green",
    Decision.REJECT: "bold white on red",
    Decision.INCONCLUSIVE: "bold black on yellow",
}
_INK = {
    Decision.PROMOTE: "green",
    Decision.REJECT: "red",
    Decision.INCONCLUSIVE: "yellow",
}
_COLUMNS = (
    (Outcome.PASS, "passed", "green"),
    (Outcome.FAIL, "failed", "bold red"),
    (Outcome.ERROR, "error", "bold magenta"),
    (Outcome.NOT_APPLICABLE, "not applicable", ""),
    (Outcome.WAIVED, "waived", "yellow"),
    (Outcome.NOT_RUN, "not run", "yellow"),
)
_ALWAYS = (Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.NOT_APPLICABLE, Outcome.NOT_RUN)
_LABEL = 10
_NARROWEST = 40
_SUITE_WIDTH = 16
_REASONS = 5
_WARNINGS = 2
_SAMPLES = 2
_TAIL = 12
_SUITES_WHEN_GOOD = 7
_SUITES_WHEN_BAD = 10
_FIX_LINES = 12
"""A cure is to be pasted, so it is not cut."""
_LINES_WHEN_GOOD = 24
_LINES_WHEN_BAD = 40


def summary(record: RunRecord, *, width: int, color: bool, evidence: str) -> str:
    """Show a run on one screen: the verdict first, then why, what, where to look.

    Args:
        record: The run.
        width: Columns of the terminal.
        color: Whether colours may be used; the text says everything without them.
        evidence: Path of the evidence folder, as the user can open it.
    """
    page = _Page(width=max(width, _NARROWEST), color=color)
    good = record.verdict.decision is Decision.PROMOTE
    blocks = [
        [page.bar(record.verdict.decision), *_doubts(page, record), *_why(page, record)],
        _facts(page, record),
        _suites(page, record, limit=_SUITES_WHEN_GOOD if good else _SUITES_WHEN_BAD),
        _samples(page, record),
        [*_warnings(page, record), *_evidence(page, record, evidence)],
    ]
    if record.failure is not None:
        blocks.insert(1, _log(page, record.failure))
    return page.render([block for block in blocks if block], good=good)


class _Page:
    """Makes lines that fit a width; foreign text is only ever data, never markup."""

    def __init__(self, *, width: int, color: bool) -> None:
        self.width = width
        self._console = Console(
            file=io.StringIO(),
            width=width,
            color_system="standard" if color else None,
            force_terminal=color,
            no_color=not color,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
            _environ={},
        )

    def bar(self, decision: Decision) -> Text:
        """Return the verdict over the full width."""
        return Text(f" {decision.value} ".center(self.width, "="), style=_BAR[decision])

    def fact(self, label: str, value: str, *, lines: int = 2, style: str = "") -> list[Text]:
        """Return a label and its value, wrapped to at most `lines` lines."""
        return self.wrap(value, lines=lines, label=label, indent=_LABEL, style=style)

    def wrap(
        self, value: str, *, lines: int, label: str = "", indent: int = 2, style: str = ""
    ) -> list[Text]:
        """Wrap a text to at most `lines` indented lines, the first behind a label."""
        room = self.width - indent
        wrapped = list(Text(one_line(value, 2000), style=style).wrap(self._console, room))
        if len(wrapped) > lines:
            last = Text(f"{wrapped[lines - 1].plain.rstrip()} {wrapped[lines].plain}", style=style)
            wrapped = [*wrapped[: lines - 1], cut(last, room, always=True)]
        heads = [label, *[""] * (len(wrapped) - 1)]
        return [
            Text.assemble((head.ljust(indent), "bold"), line)
            for head, line in zip(heads, wrapped, strict=True)
        ]

    def render(self, blocks: list[list[Text]], *, good: bool) -> str:
        """Join blocks by blank lines where the screen has room for them."""
        limit = _LINES_WHEN_GOOD if good else _LINES_WHEN_BAD
        spare = limit - sum(len(block) for block in blocks)
        lines: list[Text] = []
        for index, block in enumerate(blocks):
            if index and spare >= len(blocks) - 1:
                lines.append(Text())
            lines += block
        with self._console.capture() as capture:
            for line in lines:
                line.rstrip()
                self._console.print(line, soft_wrap=True)
        return capture.get()


def _doubts(page: _Page, record: RunRecord) -> list[Text]:
    """Say first of all that a record cannot be what it says."""
    ink = "bold red"
    return [
        line
        for doubt in doubts(record)
        for line in page.wrap(f"WARNING: {doubt}", lines=4, style=ink)
    ]


def _why(page: _Page, record: RunRecord) -> list[Text]:
    ink = _INK[record.verdict.decision]
    failure = record.failure
    if failure is not None:
        lines = page.wrap(failure_line(record, failure), lines=2, indent=0, style=ink)
        if failure.diagnosis is not None:
            lines += page.fact("Failure", diagnosis_name(failure.diagnosis), style="bold")
        lines += page.fact("Cause", failure.message, lines=4, style="bold")
        lines += page.fact("Fix", failure.advice, lines=_FIX_LINES) if failure.advice else []
        return lines + [line for other in failure.others for line in _other(page, other)]
    reasons = record.verdict.reasons
    each = 1 if record.verdict.decision is Decision.PROMOTE else 2
    lines = [
        line
        for text in reasons[:_REASONS]
        for line in page.wrap(text, lines=each, label="- ", style=ink)
    ]
    if len(reasons) > _REASONS:
        lines += page.wrap(f"and {len(reasons) - _REASONS} more", lines=1, style=ink)
    return lines


def _other(page: _Page, other: Diagnosis) -> list[Text]:
    return page.fact("Or", f"{diagnosis_name(other)}: {other.cause}")


def _log(page: _Page, failure: StartFailure) -> list[Text]:
    """Show the lines that say what happened; the end of the log where nothing known was found."""
    diagnosis = failure.diagnosis
    lines: list[Text] = []
    if diagnosis is not None and diagnosis.evidence:
        lines.append(Text("What says so", style="bold"))
        for item in diagnosis.evidence:
            lines += page.wrap(evidence_line(item), label="  |", lines=2, indent=4, style="dim")
    tail = failure.tail[-_TAIL:]
    if tail and (not lines or diagnosis is None or diagnosis.id is None):
        lines.append(Text("End of the log", style="bold"))
        lines += (cut(Text(f"  | {one_line(line, 400)}", style="dim"), page.width) for line in tail)
    return lines


def _facts(page: _Page, record: RunRecord) -> list[Text]:
    lines = [line for label, value in target_facts(record) for line in page.fact(label, value)]
    memory = memory_line(record)
    lines += page.fact("Memory", memory) if memory else []
    use = gpu_use_line(record)
    lines += page.fact("GPU use", use) if use else []
    for label, text in performance_lines(record):
        lines += page.fact(label, text, lines=3)
    lines += page.fact("Time", time_line(record))
    phases = phase_line(record)
    lines += page.fact("Start-up", phases) if phases else []
    if record.comparison is not None:
        lines += page.fact("Baseline", comparison_line(record.comparison))
    waived = waived_words(record.waivers)
    if waived and record.verdict.decision is not Decision.PROMOTE:  # whose reasons name them
        lines += page.fact("Waived", waived)
    return lines


def _samples(page: _Page, record: RunRecord) -> list[Text]:
    """Show what the model wrote, for a person to judge."""
    samples = record.samples[:_SAMPLES]
    texts = [f"{sample.prompt!r} -> {sample.text!r}" for sample in samples]
    heads = ["Sample", *[""] * (len(texts) - 1)]
    return [
        line for head, text in zip(heads, texts, strict=False) for line in page.fact(head, text)
    ]


def _suites(page: _Page, record: RunRecord, *, limit: int) -> list[Text]:
    results = shown_results(record)
    if not any(result.outcome is not Outcome.NOT_RUN for result in results):
        known = f"{len(results)} not run" if results else "none ran"
        return page.fact("Checks", known, style="yellow")
    counts = _shorten(count_suites(record), limit)
    if len(counts) > 1:
        counts.append(sum_up("all", results))
    columns = [
        column
        for column in _COLUMNS
        if column[0] in _ALWAYS or any(count.outcomes.get(column[0]) for count in counts)
    ]
    head = Text("Suite".ljust(_SUITE_WIDTH), style="bold")
    for _, title, _ in columns:
        head.append(f"  {title}")
    lines = [head]
    for count in counts:
        name = cut(Text(printable(count.suite)), _SUITE_WIDTH)
        name.append(" " * (_SUITE_WIDTH - cell_len(name.plain)))
        for outcome, title, style in columns:
            number = count.outcomes.get(outcome, 0)
            name.append(f"{number or '-':>{len(title) + 2}}", style=style if number else "dim")
        lines.append(name)
    return [cut(line, page.width) for line in lines]


def _shorten(counts: list[SuiteCount], limit: int) -> list[SuiteCount]:
    """Sum up the last clean suites, and if need be all others, when there are too many."""
    if len(counts) <= limit:
        return counts
    ordered = sorted(counts, key=lambda count: count.clean)
    rest = ordered[limit - 1 :]
    outcomes = {kind: sum(c.outcomes.get(kind, 0) for c in rest) for kind in Outcome}
    summed = SuiteCount(suite=f"{len(rest)} more suites", outcomes=outcomes)
    return [*(count for count in counts if count not in rest), summed]


def _warnings(page: _Page, record: RunRecord) -> list[Text]:
    shown = list(record.warnings[:_WARNINGS])
    if len(record.warnings) > _WARNINGS:
        shown[-1] += f" (and {len(record.warnings) - _WARNINGS} more warnings)"
    return [line for text in shown for line in page.fact("Warning", text, style="yellow")]


def _evidence(page: _Page, record: RunRecord, evidence: str) -> list[Text]:
    """Say where to look; paths and commands are never cut, so that they can be copied."""
    path = one_line(evidence, 4096)
    failure = record.failure
    launched = failure is not None and failure.kind == "launch" and failure.phase != PREFLIGHT
    first = "server.log" if launched else _for_people(record)
    lines = [Text.assemble(("Evidence".ljust(_LABEL), "bold"), path, f"  (read {first} first)")]
    folders = check_folders(record.results)
    for bad in bad_results(record):
        folder = next((name for name, result in folders.items() if result is bad), None)
        if folder is not None:
            command = f"sh {shlex.quote(f'{path}/{folder}/replay.sh')}"
            lines.append(Text.assemble(("Repeat".ljust(_LABEL), "bold"), command))
            break
    if cell_len(lines[0].plain) > page.width:
        lines[0] = Text.assemble(("Evidence".ljust(_LABEL), "bold"), path)
    return lines


def _for_people(record: RunRecord) -> str:
    """Name what a person reads first, among what the run was asked to write."""
    words = setting(record, "report")
    if not isinstance(words, tuple):
        return REPORTS["md"].file  # an earlier version, which wrote no page
    named = {name.strip() for word in words for name in str(word).split(",")}
    pages = (name for name in ("html", "md") if not named or name in named)
    return next((REPORTS[name].file for name in pages), "run.json")
