"""A run that is not PROMOTE is red in every report of cases, and one that cannot be it says so."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
import xmlschema

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.record import Rules, RunRecord
from pytest_vllm.domain.verdict import Decision, Verdict, decide
from pytest_vllm.reports.annotations import annotate
from pytest_vllm.reports.ctrf import ctrf_json
from pytest_vllm.reports.html import report_html
from pytest_vllm.reports.junit import junit_xml
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.openmetrics import metrics_prom
from pytest_vllm.reports.terminal import summary
from tests.unit.records import all_passed, hostile_record, make_failure, make_record, make_result
from tests.unit.test_reports_ctrf import read
from tests.unit.test_reports_junit import SCHEMA, parse, properties

DIED = "the server ended by itself: exit code 139"
"""No case of a check says it."""


def judged(**known: Any) -> RunRecord:
    return make_record(verdict=decide(all_passed(), **known))


CASES = [
    (judged(died=DIED), "failure", f"REJECT: {DIED}"),
    (judged(interrupted="Ctrl-C"), "error", "INCONCLUSIVE: the run was ended early: Ctrl-C"),
    (
        judged(complete=True, idle_waivers=("chat.a.b: a waiver that nobody needs",)),
        "error",
        "INCONCLUSIVE: chat.a.b: a waiver that nobody needs",
    ),
    (make_record((), verdict=Verdict(decision=Decision.INCONCLUSIVE, reasons=())), "error", "INC"),
]


@pytest.mark.parametrize(("record", "tag", "message"), CASES)
def test_a_reason_that_no_check_tells_is_a_case_of_its_own(
    record: RunRecord, tag: str, message: str
) -> None:
    root = parse(record)
    assert xmlschema.XMLSchema(str(SCHEMA)).is_valid(junit_xml(record))
    suite = root.findall("testsuite")[0]
    assert (suite.attrib["name"], properties(suite)["verdict"]) == (
        "vllm.verdict",
        record.verdict.decision,
    )
    child = suite.findall("testcase")[0].find(tag)
    assert child is not None
    assert child.attrib["message"].startswith(message)
    assert int(root.attrib["failures"]) + int(root.attrib["errors"]) == 1
    test = read(record)["results"]["tests"][0]
    assert (test["name"], test["status"]) == ("verdict", "failed")
    assert test["message"].startswith(message)


@pytest.mark.parametrize(
    "record",
    [
        make_record(),
        make_record((*all_passed(), make_result("chat.a.b", Outcome.FAIL))),
        make_record((), failure=make_failure()),
        hostile_record(),
    ],
)
def test_where_a_case_says_it_there_is_no_second(record: RunRecord) -> None:
    assert "vllm.verdict" not in junit_xml(record)
    assert "verdict" not in {test["name"] for test in read(record)["results"]["tests"]}


def test_a_required_check_without_a_result_is_a_case_that_was_skipped() -> None:
    rules = Rules(
        profile="promote", complete=True, required=("chat.point0.holds", "memory.a.b", "chat.c.d")
    )
    record = replace(judged(interrupted="Ctrl-C"), rules=rules)
    skipped = {case.attrib["name"]: case.find("skipped") for case in parse(record).iter("testcase")}
    named = {name: child.attrib["message"] for name, child in skipped.items() if child is not None}
    assert set(named) == {"memory.a.b", "chat.c.d"}
    assert "it has none" in named["memory.a.b"]
    tests = {test["name"]: test for test in read(record)["results"]["tests"]}
    assert [tests[name]["status"] for name in ("memory.a.b", "chat.c.d")] == ["pending"] * 2
    assert tests["memory.a.b"]["suite"] == ["memory"]


FAILED = (*all_passed(), make_result("chat.a.b", Outcome.FAIL))
BROKEN = (*all_passed(), make_result("chat.c.d", Outcome.ERROR))
PROMOTED = make_record().verdict
SHOWS_NOTHING = (
    make_result("chat.a.b", level=Level.SHOULD),
    make_result("chat.c.d", Outcome.WAIVED),
    make_result("chat.e.f", Outcome.NOT_APPLICABLE),
)
NOTHING = "no MUST check passed, so nothing was shown"
FORGED = [
    (make_record(FAILED, verdict=PROMOTED), "1 MUST check failed: chat.a.b"),
    (make_record(BROKEN, verdict=PROMOTED), "1 MUST check could not be judged: chat.c.d"),
    (make_record(failure=make_failure(), verdict=PROMOTED), "its server did not start"),
    (
        make_record(rules=Rules(profile="p", complete=True, required=("a.b",))),
        "1 MUST check has no result: a.b",
    ),
    (make_record((), verdict=PROMOTED), NOTHING),
    (make_record(SHOWS_NOTHING, verdict=PROMOTED), NOTHING),
]


@pytest.mark.parametrize(("record", "why"), FORGED)
def test_a_record_that_cannot_be_what_it_says_is_warned_of_first(
    record: RunRecord, why: str
) -> None:
    page = report_html(record)
    assert page.index("WARNING: the record says PROMOTE") < page.index('class="which"')
    assert 'data-tone="warn"' in page
    assert "WARNING: the record says PROMOTE" in report_md(record).splitlines()[2]
    assert "WARNING" in summary(record, width=80, color=False, evidence="e").splitlines()[1]
    results = json.loads(ctrf_json(record))["results"]
    assert results["environment"]["healthy"] is False
    first = ET.fromstring(junit_xml(record)).find("testsuite/testcase/error")  # noqa: S314 - ours
    texts = [page, report_md(record), results["extra"]["warnings"][0], "".join(annotate(record))]
    assert first is not None
    for text in (*texts, first.attrib["message"]):
        assert why in text
    assert "vllm_acceptance_doubts{" in metrics_prom(record)


def test_a_sound_record_is_not_doubted() -> None:
    for record in (
        make_record(),
        make_record(FAILED),
        make_record(BROKEN),
        make_record((), failure=make_failure()),
        make_record((*SHOWS_NOTHING, make_result("chat.g.h"))),
    ):
        assert "WARNING" not in report_md(record)
        assert "WARNING" not in report_html(record)
