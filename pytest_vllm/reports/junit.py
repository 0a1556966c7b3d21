"""`junit.xml`: the checks in the form that every CI can show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.text import one_line, printable
from pytest_vllm.reports.details import exchange_details, start_details
from pytest_vllm.reports.diagnosis import diagnosis_name
from pytest_vllm.reports.facts import (
    finite_s,
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
    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.verdict import StartFailure
    from pytest_vllm.reports.verdict_case import VerdictCase

_TAGS = {
    Outcome.FAIL: "failure",
    Outcome.ERROR: "error",
    Outcome.NOT_APPLICABLE: "skipped",
    Outcome.WAIVED: "skipped",
    Outcome.NOT_RUN: "skipped",
}
_COUNTED = ("failure", "error", "skipped")
_PLURAL = {"failure": "failures", "error": "errors", "skipped": "skipped"}
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(record: RunRecord) -> str:
    """Write the run as JUnit XML: a suite each, a test case for each check.

    It is valid by Jenkins' schema `junit-10.xsd`, the published one that pytest itself follows. The
    verdict, the image and the model are properties of every suite, because that schema allows none
    at the top. A failed start is the one case of a suite named `launch`; a verdict that no other
    case tells is that of a suite named `verdict`.
    """
    root = ET.Element("testsuites")
    suites: dict[str, list[ET.Element]] = {}
    verdict = verdict_case(record)
    if verdict is not None:
        suites[VERDICT] = [_verdict(verdict)]
    if record.failure is not None:
        suites["launch"] = [_launch(record, record.failure)]
    for result in shown_results(record):
        suites.setdefault(one_line(result.check.suite), []).append(_case(result))
    for name in missing_checks(record):
        suites.setdefault(one_line(name.partition(".")[0]), []).append(_missing(name))
    for name, cases in suites.items():
        suite = ET.SubElement(root, "testsuite")
        _count(suite, f"vllm.{name}", cases)
        suite.set("timestamp", _legal(record.started))
        if host := record.environment.get("host"):
            suite.set("hostname", _legal(one_line(host)))
        figures = performance_properties(record) if name == "performance" else []
        suite.append(_properties([*_run_properties(record), *figures]))
        suite.extend(cases)
    every = [case for cases in suites.values() for case in cases]
    _count(root, f"pytest-vllm {record.verdict.decision.value}", every)
    root.set("time", _time(record.duration_s))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _count(element: ET.Element, name: str, cases: list[ET.Element]) -> None:
    tags = Counter(child.tag for case in cases for child in case)
    element.set("name", _legal(name))
    element.set("tests", str(len(cases)))
    for tag in _COUNTED if element.tag == "testsuite" else _COUNTED[:2]:  # as the schema has it
        element.set(_PLURAL[tag], str(tags[tag]))
    took = sum(float(case.get("time", "0")) for case in cases)
    element.set("time", _time(took))


def _run_properties(record: RunRecord) -> list[tuple[str, str]]:
    server = record.server
    model = server.model if server is not None else str(setting(record, "model") or "")
    known = [
        ("verdict", record.verdict.decision.value),
        ("run", record.run_id),
        ("image", image_name(record, whole_digest=True)),
        ("image.id" if is_image_id(record) else "image.digest", image_digest(record)),
        ("model", model),
        ("vllm.version", server.version if server is not None else ""),
        ("backend", record.backend),
    ]
    known += [("warning", doubt) for doubt in doubts(record)]
    known += [("reason", reason) for reason in record.verdict.reasons]
    return [(name, value) for name, value in known if value]


def _properties(pairs: list[tuple[str, str]]) -> ET.Element:
    element = ET.Element("properties")
    for name, value in pairs:
        ET.SubElement(element, "property", name=name, value=_legal(one_line(value, 2000)))
    return element


def _launch(record: RunRecord, failure: StartFailure) -> ET.Element:
    case = ET.Element("testcase", classname="vllm.launch", name="launch")
    case.set("time", _time(record.duration_s))
    error = ET.SubElement(case, "error", message=_legal(one_line(failure.message, 1000)))
    if failure.diagnosis is not None:
        error.set("type", _legal(diagnosis_name(failure.diagnosis)))
    error.text = _legal(start_details(record, failure))
    return case


def _verdict(verdict: VerdictCase) -> ET.Element:
    case = ET.Element("testcase", classname=f"vllm.{VERDICT}", name=VERDICT, time="0.000")
    message = _legal(one_line(verdict.message, 1000))
    ET.SubElement(case, _TAGS[verdict.outcome], message=message).text = _legal(verdict.reasons)
    return case


def _missing(name: str) -> ET.Element:
    """Return the case of a check that must have a result and has none at all."""
    shown = _legal(one_line(name))
    suite = shown.partition(".")[0]
    case = ET.Element("testcase", classname=f"vllm.{suite}", name=shown, time="0.000")
    ET.SubElement(case, "skipped", message=f"{Outcome.NOT_RUN.value}: {NO_RESULT}")
    return case


def _case(result: CheckResult) -> ET.Element:
    name = _legal(one_line(result.name))
    suite = _legal(one_line(result.check.suite))
    case = ET.Element("testcase", classname=f"vllm.{suite}", name=name)
    case.set("time", _time(result.duration_s))
    tag = _TAGS.get(result.outcome)
    if tag is not None:
        first = one_line(result.message, 1000) or result.outcome.value
        outcome = result.outcome.value
        said = tag != "skipped" or first.startswith(f"{outcome}:")
        reason = first if said else f"{outcome}: {first}"
        child = ET.SubElement(case, tag, message=_legal(reason))
        child.text = _legal(exchange_details(result)) if tag != "skipped" else None
    ET.SubElement(case, "system-out").text = _legal(_about(result))
    return case


def _about(result: CheckResult) -> str:
    """Tell what is known of a check as lines `[[PROPERTY|name=value]]` of its output.

    The schema gives a case no properties; where they go instead is the convention of
    https://github.com/testmoapp/junitxml.
    """
    check = result.check
    known = {
        "level": check.level.value,
        "layer": check.layer.value,
        "outcome": result.outcome.value,
        "ref": check.ref,
        "requirement": check.requirement,
    }
    return "".join(
        f"[[PROPERTY|{name}={one_line(value, 2000)}]]\n" for name, value in known.items() if value
    )


def _time(duration_s: float) -> str:
    """Return a duration as the schema has it: a decimal number of seconds."""
    return f"{finite_s(duration_s):.3f}"


def _legal(text: str) -> str:
    """Return what XML 1.0 can hold."""
    return _ILLEGAL.sub("", printable(text))
