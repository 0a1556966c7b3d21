"""Every report shows a failed start by its diagnosis: row, ID, cause, cure, lines with numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from pytest_vllm.domain.finding import Diagnosis, Evidence, Fault
from pytest_vllm.domain.record import RunRecord, from_json, to_json
from pytest_vllm.reports.junit import junit_xml
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.terminal import summary
from tests.unit.records import HOSTILE, all_not_run, make_failure, make_record

FOUND = Diagnosis(
    id="gpu.free-memory",
    ref="G7",
    fault=Fault.HOST,
    cause="only 66.06 of 79.18 GiB are free",
    cure="--vllm-serve-arg='--gpu-memory-utilization=0.81'",
    evidence=(Evidence(line=54, text="ValueError: Free memory"), Evidence(line=0, text="said so")),
    phase="config",
)
OTHER = Diagnosis(id="gpu.none", ref="G1", fault=Fault.HOST, cause="the server sees no GPU")
UNKNOWN = Diagnosis(
    id=None, ref=None, fault=None, cause="new", evidence=(Evidence(line=9, text="new"),)
)


def record_of(diagnosis: Diagnosis, *others: Diagnosis, kind: str = "host") -> RunRecord:
    failure = make_failure(
        kind=kind,
        message=f"{diagnosis.cause} - vLLM ended with exit code 1",
        advice=diagnosis.cure,
        diagnosis=diagnosis,
        others=others,
    )
    return make_record(all_not_run(), failure=failure)


def reports(record: RunRecord) -> dict[str, str]:
    return {
        "terminal": summary(record, width=100, color=False, evidence="/x"),
        "markdown": report_md(record),
        "junit": junit_xml(record),
    }


@pytest.mark.parametrize("report", ["terminal", "markdown", "junit"])
def test_a_known_failure_is_named_with_its_lines(report: str) -> None:
    text = reports(record_of(FOUND, OTHER))[report]
    for words in ("G7 gpu.free-memory", "66.06 of 79.18", "line 54: ValueError: Free memory"):
        assert words in text
    assert "engine: said so" in text, "what the engine said stands in no line"
    assert "gpu-memory-utilization=0.81" in text


def test_what_else_would_fit_is_told_to_a_reader() -> None:
    texts = reports(record_of(FOUND, OTHER))
    assert "G1 gpu.none: the server sees no GPU" in texts["terminal"]
    assert "G1 gpu.none: the server sees no GPU" in texts["markdown"]


def test_the_terminal_shows_the_end_of_the_log_where_nobody_knows_the_failure() -> None:
    assert "End of the log" not in reports(record_of(FOUND))["terminal"]
    text = reports(record_of(UNKNOWN, kind="launch"))["terminal"]
    assert "Failure   unknown" in text
    assert "line 9: new" in text
    assert "End of the log" in text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.HOST, "the host is to blame, not the image"),
        (Fault.NETWORK, "the network is to blame, not the image"),
        (Fault.FLAKY, "a passing fault is to blame, not the image"),
    ],
)
def test_who_is_to_blame_is_said_first(fault: Fault, words: str) -> None:
    found = Diagnosis(id="x.y", ref="H1", fault=fault, cause="c")
    assert words in reports(record_of(found))["terminal"].splitlines()[1]


def test_junit_gives_the_row_as_the_type_of_the_error() -> None:
    error = ET.fromstring(reports(record_of(FOUND))["junit"]).find(".//error")  # noqa: S314 - ours
    assert error is not None
    assert error.get("type") == "G7 gpu.free-memory"


def test_a_hostile_diagnosis_stays_data() -> None:
    found = Diagnosis(
        id="x.y", ref="H1", fault=None, cause=HOSTILE, evidence=(Evidence(line=1, text=HOSTILE),)
    )
    texts = reports(record_of(found, found))
    ET.fromstring(texts["junit"])  # noqa: S314 - ours
    assert "\x1b" not in texts["terminal"] + texts["markdown"]


def test_the_record_keeps_the_diagnosis() -> None:
    record = record_of(FOUND, OTHER)
    assert from_json(to_json(record), where="run.json").failure == record.failure
