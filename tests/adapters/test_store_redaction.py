"""Secrets are taken out of a record once, and what is made of it keeps its form."""

from __future__ import annotations

import json
import platform
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pytest_vllm.adapters.runs import read_run
from pytest_vllm.adapters.store import EvidenceFolder
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.observation import Sample
from pytest_vllm.domain.record import Rules
from pytest_vllm.domain.statement import problems
from pytest_vllm.evidence.folder import folder_points
from pytest_vllm.reports.registry import MAKERS, REPORTS
from tests.unit.fuzz import tries
from tests.unit.records import make_exchange, make_record, make_result

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

SECRET = "s3cret-s3cret"  # noqa: S105 - what must not be seen
TOKEN = "abcdefgh.12345=="  # noqa: S105 - as above
PIECES = st.sampled_from(
    [
        *("Bearer ", "bearer ", "Authorization: Bearer ", '{"authorization": "Bearer '),
        *(TOKEN, "abc", "said", SECRET, "hf_abcdefghijklmnopqrst", "understands"),
        *('"', "'", "\\", "\n", "\\n", "<", "&", "</system-out>", "]]>", " "),
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=6).map("".join)
VERSIONS = {"python": platform.python_version()}
VERSIONS |= {name: version(name) for name in ("pytest-vllm", *MAKERS)}


def saying(*texts: str) -> RunRecord:
    """Return the record of a rejected run in which a server says this in turn."""
    one, two, three = (texts * 3)[:3]
    exchange = make_exchange(request_body=one, response_body=two, failure=three)
    failed = make_result("chat.x.y", Outcome.FAIL, one, case=two, exchanges=(exchange,))
    return make_record(
        (make_result("chat.a.b"), failed),
        rules=Rules(profile=three),
        warnings=(one, two),
        samples=(Sample(title=one, prompt=two, text=three),),
        launch={**make_record().launch, "docker_run": one, "entrypoint": [two]},
        environment={**VERSIONS, "note": three},
    )


def write(folder: Path, record: RunRecord) -> EvidenceFolder:
    evidence = EvidenceFolder.create(folder, "run", secrets=(SECRET,))
    reports = {report.file: report.render for report in REPORTS.values()}
    assert evidence.write(record, files=reports, log_lines=()) == ()
    return evidence


@tries(25)
@given(TEXTS, TEXTS, TEXTS)
def test_whatever_is_said_the_evidence_is_whole(one: str, two: str, three: str) -> None:
    record = saying(one, two, three)
    with TemporaryDirectory() as root:
        evidence = write(Path(root), record)
        run = read_run(str(evidence.path))
        assert run.record == evidence.redacted(record)
        statement = (evidence.path / "attestation.json").read_text()
        assert problems(run.record, record_sha256=run.sha256, text=statement) == ()
        assert [point for point in folder_points(run) if point.ok is not True] == []
        json.loads((evidence.path / "ctrf.json").read_text())
        ET.fromstring((evidence.path / "junit.xml").read_text())  # noqa: S314 - our own
        list(text_string_to_metric_families((evidence.path / "metrics.prom").read_text()))
        (exchanges,) = evidence.path.glob("checks/*/exchange.json")
        json.loads(exchanges.read_text())
        for file in evidence.path.rglob("*"):
            assert file.is_dir() or SECRET not in file.read_text(), file.name


@pytest.mark.parametrize(
    "text",
    ['{"authorization": "Bearer abc"}', "Bearer abc\nnext line", f"Bearer {TOKEN}</system-out>"],
    ids=["json", "line", "xml"],
)
def test_nothing_but_the_token_goes(tmp_path: Path, text: str) -> None:
    """What used to lose a backslash, a line end or a closing tag, and with it the file."""
    evidence = write(tmp_path, saying(text))
    assert read_run(str(evidence.path)).record.warnings[0] == text.replace(TOKEN, "[redacted]")
