"""`ctrf.json`: the run in the Common Test Report Format.

The fields are those of CTRF's published schema (https://ctrf.io, npm package `ctrf`), which allows
no others; what it has no place for stands under its `extra`. Times are milliseconds.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.run_brief import moment
from pytest_vllm.domain.text import one_line, printable
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.details import exchange_details, start_details
from pytest_vllm.reports.facts import (
    failure_line,
    finite_s,
    gpu_line,
    image_digest,
    image_name,
    is_image_id,
    setting,
    shown_results,
)
from pytest_vllm.reports.performance import performance_properties
from pytest_vllm.reports.verdict_case import NAME as VERDICT
from pytest_vllm.reports.verdict_case import NO_RESULT, missing_checks, verdict_case

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import Attempt, RunRecord

SPEC = "0.0.0"
"""Version of the specification: the schema is published as `ctrf-schema-0.0`."""
STATUS: Mapping[Outcome, str] = {
    Outcome.PASS: "passed",
    Outcome.NOT_APPLICABLE: "skipped",
    Outcome.WAIVED: "other",
    Outcome.NOT_RUN: "pending",
    Outcome.FAIL: "failed",
    Outcome.ERROR: "failed",
}
"""CTRF has five words and we have six; `rawStatus` keeps ours. An error is no pass to anybody."""
_STATUSES = ("passed", "failed", "skipped", "pending", "other")
_MS = 1000
_MESSAGE_SHOWN = 1_000
_NAMES = uuid.UUID("6f9a3f0c-4f0b-5f0e-9d0a-3f1c8d6f2a71")
"""Namespace of our report IDs, so that a run always has the same one."""


def ctrf_json(record: RunRecord) -> str:
    """Write the run as CTRF; a failed or repeated start is a test named `launch`.

    A verdict that no other test tells is a test named `verdict`.
    """
    started = _started_ms(record)
    tests = [
        *_verdict(record),
        *_launch(record),
        *map(_test, shown_results(record)),
        *map(_missing, missing_checks(record)),
    ]
    document: dict[str, Any] = {
        "reportFormat": "CTRF",
        "specVersion": SPEC,
        "reportId": _report_id(record.run_id),
        "runId": printable(record.run_id) or "unknown",
        "timestamp": _timestamp(started + _ms(record.duration_s)),
        "generatedBy": f"pytest-vllm {record.environment.get('pytest-vllm', '')}".strip(),
        "results": {
            "tool": {"name": "pytest-vllm", "version": record.environment.get("pytest-vllm", "")},
            "summary": _summary(record, tests, started),
            "tests": tests,
            "environment": _environment(record),
            "extra": _extra(record),
        },
    }
    if record.comparison is not None:
        baseline = record.comparison.run_id
        document["baseline"] = {"reportId": _report_id(baseline), "source": printable(baseline)}
    return json.dumps(_clean(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _summary(record: RunRecord, tests: list[dict[str, Any]], started: int) -> dict[str, Any]:
    counts = Counter(test["status"] for test in tests)
    took = _ms(record.duration_s)
    return {
        "tests": len(tests),
        **{status: counts[status] for status in _STATUSES},
        "flaky": sum(test.get("flaky", False) for test in tests),
        "suites": len({test["suite"][0] for test in tests}),
        "start": started,
        "stop": started + took,
        "duration": took,
        "extra": {
            "verdict": record.verdict.decision.value,
            "outcomes": {
                outcome.value: count
                for outcome, count in Counter(r.outcome for r in shown_results(record)).items()
            },
        },
    }


def _test(result: CheckResult) -> dict[str, Any]:
    check = result.check
    test: dict[str, Any] = {
        "testId": printable(result.name) or "unnamed",
        "name": printable(result.name) or "unnamed",
        "status": STATUS[result.outcome],
        "rawStatus": result.outcome.value,
        "duration": _ms(result.duration_s),
        "suite": [printable(check.suite)],
        "type": "acceptance",
        "tags": [check.level.value, check.layer.value],
        "labels": {"level": check.level.value, "layer": check.layer.value},
        "extra": {"requirement": printable(check.requirement)},
    }
    if check.ref:
        test["labels"]["ref"] = printable(check.ref)
    if result.case:
        test["parameters"] = {"case": printable(result.case)}
    if result.message:
        test["message"] = one_line(result.message, _MESSAGE_SHOWN)
    if result.outcome in (Outcome.FAIL, Outcome.ERROR):
        test["trace"] = exchange_details(result)
    return test


def _verdict(record: RunRecord) -> Iterator[dict[str, Any]]:
    verdict = verdict_case(record)
    if verdict is not None:
        yield {
            "testId": VERDICT,
            "name": VERDICT,
            "status": STATUS[verdict.outcome],
            "rawStatus": verdict.outcome.value,
            "duration": 0,
            "suite": [VERDICT],
            "type": "acceptance",
            "message": one_line(verdict.message, _MESSAGE_SHOWN),
            "trace": printable(verdict.reasons),
        }


def _missing(name: str) -> dict[str, Any]:
    """Return the test of a check that must have a result and has none at all."""
    shown = printable(name) or "unnamed"
    return {
        "testId": shown,
        "name": shown,
        "status": STATUS[Outcome.NOT_RUN],
        "rawStatus": Outcome.NOT_RUN.value,
        "duration": 0,
        "suite": [shown.partition(".")[0] or "unnamed"],
        "type": "acceptance",
        "message": NO_RESULT,
    }


def _launch(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield the start as a test where it failed, or succeeded only when tried again."""
    failure = record.failure
    if failure is None and not record.attempts:
        return
    test: dict[str, Any] = {
        "testId": "launch",
        "name": "launch",
        "status": "passed" if failure is None else "failed",
        "rawStatus": "started" if failure is None else printable(failure.kind),
        "duration": _ms(sum(phase.duration_s or 0.0 for phase in record.phases)),
        "suite": ["launch"],
        "type": "acceptance",
        "retries": len(record.attempts),
        "flaky": failure is None,
    }
    if record.attempts:
        test["retryAttempts"] = [
            _attempt(number, attempt) for number, attempt in enumerate(record.attempts, 1)
        ]
    if failure is not None:
        test["message"] = one_line(failure.message, _MESSAGE_SHOWN) or failure_line(record, failure)
        test["trace"] = start_details(record, failure)
    yield test


