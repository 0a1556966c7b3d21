"""Any `run.json` is a record or a clear error, and any record can be shown in every report."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_vllm.adapters.runs import read_run
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.record import RunRecord, from_json, to_json
from pytest_vllm.reports.registry import REPORTS
from tests.unit.fuzz import EVERYWHERE, IN_FIGURES, IN_PLAIN, JUNK, PLAIN, WHOLE, edited, tries

if TYPE_CHECKING:
    from pathlib import Path


def read(text: str) -> RunRecord | None:
    """Read a record; anything but a clear error is let through."""
    try:
        return from_json(text, where="run.json")
    except TargetError as error:
        refusal = error
    assert refusal.message.startswith("run.json ")
    assert len(refusal.message) < 1000
    assert "\n" not in refusal.message
    assert refusal.advice
    return None


def show(record: RunRecord) -> None:
    """Make every report of a record, as text that a file can hold."""
    for name, report in REPORTS.items():
        # not by Report.render, which makes a clear error of what should not happen
        text = getattr(import_module(report.module), report.function)(record)
        assert text.encode("utf-8", "backslashreplace").decode() or name == "attestation"
    assert to_json(from_json(to_json(record), where="again")) == to_json(record)


@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "replace")))
@tries(50)
@example(b"")
@example(b"\xff\xfe{}")
@example(b"[" * 100_000)
@example(b'{"schema": 2, "x": ' * 2_000)
@example(b'{"schema": 1' + b"0" * 5_000 + b"}")
@example(b'{"schema": NaN}')
@example(b'{"schema": -1e999}')
@example(b'{"schema": true}')
def test_any_bytes_are_a_run_or_a_clear_error(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(data)
    with pytest.raises(TargetError) as caught:
        read_run(str(tmp_path))
    assert str(file) in caught.value.message
    assert caught.value.advice


@given(st.dictionaries(st.sampled_from(list(WHOLE)), JUNK, max_size=8), st.sampled_from([1, 2, 3]))
@tries(100)
def test_any_json_is_a_record_or_a_clear_error(document: dict[str, Any], schema: int) -> None:
    read(json.dumps({**document, "schema": schema}))


@given(edited(EVERYWHERE))
@tries(12)
def test_an_edited_record_is_refused_or_shown(text: str) -> None:
    record = read(text)
    if record is not None:
        show(record)


@given(edited(IN_PLAIN, most=6) | edited(IN_FIGURES, most=6))
@tries(12)
def test_plain_data_of_a_record_may_hold_anything(text: str) -> None:
    record = read(text)
    if record is not None:
        show(record)


@pytest.mark.parametrize("field", PLAIN)
def test_a_field_of_plain_data_may_be_replaced(field: str) -> None:
    junk = {"": 1, "gpus": 1, "levels": [1, None, {}, {"rounds": [{}]}], "x": ["y"], "image": []}
    show(from_json(json.dumps({**WHOLE, field: junk}), where="run.json"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[" * 150 + "]" * 150, "is nested too deeply"),
        ("NaN", "holds nan"),
        ("1e999", "holds inf"),
        ("1" + "0" * 400, "holds a number of 1329 bits"),
    ],
)
def test_what_no_reader_can_bear_is_refused(value: str, words: str) -> None:
    text = json.dumps({**WHOLE, "launch": {"x": "HERE"}}).replace('"HERE"', value)
    with pytest.raises(TargetError, match=words):
        from_json(text, where="run.json")


def test_the_smallest_record_is_shown() -> None:
    """Only what has no default: nothing that a report takes for granted."""
    needed = ("schema", "run_id", "started", "duration_s", "backend")
    verdict = {"decision": "INCONCLUSIVE", "reasons": []}
    smallest = {**{key: WHOLE[key] for key in needed}, "verdict": verdict, "settings": []}
    for empty in ({}, {"started": "", "backend": ""}):
        show(from_json(json.dumps({**smallest, **empty}), where="run.json"))
