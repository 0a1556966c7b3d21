"""`pytest-vllm report`: what it writes, where, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.cli import main
from pytest_vllm.domain.record import to_json
from pytest_vllm.reports.registry import REPORTS
from tests.unit.records import HOSTILE, hostile_record, make_failure, make_record

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

RICH = Path(__file__).parent.parent / "data" / "fuzz" / "run.json"


def keep(root: Path, record: RunRecord) -> Path:
    """Store a record as a run would, and return its folder."""
    folder = root / record.run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(to_json(record), encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of which all reports can be made, in the folder of all runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_VLLM_ARTIFACTS", raising=False)
    folder = tmp_path / ".vllm" / str(json.loads(RICH.read_text())["run_id"])
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(RICH.read_bytes())
    return folder


@pytest.mark.parametrize("name", REPORTS)
def test_one_report_goes_to_the_terminal(
    run: Path, name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["report", "latest", f"--{name}"]) == 0
    said = capfdbinary.readouterr()
    record = json.loads((run / "run.json").read_text())
    assert said.out
    assert said.err == b""
    assert record["verdict"]["decision"].encode() in said.out or name == "attestation"
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_without_a_format_it_shows_the_screen_of_the_run(
    run: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["report", run.name[:12]]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert text.startswith("====")
    assert f"Evidence  {Path('.vllm') / run.name}" in text


def test_the_record_itself_comes_in_the_present_form(
    run: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["report", str(run / "run.json"), "--json"]) == 0
    assert capfdbinary.readouterr().out == (run / "run.json").read_bytes()


def test_all_go_into_a_folder_that_is_made(run: Path, tmp_path: Path) -> None:
    assert main(["report", "latest", "--all", "--output", "new/reports"]) == 0
    names = {path.name for path in (tmp_path / "new" / "reports").iterdir()}
    assert names == {report.file for report in REPORTS.values()} | {"run.json"}
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_a_report_in_a_folder_has_its_own_name(run: Path, tmp_path: Path) -> None:
    assert main(["report", str(run), "--md", "--output", str(run)]) == 0
    assert (run / "report.md").read_text().startswith("# ")
    assert main(["report", str(run), "--md", "--output", str(tmp_path / "mine.md")]) == 0
    assert (tmp_path / "mine.md").read_bytes() == (run / "report.md").read_bytes()


@pytest.mark.parametrize("words", [("--md", "--output=report.md"), ("--all", "--output=.")])
def test_what_is_there_is_kept_unless_overwriting_is_asked_for(
    run: Path, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several none is written where one is in the way."""
    mine = tmp_path / "report.md"
    mine.write_text("mine")
    assert main(["report", str(run), *words]) == 4
    assert "--overwrite" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", ".vllm"}
    assert main(["report", str(run), *words, "--overwrite"]) == 0
    assert mine.read_text().startswith("# ")


def test_the_evidence_itself_is_never_replaced(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bytes are what a statement has signed, in whatever form they were written."""
    old = (RICH.parent.parent / "records" / "load-docker.json").read_bytes()
    (run / "run.json").write_bytes(old)
    assert main(["report", str(run), "--all", "--output", str(run), "--overwrite"]) == 0
    assert (run / "report.html").exists()
    for output in (str(run), str(run / "run.json")):
        assert main(["report", str(run), "--json", "--output", output, "--overwrite"]) == 4
        assert "is the evidence itself" in capsys.readouterr().err
    assert (run / "run.json").read_bytes() == old


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "there is no run nowhere"),
        (["latest", "--htm"], "report has no option --htm; did you mean --html?"),
        (["latest", "--md", "--html"], "several reports do not fit on the terminal"),
        (["latest", "--all"], "several reports do not fit on the terminal"),
        (["latest", "--all", "--output", ".vllm/file"], "is a file, and several reports need"),
        (["latest", "--md", "--output", "no/such/x.md"], "there is no folder no/such"),
        (["latest", "--md", "--output", "a\0b"], "--output: cannot write a"),
        (["latest", "--all", "--output", "a\0b"], "--output: cannot make the folder a"),
        (["latest", "--all", "--output", "/proc/new"], "--output: cannot make the folder /proc"),
    ],
)
def test_what_makes_no_sense_is_said(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parent / "file").write_text("mine")
    assert main(["report", *words]) in (4, 75)
    error = capsys.readouterr().err
    assert error.startswith("ERROR: ")
    assert said in error
    assert "fix: " in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a readable run record"),
        ("\xff", "is not a text"),
        ("{}", "its key schema is None"),
        ('{"schema": 3}', "written by a newer pytest-vllm"),
    ],
)
def test_what_is_no_record_is_said(
    run: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "run.json").write_bytes(text.encode("latin-1"))
    assert main(["report", str(run), "--md"]) == 4
    assert said in capsys.readouterr().err


def test_a_report_that_a_run_cannot_have_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = keep(tmp_path, make_record(failure=make_failure(kind="host"), results=()))
    assert main(["report", str(folder), "--attestation"]) == 4
    error = capsys.readouterr().err
    assert "has no attestation.json: the verdict is INCONCLUSIVE" in error
    assert "fix: run the acceptance again" in error


def test_a_hostile_record_is_shown_whole(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    folder = keep(tmp_path, hostile_record())
    assert main(["report", str(folder)]) == 0
    assert b"\x1b" not in capfdbinary.readouterr().out
    assert main(["report", str(folder), "--all", "--output", str(tmp_path / "out")]) == 0
    assert main(["report", f"{folder}{HOSTILE}"]) == 4
    assert b"\x1b" not in capfdbinary.readouterr().err


def test_reports_are_utf_8_whatever_the_locale_says(run: Path) -> None:
    """In a process of its own, for the encoding of the output is set when Python starts."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_vllm", "report", str(run), "--md"],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("utf-8").startswith(("# ✅", "# ❌", "# ⚠️"))