def _attempt(number: int, attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": number,
        "status": "failed",
        "duration": _ms(sum(phase.duration_s or 0.0 for phase in attempt.phases)),
        "message": one_line(attempt.diagnosis.cause, _MESSAGE_SHOWN),
    }


def _environment(record: RunRecord) -> dict[str, Any]:
    server = record.server
    named = {
        "reportName": f"pytest-vllm {record.verdict.decision.value}",
        "appName": image_name(record, whole_digest=True),
        "appVersion": _address(record) or (server.version if server is not None else ""),
        "buildId": record.run_id,
        "osPlatform": record.environment.get("system", "").partition("-")[0].lower(),
        "osVersion": record.environment.get("system", ""),
        "testEnvironment": record.backend,
    }
    extra = {
        "model": server.model if server is not None else str(setting(record, "model") or ""),
        "vllm": server.version if server is not None else "",
        "gpus": gpu_line(record.gpus),
        "profile": record.rules.profile if record.rules is not None else "",
        **{key: value for key, value in record.environment.items() if key != "system"},
    }
    return {
        **{key: value for key, value in named.items() if value},
        "healthy": record.verdict.decision is Decision.PROMOTE and not doubts(record),
        "extra": {key: value for key, value in extra.items() if value},
    }


def _address(record: RunRecord) -> str:
    """Return the digest of the image; an ID, which no registry knows, is called one."""
    digest = image_digest(record)
    return f"image ID {digest}" if is_image_id(record) else digest


def _extra(record: RunRecord) -> dict[str, Any]:
    return {
        "verdict": record.verdict.decision.value,
        "reasons": list(record.verdict.reasons),
        "warnings": [*doubts(record), *record.warnings],
        "deselected": list(record.deselected),
        "figures": dict(performance_properties(record)),
        "materials": [
            {"kind": item.kind, "name": item.name, "sha256": item.sha256}
            for item in record.materials
        ],
    }


def _report_id(run_id: str) -> str:
    return str(uuid.uuid5(_NAMES, printable(run_id)))


def _started_ms(record: RunRecord) -> int:
    """Return the time of the start, 0 where the record has none that can be read."""
    try:
        return max(0, _ms(moment(record.started).timestamp()))
    except (ValueError, OverflowError, OSError):
        return 0


def _timestamp(at_ms: int) -> str:
    try:
        return dt.datetime.fromtimestamp(at_ms / _MS, tz=dt.UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return dt.datetime.fromtimestamp(0, tz=dt.UTC).isoformat(timespec="seconds")


def _ms(seconds: float) -> int:
    return round(finite_s(seconds) * _MS)


def _clean(value: Any) -> Any:
    """Return the document with texts that any reader of UTF-8 accepts."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value
