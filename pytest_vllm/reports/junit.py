"""`junit.xml`: the checks in the form that every CI can show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.exchange import shorten
from pytest_vllm.domain.text import one_line, printable
from pytest_vllm.reports.diagnosis import diagnosis_name, evidence_line
from pytest_vllm.reports.facts import (
    failure_line,
    image_digest,
    image_name,
    setting,
    shown_results,
)
from pytest_vllm.reports.performance import performance_properties

if TYPE_CHECKING:
    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.verdict import StartFailure

_TAGS = {
    Outcome.FAIL: "failure",
    Outcome.ERROR: "error",
    Outcome.NOT_APPLICABLE: "skipped",
    Outcome.WAIVED: "skipped",
    Outcome.NOT_RUN: "skipped",
}
_COUNTED = ("failure", "error", "skipped")
_PLURAL = {"failure": "failures", "error": "errors", "skipped": "skipped"}
_BODY_SHOWN = 2_000
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(record: RunRecord) -> str:
    """Write the run as JUnit XML: a suite each, a test case for each check.

    The verdict, the image and the model are properties of every suite, because the common schema
    allows none at the top. A failed start is the one case of a suite named `launch`.
    """
    root = ET.Element("testsuites")
    suites: dict[str, list[ET.Element]] = {}
    if record.failure is not None:
        suites["launch"] = [_launch(record, record.failure)]
    for result in shown_results(record):
        suites.setdefault(one_line(result.check.suite), []).append(_case(result))
    for name, cases in suites.items():
        suite = ET.SubElement(root, "testsuite")
        _count(suite, f"vllm.{name}", cases)
        suite.set("timestamp", _legal(record.started))
        figures = performance_properties(record) if name == "performance" else []
        suite.append(_properties([*_run_properties(record), *figures]))
        suite.extend(cases)
    every = [case for cases in suites.values() for case in cases]
    _count(root, f"pytest-vllm {record.verdict.decision.value}", every)
    root.set("time", f"{record.duration_s:.3f}")
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _count(element: ET.Element, name: str, cases: list[ET.Element]) -> None:
    tags = Counter(child.tag for case in cases for child in case)
    element.set("name", _legal(name))
    element.set("tests", str(len(cases)))
    for tag in _COUNTED:
        element.set(_PLURAL[tag], str(tags[tag]))
    took = sum(float(case.get("time", "0")) for case in cases)
    element.set("time", f"{took:.3f}")


def _run_properties(record: RunRecord) -> list[tuple[str, str]]:
    server = record.server
    model = server.model if server is not None else str(setting(record, "model") or "")
    known = [
        ("verdict", record.verdict.decision.value),
        ("run", record.run_id),
        ("image", image_name(record, whole_digest=True)),
        ("image.digest", image_digest(record)),
        ("model", model),
        ("vllm.version", server.version if server is not None else ""),
        ("backend", record.backend),
    ]
    known += [("reason", reason) for reason in record.verdict.reasons]
    return [(name, value) for name, value in known if value]


def _properties(pairs: list[tuple[str, str]]) -> ET.Element:
    element = ET.Element("properties")
    for name, value in pairs:
        ET.SubElement(element, "property", name=name, value=_legal(one_line(value, 2000)))
    return element


def _launch(record: RunRecord, failure: StartFailure) -> ET.Element:
    case = ET.Element("testcase", classname="vllm.launch", name="launch")
    case.set("time", f"{record.duration_s:.3f}")
    error = ET.SubElement(case, "error", message=_legal(one_line(failure.message, 1000)))
    lines = [failure_line(record, failure), failure.message]
    lines += [f"fix: {failure.advice}"] if failure.advice else []
    if failure.diagnosis is not None:
        error.set("type", _legal(diagnosis_name(failure.diagnosis)))
        lines += ["", diagnosis_name(failure.diagnosis)]
        lines += [evidence_line(item) for item in failure.diagnosis.evidence]
    error.text = _legal("\n".join([*lines, "", *failure.tail]))
    return case


def _case(result: CheckResult) -> ET.Element:
    name = _legal(one_line(result.name))
    suite = _legal(one_line(result.check.suite))
    case = ET.Element("testcase", classname=f"vllm.{suite}", name=name)
    case.set("time", f"{result.duration_s:.3f}")
    about = [("level", result.check.level.value), ("layer", result.check.layer.value)]
    about += [("ref", result.check.ref)] if result.check.ref else []
    case.append(_properties([*about, ("requirement", result.check.requirement)]))
    tag = _TAGS.get(result.outcome)
    if tag is not None:
        first = one_line(result.message, 1000) or result.outcome.value
        outcome = result.outcome.value
        said = tag != "skipped" or first.startswith(f"{outcome}:")
        reason = first if said else f"{outcome}: {first}"
        child = ET.SubElement(case, tag, message=_legal(reason))
        child.text = _legal(_details(result)) if tag != "skipped" else None
    return case


def _details(result: CheckResult) -> str:
    lines = [result.check.requirement, "", result.message]
    if result.exchanges:
        last = result.exchanges[-1]
        status = "no reply" if last.status is None else f"HTTP {last.status}"
        lines += ["", f"{last.method} {last.url}", shorten(last.request_body, _BODY_SHOWN)]
        lines += ["", f"{status} {last.failure}", shorten(last.response_body, _BODY_SHOWN)]
    return "\n".join(lines)


def _legal(text: str) -> str:
    """Return what XML 1.0 can hold."""
    return _ILLEGAL.sub("", printable(text))
