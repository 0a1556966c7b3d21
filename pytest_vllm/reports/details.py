"""What a person needs of a failure, as plain text: for files that show a text and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.exchange import shorten
from pytest_vllm.domain.text import printable
from pytest_vllm.reports.diagnosis import diagnosis_name, evidence_line
from pytest_vllm.reports.facts import failure_line

if TYPE_CHECKING:
    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.verdict import StartFailure

_BODY_SHOWN = 2_000


def exchange_details(result: CheckResult) -> str:
    """Return the requirement, what was seen, and the last request with its reply."""
    lines = [result.check.requirement, "", result.message]
    if result.exchanges:
        last = result.exchanges[-1]
        status = "no reply" if last.status is None else f"HTTP {last.status}"
        lines += ["", f"{last.method} {last.url}", shorten(last.request_body, _BODY_SHOWN)]
        lines += ["", f"{status} {last.failure}", shorten(last.response_body, _BODY_SHOWN)]
    return printable("\n".join(lines))


def start_details(record: RunRecord, failure: StartFailure) -> str:
    """Return why there was no server: the state, the cure, the diagnosis and the log's end."""
    lines = [failure_line(record, failure), failure.message]
    lines += [f"fix: {failure.advice}"] if failure.advice else []
    if failure.diagnosis is not None:
        lines += ["", diagnosis_name(failure.diagnosis)]
        lines += [evidence_line(item) for item in failure.diagnosis.evidence]
    return printable("\n".join([*lines, "", *failure.tail]))
