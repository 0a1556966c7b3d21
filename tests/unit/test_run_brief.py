"""A run in short: the same as its whole record says, of any form, and an error for what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.errors import VllmError
from pytest_vllm.domain.record import Material, from_json, to_json
from pytest_vllm.domain.run_brief import brief_of, brief_record, moment
from pytest_vllm.domain.stored import record_facts
from pytest_vllm.domain.trend_lines import TrendRun
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.run_list import RunRow, run_lines
from pytest_vllm.reports.trend_words import Trend, cells
from tests.unit.performances import performance
from tests.unit.records import (
    DIGEST,
    all_passed,
    hostile_record,
    make_failure,
    make_record,
    make_result,
)

RECORDS = Path(__file__).parents[1] / "data" / "records"
MODEL = Material(kind="model", name="/m", sha256="a" * 64, of="listing of 1 file: 1 read whole")
GPUS = {"monitor": "amd", "gpus": [{"name": "AMD Instinct MI300X", "driver": "6.16.6"}] * 8}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def test_what_a_list_shows_is_read() -> None:
    results = (*all_passed(), make_result("chat.x.y", Outcome.FAIL))
    record = replace(make_record(results), performance=performance(), gpus=GPUS)
    brief = brief_record(record)
    assert brief.decision is Decision.REJECT
    assert brief.image == "rocm/vllm:0.32.0"
    assert brief.digest == DIGEST
    assert brief.model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert brief.gpus == "8x AMD Instinct MI300X"
    assert brief.outcomes == {"pass": len(all_passed()), "fail": 1}
    assert brief.facts == record_facts(record)
    assert brief.compared is not None
    assert len(brief.compared.figures["output_tokens_per_s"]) == 5


@pytest.mark.parametrize(
    "record",
    [
        make_record(),
        replace(make_record(), performance=performance()),
        make_record(backend="attach", materials=(MODEL,)),
        make_record(failure=make_failure()),
        hostile_record(),
    ],
)
def test_the_file_says_what_the_record_says(record: Any) -> None:
    read = brief_of(json.loads(to_json(record)), where="run.json")
    whole = brief_record(record)
    assert (read.run_id, read.started, read.decision) == (
        whole.run_id,
        whole.started,
        whole.decision,
    )
    assert read.outcomes == whole.outcomes
    assert read.levels == whole.levels
    assert read.facts == record_facts(from_json(to_json(record), where="run.json"))


@pytest.mark.parametrize("file", sorted(RECORDS.glob("*.json")), ids=lambda file: file.name)
def test_records_of_earlier_versions_are_listed(file: Path) -> None:
    document = json.loads(file.read_text())
    assert brief_of(document, where=file.name).run_id == document["run_id"]


@given(JSON)
def test_what_is_no_run_is_an_error_and_nothing_else(document: Any) -> None:
    fields = document if isinstance(document, dict) else {"verdict": document}
    with pytest.raises((ValueError, VllmError)):
        brief_of({"schema": 1, **fields}, where="run.json")


@settings(max_examples=50)
@given(
    st.sampled_from(
        (
            *("run_id", "started", "verdict", "settings", "launch", "server", "gpus", "results"),
            *("backend", "materials"),
        )
    ),
    JSON,
)
def test_a_part_that_is_something_else_is_an_error_or_left_out(name: str, value: Any) -> None:
    document = json.loads(to_json(replace(make_record(), performance=performance())))
    try:
        brief_of({**document, name: value}, where="run.json")
    except (ValueError, VllmError):
        return


@settings(max_examples=50)
@given(JSON)
def test_loads_that_are_something_else_are_an_error_or_left_out(value: Any) -> None:
    document = json.loads(to_json(make_record()))
    for performance_of in (value, {"levels": value}, {"levels": [{"rounds": value}]}):
        try:
            brief_of({**document, "performance": performance_of}, where="run.json")
        except (ValueError, VllmError):
            continue


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-23T00:30:00+02:00", "2026-11-22 22:30"),
        ("2026-11-22T22:30:00", "2026-11-22 22:30"),
        ("2026-11-22T12:00:00-12:00", "2026-11-23 00:00"),
    ],
)
def test_every_time_is_told_in_utc(text: str, shown: str) -> None:
    """Lists and trends say `began (UTC)`."""
    brief = brief_record(replace(make_record(), started=text))
    assert f"{brief.started:%Y-%m-%d %H:%M}" == shown
    assert brief.started == moment(text)
    row = RunRow(folder="a", name="a", began=brief.started, brief=brief)
    assert f"  {shown}  " in run_lines([row])
    trend = Trend(runs=[TrendRun(name="a", brief=brief)], metrics=())
    assert shown in cells(trend.runs[0], trend)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-14:00", "x"])
def test_a_time_that_utc_does_not_have_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"years|format"):
        moment(text)


def test_figures_that_nobody_measured_are_left_out() -> None:
    loads = performance()
    for one, value in zip(loads["levels"][0]["rounds"], (1e308, 1e308, -1e308, "7"), strict=False):
        one["figures"]["output_tokens_per_s"] = value
    brief = brief_record(replace(make_record(), performance=loads))
    assert brief.compared is not None
    assert len(brief.compared.figures["output_tokens_per_s"]) == 1
    assert len(brief.compared.figures["ttft_p50_ms"]) == 5
