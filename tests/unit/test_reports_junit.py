"""`junit.xml`, read back by a real parser of XML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.reports.junit import junit_xml
from tests.unit.performances import performance
from tests.unit.records import (
    DIGEST,
    HOSTILE,
    REQUIREMENT,
    all_not_run,
    hostile_record,
    make_failure,
    make_record,
    make_result,
)

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.verdict import StartFailure


SCHEMA = Path(__file__).parent.parent / "data" / "formats" / "junit-10.xsd"


def parse(record: RunRecord) -> ET.Element:
    return ET.fromstring(junit_xml(record).encode("utf-8"))  # noqa: S314 - our own text


def properties(element: ET.Element) -> dict[str, str]:
    found = element.findall("properties/property")
    return {item.attrib["name"]: item.attrib["value"] for item in found}


def test_suites_and_cases_are_named_after_the_checks() -> None:
    root = parse(make_record())
    assert root.attrib["tests"] == "61"
    suites = root.findall("testsuite")
    assert [suite.attrib["name"] for suite in suites][:2] == ["vllm.server", "vllm.models"]
    case = suites[0].find("testcase")
    assert case is not None
    assert case.attrib["name"] == "server.point0.holds"
    assert case.attrib["time"] == "0.200"
    assert (case.findtext("system-out") or "").splitlines() == [
        "[[PROPERTY|level=MUST]]",
        "[[PROPERTY|layer=compat]]",
        "[[PROPERTY|outcome=pass]]",
        "[[PROPERTY|ref=K04]]",
        f"[[PROPERTY|requirement={REQUIREMENT}]]",
    ]


def test_every_suite_says_what_was_tested() -> None:
    seen = properties(parse(make_record()).findall("testsuite")[0])
    assert seen["verdict"] == "PROMOTE"
    assert seen["image.digest"] == DIGEST
    assert seen["model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert seen["vllm.version"] == "0.32.0"


def test_each_outcome_has_its_element() -> None:
    results = tuple(
        make_result(f"chat.x.{outcome.name.lower()}", outcome, "why\nmore", case="c")
        for outcome in Outcome
    )
    root = parse(make_record(results))
    children = {
        case.attrib["name"]: [(child.tag, child.attrib.get("message")) for child in case][:-1]
        for case in root.iter("testcase")
    }
    assert children == {
        "chat.x.pass[c]": [],
        "chat.x.not_applicable[c]": [("skipped", "not applicable: why more")],
        "chat.x.waived[c]": [("skipped", "waived: why more")],
        "chat.x.not_run[c]": [("skipped", "not run: why more")],
        "chat.x.fail[c]": [("failure", "why more")],
        "chat.x.error[c]": [("error", "why more")],
    }
    suite = root.findall("testsuite")[0]
    for element in (root, suite):
        assert [element.attrib[name] for name in ("tests", "failures", "errors")] == ["6", "1", "1"]
    assert suite.attrib["skipped"] == "3"


def test_a_failure_carries_its_request_and_reply() -> None:
    root = parse(make_record((make_result("chat.a.b", Outcome.FAIL, "no", level=Level.SHOULD),)))
    text = root.findtext("testsuite/testcase/failure") or ""
    assert REQUIREMENT in text
    assert '{"model": "m"}' in text
    assert '{"usage": {"total_tokens": 21}}' in text


def test_a_failed_start_is_one_error() -> None:
    root = parse(make_record(all_not_run(), failure=make_failure()))
    assert root.attrib["errors"] == "1"
    assert sum(int(suite.attrib.get("skipped", "0")) for suite in root) == 61
    case = root.find("testsuite[@name='vllm.launch']/testcase[@name='launch']")
    assert case is not None
    error = case.find("error")
    assert error is not None
    assert "max seq len (131072)" in error.attrib["message"]
    assert "line number 19" in (error.text or "")
    assert "fix: lower --max-model-len" in (error.text or "")


def test_foreign_text_stays_text() -> None:
    root = parse(hostile_record())
    text = "".join(root.itertext())
    assert "<script>alert(1)</script>" in text
    assert "]]></system-out>" in text
    assert "\x00" not in text
    assert {element.tag for element in root.iter()} <= {
        "testsuites",
        "testsuite",
        "testcase",
        "properties",
        "property",
        "failure",
        "error",
        "skipped",
        "system-out",
    }


RECORDS = {
    "healthy": make_record(),
    "start failed": make_record(all_not_run(), failure=make_failure()),
    "nothing ran": make_record(()),
    "hostile": hostile_record(),
    "with a load": make_record(
        (make_result("performance.load.answers"),), performance=performance()
    ),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_the_published_schema_takes_it(record: RunRecord) -> None:
    """Valid by the schema of Jenkins' xUnit plugin, for a validator that is not ours."""
    xmlschema.XMLSchema(str(SCHEMA)).validate(junit_xml(record))


@pytest.mark.parametrize("took", [-1.0, float("inf"), float("-inf"), float("nan"), 1e300])
@pytest.mark.parametrize("failure", [None, make_failure()])
def test_odd_times_are_none(failure: StartFailure | None, took: float) -> None:
    record = make_record((make_result(duration_s=took),), failure=failure, duration_s=took)
    text = junit_xml(record)
    xmlschema.XMLSchema(str(SCHEMA)).validate(text)
    assert set(re.findall(r' time="([^"]*)"', text)) == {"0.000"}


def test_that_schema_refuses_what_it_does_not_know() -> None:
    text = junit_xml(make_record()).replace("<properties>", "<properties><unheard-of/>", 1)
    assert not xmlschema.XMLSchema(str(SCHEMA)).is_valid(text)


@given(st.text(st.characters()))
def test_any_message_gives_xml(message: str) -> None:
    result = make_result("chat.a.b", Outcome.FAIL, message, case=message)
    root = parse(make_record((result,), run_id=message or HOSTILE, started=message))
    assert len(list(root.iter("testcase"))) == 1
