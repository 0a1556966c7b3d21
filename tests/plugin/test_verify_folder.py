"""`pytest-vllm verify` on all files of a folder: made of the record, digested, or named."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.store import EvidenceFolder
from pytest_vllm.cli import main
from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.record import Material, Rules
from pytest_vllm.reports.registry import MAKERS, REPORTS
from tests.unit.records import HOSTILE, all_passed, make_record, make_result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOG = "loading\nready\n"
COMPOSE = "{}\n"
TEXTS = {"compose.json": COMPOSE, "server.log": LOG, "benchmark.json": "[]\n"}
KINDS = {"compose.json": "compose", "server.log": "log", "benchmark.json": "benchmark"}
SECRET = "report"  # noqa: S105 - a key as short and plain as a word of every report


HERE = {"python": platform.python_version()}
HERE |= {name: version(name) for name in ("pytest-vllm", *MAKERS)}


def write(folder: Path, **versions: str) -> Path:
    """Write a promoted run as its end does, with a check that only warns.

    Args:
        folder: Its folder.
        versions: What was of another version where it ran; empty for not known.
    """
    folder.mkdir()
    results = (*all_passed(), make_result("chat.x.y", Outcome.FAIL, HOSTILE, level=Level.SHOULD))
    record = make_record(
        results,
        rules=Rules(profile="promote", complete=True, pinned_image=True),
        environment={name: given for name, given in {**HERE, **versions}.items() if given},
        materials=tuple(
            Material(kind=KINDS[name], name=name, sha256=hashlib.sha256(text.encode()).hexdigest())
            for name, text in TEXTS.items()
        ),
    )
    reports = {report.file: report.render for report in REPORTS.values()}
    evidence = EvidenceFolder(folder, secrets=(SECRET,))
    assert evidence.write(record, files={**TEXTS, **reports}, log_lines=()) == ()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "20261122-181930-3fa9c1")


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, str]]:
    """Run the verb; return its exit code and each line but the first by its first word."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:]]
    found: dict[str, str] = {}
    for word, text in lines:
        found[word] = f"{found.get(word, '')}{' '.join(text.split())}\n"
    return code, found


def test_all_that_a_run_writes_is_covered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = told(capsys, "verify", run)
    assert code == 0
    assert "WRONG" not in said
    assert "7 files what run.json gives: report.html, report.md, junit.xml" in said["OK"]
    assert "server.log is the one that the run wrote" in said["OK"]
    assert "not covered" not in said["NOTE"]
    assert sorted(path.name for path in run.iterdir()) == sorted(
        [*TEXTS, *(report.file for report in REPORTS.values()), "checks", "run.json"]
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, f"{name} was edited or replaced") for name in TEXTS),
        *(
            (report.file, f"{report.file} is not what run.json gives")
            for report in REPORTS.values()
            if report.file != "attestation.json"
        ),
        ("checks/chat.x.y/exchange.json", "checks checks/chat.x.y/exchange.json: is not what"),
        ("checks/chat.x.y/replay.sh", "checks checks/chat.x.y/replay.sh: is not what run.json"),
    ],
)
def test_an_edited_file_is_wrong_and_nothing_is_signed(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    with (run / name).open("a") as file:
        file.write(" ")
    code, said = told(capsys, "verify", run)
    assert code == 1
    assert said["WRONG"].startswith(words)
    assert said["WRONG"].count("\n") == 1


def test_what_nothing_is_known_of_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checks" / "more").mkdir()
    (run / "checks" / "more" / "summary.html").write_text("all is well")
    (run / "sym\x07link").symlink_to("/")
    code, said = told(capsys, "verify", run)
    assert code == 0
    assert "2 files not covered by run.json, so anybody may have written it: " in said["NOTE"]
    assert "checks/more/summary.html" in said["NOTE"]
    assert "sym\\x07link" in said["NOTE"]


def test_a_log_that_is_gone_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "server.log").unlink()
    code, said = told(capsys, "verify", run)
    assert code == 0
    assert "server.log is missing: the run wrote it" in said["NOTE"]


EVERY = 7
"""Files that are made of the record: five reports, and two of a check."""


@pytest.mark.parametrize(
    ("name", "theirs", "words", "held"),
    [
        ("pytest-vllm", "0.0.1", "had pytest-vllm 0.0.1 (here ", 0),
        ("pytest-vllm", "", "had an unknown pytest-vllm (here ", 0),
        ("python", "3.99.1", "had python 3.99.1 (here ", 0),
        ("pygal", "3.0.0", "had pygal 3.0.0 (here ", EVERY - 1),
        ("markupsafe", "", "had an unknown markupsafe (here ", EVERY - 1),
        ("prometheus-client", "0.1", "had prometheus-client 0.1 (here ", EVERY - 1),
    ],
)
def test_what_another_version_made_is_only_noted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    theirs: str,
    words: str,
    held: int,
) -> None:
    """It may look otherwise; all else is held to the byte."""
    run = write(tmp_path / "old", **{name: theirs})
    file = "metrics.prom" if name == "prometheus-client" else "report.html"
    (run / file).write_text("another layout")
    code, said = told(capsys, "verify", run)
    assert code == 0
    assert f"not held against run.json, whose run {words}" in said["NOTE"]
    assert file in said["NOTE"]
    assert (f"{held} files what run.json gives" in said["OK"]) is bool(held)
    (run / "server.log").write_text("edited")
    assert told(capsys, "verify", run)[0] == 1


def test_a_patch_of_python_makes_the_same_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    minor = ".".join(platform.python_version_tuple()[:2])
    run = write(tmp_path / "patched", python=f"{minor}.99")
    _, said = told(capsys, "verify", run)
    assert f"{EVERY} files what run.json gives" in said["OK"]


def fifo(file: Path) -> None:
    os.mkfifo(file)


def endless(file: Path) -> None:
    file.symlink_to("/dev/zero")


def huge(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(10**11)


@pytest.mark.parametrize("make", [fifo, endless, huge])
@pytest.mark.parametrize(
    "name", ["compose.json", "report.html", "attestation.json", "attestation.dsse.json"]
)
def test_a_file_that_never_ends_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[[Path], None]
) -> None:
    (run / name).unlink(missing_ok=True)
    make(run / name)
    code, said = told(capsys, "verify", run)
    assert code == 1
    assert "no plain file" in said["WRONG"] or "has more than" in said["WRONG"]


def test_the_cure_of_a_missing_statement_cures(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is printed, for a record that this version would write otherwise, in an odd folder."""
    run = run.rename(run.with_name("a run's folder"))
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text + "\n")
    (run / "attestation.json").unlink()
    monkeypatch.chdir(run.parent)
    code, said = told(capsys, "verify", run.name)
    assert code == 1
    command = said["WRONG"].partition("(make it: ")[2].rstrip(")\n")
    assert shlex.split(command)[0] == "pytest-vllm"
    assert main(shlex.split(command)[1:]) == 0
    code, said = told(capsys, "verify", run.name)
    assert (code, said.get("WRONG")) == (0, None)
