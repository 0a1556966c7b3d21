"""Records of earlier versions: read, upgraded and rendered in every report of today."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest
import xmlschema
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pytest_vllm.cli import main
from pytest_vllm.domain.record import from_json, to_json
from pytest_vllm.domain.record_history import SCHEMA
from pytest_vllm.reports.registry import REPORTS
from tests.unit.record_shape import shape

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

DATA = Path(__file__).parent.parent / "data"
RECORDS = sorted((DATA / "records").glob("*.json"))
ERAS = {"spine", "suites", "launch", "memory", "load"}


@pytest.fixture(params=RECORDS, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    """A record of an earlier version."""
    return Path(request.param)


@pytest.fixture
def old(file: Path) -> RunRecord:
    """What it says today."""
    return from_json(file.read_text(), where=file.name)


def test_there_is_one_of_each_version() -> None:
    assert {file.stem.partition("-")[0] for file in RECORDS} >= ERAS


def test_a_record_is_upgraded_without_loss(file: Path, old: RunRecord) -> None:
    """What was written stays as it was; what the version did not know is empty."""
    before = json.loads(file.read_text())
    text = to_json(old)
    after = json.loads(text)
    assert after["schema"] == SCHEMA
    assert from_json(text, where="again") == old
    _holds(before, after, where="run")


def _holds(before: object, after: object, *, where: str) -> None:
    """Assert that all of one document is in another; keys may have come to it."""
    if isinstance(before, dict):
        assert isinstance(after, dict), where
        for key, value in before.items():
            if (where, key) != ("run", "schema"):
                _holds(value, after[key], where=f"{where}.{key}")
    elif isinstance(before, list):
        assert isinstance(after, list), where
        assert len(before) == len(after), where
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            _holds(one, other, where=f"{where}[{index}]")
    else:
        assert before == after, where


def test_every_report_is_made_of_it(file: Path, old: RunRecord) -> None:
    """Each is whole by its own format; only a statement needs what no earlier record has."""
    texts = {name: report.render(old) for name, report in REPORTS.items()}
    assert [name for name, text in texts.items() if not text] == ["attestation"]
    decision = old.verdict.decision.value
    assert decision in texts["md"].splitlines()[0]
    assert decision in texts["html"]
    xmlschema.XMLSchema(str(DATA / "formats" / "junit-10.xsd")).validate(texts["junit"])
    schema = json.loads((DATA / "formats" / "ctrf-schema-0.0.json").read_text())
    ctrf = json.loads(texts["ctrf"])
    jsonschema.validate(ctrf, schema, format_checker=jsonschema.FormatChecker())
    assert uuid.UUID(ctrf["reportId"])
    names = {family.name for family in text_string_to_metric_families(texts["prom"])}
    assert "vllm_acceptance_result" in names
    if file.stem == "load-compared":
        assert {"vllm_acceptance_load_latency_seconds", "vllm_acceptance_change_ratio"} <= names
        assert "Since the baseline" in texts["md"]


def test_the_verb_writes_all_of_them(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(file), "--all", "--output", str(tmp_path / "out")]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    wanted = {report.file for report in REPORTS.values()} | {"run.json"}
    assert written == wanted - {"attestation.json"}
    assert "no attestation.json: " in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["schema"] == SCHEMA


def test_the_form_that_is_written_is_the_one_on_record() -> None:
    """Who changes the form must think of the records that are there already."""
    assert shape() == (DATA / "records" / "shape.txt").read_text(), (
        "the form of run.json changed. Raise SCHEMA in domain/record_history.py, add the step from "
        "the last form to it, keep a record of the last form in tests/data/records, then: python "
        "-m tests.unit.record_shape > tests/data/records/shape.txt"
    )
