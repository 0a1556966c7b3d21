"""What a comparison says of two runs as a whole, whatever single checks came to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import Rules
from pytest_vllm.domain.run_comparison import RunComparison, compare_runs
from pytest_vllm.reports.compare_html import compare_html
from pytest_vllm.reports.compare_json import compare_json
from pytest_vllm.reports.compare_md import compare_md
from pytest_vllm.reports.compare_text import compare_text
from tests.unit.records import (
    all_not_run,
    all_passed,
    make_failure,
    make_record,
    make_result,
)
from tests.unit.test_run_comparison import side

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

GOOD = make_record()
ONE_FAILED = make_record((*all_passed()[1:], make_result(all_passed()[0].name, Outcome.FAIL)))
NOT_STARTED = make_record(all_not_run(), failure=make_failure())
HOST_FAILED = make_record(all_not_run(), failure=make_failure(kind="host"))
FEWER = make_record(all_passed()[3:], deselected=(all_passed()[0].check.id,))
UNSURE = make_record((make_result(all_passed()[0].name, Outcome.ERROR), *all_passed()[1:]))
ALSO_FAILED = make_record((*UNSURE.results, make_result("chat.x.y", Outcome.FAIL)))
OTHER_TEST_FAILED = replace(
    GOOD,
    verdict=replace(ONE_FAILED.verdict, reasons=("failed tests that are no checks: 2",)),
)


def held(base: RunRecord, candidate: RunRecord) -> RunComparison:
    return compare_runs(side(base), side(candidate, "b"))


@pytest.mark.parametrize(
    ("base", "candidate", "code", "said"),
    [
        (GOOD, NOT_STARTED, 1, "worse: the base ended in PROMOTE, the candidate in REJECT: the se"),
        (GOOD, HOST_FAILED, 75, "cannot tell: the candidate ended in INCONCLUSIVE: no server to"),
        (GOOD, OTHER_TEST_FAILED, 1, "worse: the base ended in PROMOTE, the candidate in REJECT"),
        (GOOD, FEWER, 75, "3 MUST checks that passed were not shown again (1 of them left out by"),
        (GOOD, UNSURE, 75, f"cannot tell: 1 check has no answer now: {all_passed()[0].name}"),
        (ONE_FAILED, UNSURE, 75, f"1 check has no answer now: {all_passed()[0].name}"),
        (UNSURE, ONE_FAILED, 1, "new and failing"),
        (UNSURE, ALSO_FAILED, 1, "new and failing"),
        (ONE_FAILED, NOT_STARTED, 1, "worse: the server of the base started, the candidate's did"),
        (HOST_FAILED, OTHER_TEST_FAILED, 75, "ended in REJECT, the base in INCONCLUSIVE"),
        (ONE_FAILED, ONE_FAILED, 0, "both ended in REJECT: nothing became worse, and neither may"),
    ],
)
def test_nothing_is_worse_is_said_of_what_was_shown_alone(
    base: RunRecord, candidate: RunRecord, code: int, said: str
) -> None:
    found = held(base, candidate)
    assert found.exit_code == code
    document = json.loads(compare_json(found))
    assert (document["exit_code"], document["candidate"]["decision"]) == (
        code,
        candidate.verdict.decision,
    )
    for render in (compare_text, compare_md, compare_html):
        text = " ".join(render(found).replace("&#39;", "'").split())
        assert said in text
        assert ("Nothing is worse" in text) is (code == 0)
        for run in (base, candidate):
            assert run.verdict.decision.value in text


def test_a_record_that_cannot_be_what_it_says_is_warned_of() -> None:
    """An edited record: PROMOTE, and a MUST check that failed."""
    edited = replace(ONE_FAILED, verdict=GOOD.verdict)
    found = held(edited, edited)
    assert found.exit_code == 75
    for render in (compare_text, compare_md, compare_html, compare_json):
        assert "the record says PROMOTE, and what it" in " ".join(render(found).split())


def test_required_checks_without_a_result_cannot_be_promoted() -> None:
    rules = Rules(profile="promote", complete=True, required=("chat.a.missing",))
    found = held(GOOD, replace(GOOD, rules=rules))
    assert "1 MUST check has no result: chat.a.missing" in found.doubts[0]
    assert found.exit_code == 75
