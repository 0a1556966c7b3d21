"""Workflow commands by which a step of GitHub Actions shows the verdict beside the run.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions. GitHub shows ten of
each kind for a step and drops the others without a word, so the last one says how many are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.facts import bad_results, failure_line, image_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import RunRecord

MOST = 10
"""How many of each kind GitHub shows for a step."""
_TEXT_SHOWN = 800
_TITLE_SHOWN = 200
_REASONS_SHOWN = 5
_KINDS = {Decision.PROMOTE: "notice", Decision.REJECT: "error", Decision.INCONCLUSIVE: "warning"}

Item = tuple[str, str]
"""Title and text of an annotation."""


def annotate(record: RunRecord, *, evidence: str = "") -> list[str]:
    """Return the commands, the verdict first in its kind, then what failed, MUST before SHOULD.

    Args:
        record: The run.
        evidence: Where its evidence is, for the reader to look.
    """
    kinds: dict[str, list[Item]] = {"error": [], "warning": [], "notice": []}
    kinds[_KINDS[record.verdict.decision]].append(_verdict(record, evidence))
    if record.failure is not None:
        text = f"{failure_line(record, record.failure)}: {record.failure.message}"
        fix = f" Fix: {record.failure.advice}" if record.failure.advice else ""
        kind = "error" if record.verdict.decision is Decision.REJECT else "warning"
        kinds[kind].append(("The server did not start", f"{text}{fix}"))
    for result in bad_results(record):
        must = result.check.level is Level.MUST and result.outcome is Outcome.FAIL
        kinds["error" if must else "warning"].append(_check(result))
    kinds["warning"] += [("pytest-vllm", text) for text in (*doubts(record), *record.warnings)]
    return [line for kind, items in kinds.items() for line in _lines(kind, items)]


def command(kind: str, title: str, text: str) -> str:
    """Write one workflow command; nothing in title or text can end it or begin another."""
    title = _escape(one_line(title, _TITLE_SHOWN)).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{_escape(one_line(text, _TEXT_SHOWN))}"


def _lines(kind: str, items: Sequence[Item]) -> Iterable[str]:
    shown = items if len(items) <= MOST else items[: MOST - 1]
    yield from (command(kind, title, text) for title, text in shown)
    if left := len(items) - len(shown):
        yield command(kind, "pytest-vllm", f"and {left} more; the evidence of the run has all")


def _verdict(record: RunRecord, evidence: str) -> Item:
    reasons = list(record.verdict.reasons)
    left = len(reasons) - _REASONS_SHOWN
    said = [*reasons[:_REASONS_SHOWN], *([f"and {left} more"] if left > 0 else [])]
    image = image_name(record)
    of = f" {image}" if image else ""
    where = f" Evidence: {evidence}" if evidence else ""
    return (
        f"pytest-vllm {record.verdict.decision.value}{of}",
        f"{'; '.join(said) or record.verdict.decision.value}.{where}",
    )


def _check(result: CheckResult) -> Item:
    level = f"{result.check.level.value} {result.outcome.value}"
    return f"{level}: {result.name}", f"{result.check.requirement} {result.message}"


def _escape(text: str) -> str:
    """Escape as the runner reads it back, `%` first."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
