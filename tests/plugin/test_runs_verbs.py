"""`pytest-vllm runs` and `pytest-vllm trend`: what they print, write and refuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.cli import main
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import to_json
from tests.unit.performances import performance
from tests.unit.records import HOSTILE, all_passed, hostile_record, make_record, make_result

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = "20261120-101010-aaaaaa", "20261121-101010-bbbbbb"
BARE = "20261122-101010-cccccc"


def write(root: Path, name: str, *, good: bool = True, factor: float = 1.0) -> None:
    results = all_passed() if good else (*all_passed(), make_result("chat.a.b", Outcome.FAIL))
    day = f"{name[:4]}-{name[4:6]}-{name[6:8]}T10:10:10+00:00"
    record = make_record(results, run_id=name, started=day, performance=performance(factor))
    (root / name).mkdir(parents=True)
    (root / name / "run.json").write_text(to_json(record))
    (root / name / "report.html").write_text("")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of two runs and one that left no record, in a project of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_VLLM_ARTIFACTS", raising=False)
    root = tmp_path / ".vllm"
    write(root, FIRST)
    write(root, SECOND, good=False, factor=1.4)
    (root / BARE).mkdir()
    return root


def test_runs_are_listed_on_a_line_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list"]) == 0
    head, bare, second, first = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["run", "began"]
    assert bare.split()[:4] == [BARE, "2026-11-22", "10:10", "unreadable"]
    assert bare.endswith("no run.json: it runs, or it was killed")
    assert second.startswith(f"{SECOND}  2026-11-21 10:10  REJECT")
    assert "61 passed, 1 failed" in second
    assert first.startswith(f"{FIRST}  2026-11-20 10:10  PROMOTE")
    assert "rocm/vllm:0.32.0@9f86d081884c" in first
    assert "SmolLM2-135M-Instruct" in first
    assert folder.name == ".vllm"
    figure = first.split("passed")[1].split()
    assert 1_000 < float(figure[0].replace(",", "")) < 1_500


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["--verdict=promote"], [FIRST]),
        (["--image=sha256:9f86"], [SECOND, FIRST]),
        (["--model=smollm2", "--since=2026-11-21"], [SECOND]),
        (["--gpu=MI300X"], []),
        (["--limit=1"], [None]),
    ],
)
def test_runs_are_chosen(
    folder: Path,
    words: list[str],
    runs: list[str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["runs", "list", "--json", f"--artifacts={folder}", *words]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert (document["schema"], document["kind"]) == (1, "runs")
    assert [run.get("run_id") for run in document["runs"]] == runs
    if not runs:
        assert f"no run of GPU MI300X in {folder}" in printed.err
    for run in document["runs"]:
        if run.get("run_id"):
            assert run["levels"][0]["figures"]["output_tokens_per_s"]["rounds"] == 5


def test_the_variable_of_the_option_names_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_VLLM_ARTIFACTS", str(folder.rename(folder.parent / "evidence")))
    assert main(["runs", "show", "latest"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "REJECT" in printed
    assert f"evidence/{SECOND}/checks/chat.a.b/replay.sh" in printed


def test_a_run_of_hostile_words_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / BARE / "run.json").write_text(to_json(hostile_record()))
    named = folder / f"{BARE}-2"
    named.mkdir()
    named.joinpath("run.json").write_text(to_json(make_record(run_id=HOSTILE)))
    for words in (["runs", "list"], ["runs", "list", "--json"], ["trend", "--md"], ["trend"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert "<script>alert" not in out or words[-1] != "trend"


def test_a_trend_links_to_the_reports_from_where_it_lies(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.parent / "pages").mkdir()
    assert main(["trend", "--output=pages/trend.html"]) == 0
    assert capsys.readouterr().err == "wrote pages/trend.html\n"
    page = (folder.parent / "pages" / "trend.html").read_text()
    assert f'href="../.vllm/{FIRST}/report.html"' in page
    assert f"1 unreadable: {BARE}" in page
    assert "<svg" in page
    assert main(["trend", "--md", "--metric=tpot-p50", "--model=smollm"]) == 0
    out = capsys.readouterr().out
    assert "tpot_p50_ms |" in out.splitlines()[6]
    assert "ttft" not in out
    assert main(["trend", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["subjects"]) == 1


def test_a_file_that_is_there_is_not_overwritten_unasked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = folder.parent / "mine.html"
    mine.write_text("mine")
    compare = ["compare", FIRST, SECOND, "--html"]
    for words in (["trend"], compare):
        assert main([*words, "--output=mine.html"]) == 4
        assert "there is a file mine.html already" in capsys.readouterr().err
        assert mine.read_text() == "mine"
    assert main([*compare, "--output=mine.html", "--overwrite"]) == 1
    assert mine.read_text().startswith("<!doctype html>")
    assert [file.name for file in folder.parent.glob(".writing-*")] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs", "lst"], "there is no 'lst'; did you mean list?"),
        (["runs", "list", "--verdict=good"], "there is no verdict 'good'"),
        (["runs", "list", "--since=soon"], "'soon' is no time"),
        (["runs", "list", "--limit=-1"], "--limit: '-1' is no number of runs"),
        (["runs", "list", "--artifacts=none"], "there is no folder of runs none"),
        (["runs", "list", "--artifacts=~nobody-x/a"], "--artifacts: there is no such home folder"),
        (["runs", "list", "--modle=x"], "has no option --modle; did you mean --model?"),
        (["runs", "show"], "required: RUN"),
        (["runs", "show", "2026112"], "could mean 2 runs"),
        (["trend", "--metric=tpot-p5"], "--metric: there is no figure 'tpot-p5'"),
        (["trend", "--output=none/x.html"], "there is no folder none"),
        (["trend", "--output=.vllm"], ".vllm is no file"),
        (["trend", "--html", "--json"], "not allowed with"),
        (["compare", "latest", "nothing"], "there is no run nothing"),
    ],
)
def test_bad_words_are_named(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder.is_dir()
    assert main(words) == 4
    printed = capsys.readouterr()
    assert printed.err.startswith("ERROR: ")
    assert message in printed.err
    assert printed.out == ""
