"""`ctrf.json`, held to CTRF's published schema and read back."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.finding import Diagnosis, Fault
from pytest_vllm.domain.phases import Phase
from pytest_vllm.domain.record import Attempt, Material
from pytest_vllm.reports.ctrf import ctrf_json
from tests.unit.performances import performance
from tests.unit.records import (
    DIGEST,
    HOSTILE,
    REQUIREMENT,
    all_not_run,
    hostile_record,
    make_comparison,
    make_failure,
    make_record,
    make_result,
)

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

FILE = Path(__file__).parent.parent / "data" / "formats" / "ctrf-schema-0.0.json"
SCHEMA = jsonschema.Draft7Validator(
    json.loads(FILE.read_text()), format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
)


def read(record: RunRecord) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ctrf_json(record).encode("utf-8"))
    SCHEMA.validate(document)
    return document


def attempt() -> Attempt:
    found = Diagnosis(id="net.reset", ref="N1", fault=Fault.FLAKY, cause="the Hub hung up")
    return Attempt(diagnosis=found, phases=(Phase(name="start", start_s=0.0, duration_s=2.5),))


def test_a_passing_run_is_told() -> None:
    document = read(make_record())
    results = document["results"]
    assert document["reportFormat"] == "CTRF"
    assert results["tool"]["name"] == "pytest-vllm"
    summary = results["summary"]
    assert summary["tests"] == summary["passed"] == 61
    assert summary["failed"] == summary["skipped"] == summary["pending"] == summary["other"] == 0
    assert summary["suites"] == 6
    assert summary["stop"] - summary["start"] == summary["duration"] == 41_700
    began = dt.datetime(2026, 11, 22, 18, 19, 30, tzinfo=dt.UTC)
    assert summary["start"] == began.timestamp() * 1000
    environment = results["environment"]
    assert environment["appVersion"] == DIGEST
    assert environment["reportName"] == "pytest-vllm PROMOTE"
    assert environment["healthy"] is True
    assert environment["extra"]["model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    first = results["tests"][0]
    assert first["name"] == first["testId"] == "server.point0.holds"
    assert first["suite"] == ["server"]
    assert first["duration"] == 200
    assert first["tags"] == ["MUST", "compat"]
    assert first["labels"] == {"level": "MUST", "layer": "compat", "ref": "K04"}
    assert first["extra"] == {"requirement": REQUIREMENT}


def test_each_outcome_has_a_status_and_keeps_its_own_word() -> None:
    results = tuple(
        make_result(f"chat.x.y{n}", outcome, "why") for n, outcome in enumerate(Outcome)
    )
    document = read(make_record(results))
    seen = {test["rawStatus"]: test["status"] for test in document["results"]["tests"]}
    assert seen == {
        "pass": "passed",
        "not applicable": "skipped",
        "waived": "other",
        "not run": "pending",
        "fail": "failed",
        "error": "failed",
    }
    summary = document["results"]["summary"]
    assert summary["tests"] == sum(
        summary[name] for name in ("passed", "failed", "skipped", "pending", "other")
    )
    assert document["results"]["environment"]["healthy"] is False


def test_a_failure_has_its_case_message_and_exchange() -> None:
    result = make_result("chat.a.b", Outcome.FAIL, "21 is\nnot 20", case="stream")
    (test,) = read(make_record((result,)))["results"]["tests"]
    assert test["name"] == "chat.a.b[stream]"
    assert test["parameters"] == {"case": "stream"}
    assert test["message"] == "21 is not 20"
    assert '{"usage": {"total_tokens": 21}}' in test["trace"]


def test_a_start_that_worked_only_when_tried_again_is_flaky() -> None:
    document = read(make_record(attempts=(attempt(),)))
    launch = document["results"]["tests"][0]
    assert (launch["name"], launch["status"], launch["flaky"]) == ("launch", "passed", True)
    assert launch["retries"] == 1
    assert launch["retryAttempts"] == [
        {"attempt": 1, "status": "failed", "duration": 2500, "message": "the Hub hung up"}
    ]
    assert document["results"]["summary"]["flaky"] == 1


def test_a_start_that_failed_is_a_failed_test() -> None:
    record = make_record(all_not_run(), failure=make_failure(), attempts=(attempt(),))
    document = read(record)
    launch = document["results"]["tests"][0]
    assert (launch["name"], launch["status"], launch["flaky"]) == ("launch", "failed", False)
    assert "max seq len (131072)" in launch["message"]
    assert "line number 19" in launch["trace"]
    assert document["results"]["summary"]["failed"] == 1
    assert document["results"]["summary"]["pending"] == 61


def test_a_baseline_is_named_by_the_id_of_its_own_report() -> None:
    record = make_record(comparison=make_comparison())
    earlier = make_record(run_id=make_comparison().run_id)
    assert read(record)["baseline"]["reportId"] == read(earlier)["reportId"]
    assert read(record)["reportId"] == read(record)["reportId"] != read(earlier)["reportId"]


def test_figures_and_materials_stand_in_the_extension() -> None:
    item = Material(kind="suite", name="suites/test_chat.py", sha256="ab" * 32)
    extra = read(make_record(performance=performance(), materials=(item,)))["results"]["extra"]
    assert float(extra["figures"]["performance.c8.ttft_p50_ms"]) == pytest.approx(200, rel=0.1)
    assert extra["materials"] == [
        {"kind": "suite", "name": "suites/test_chat.py", "sha256": "ab" * 32}
    ]


def test_hostile_text_stays_text() -> None:
    text = json.dumps(read(hostile_record()), ensure_ascii=False)
    assert "<script>" in text
    assert "\x1b" not in text
    assert "\ud800" not in text


@pytest.mark.parametrize("started", ["", "yesterday", "0001-01-01T00:00:00+14:00", HOSTILE])
@pytest.mark.parametrize("took", [0.0, -1.0, float("inf"), float("nan"), 1e300])
def test_odd_times_leave_a_valid_report(started: str, took: float) -> None:
    record = make_record((make_result(duration_s=took),), started=started, duration_s=took)
    assert read(record)["results"]["summary"]["tests"] == 1


def test_a_time_without_a_zone_is_the_same_on_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        summary = read(make_record(started="2026-11-22T18:19:30"))["results"]["summary"]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert summary["start"] == 1_795_371_570_000


@given(st.text(st.characters()))
def test_any_text_gives_a_valid_report(text: str) -> None:
    result = make_result("chat.a.b", Outcome.FAIL, text, case=text)
    record = make_record((result,), run_id=text, environment={text: text, "system": text})
    assert len(read(record)["results"]["tests"]) == 1
