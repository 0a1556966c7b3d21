"""Finding runs by what people call them, and listing whatever lies in their folder."""

from __future__ import annotations

import datetime as dt
import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.runs import find_run, list_runs, read_baseline, read_run, runs_root
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.record import to_json
from pytest_vllm.domain.run_choice import RunChoice, read_choice
from pytest_vllm.domain.server import ServerInfo
from tests.unit.records import all_passed, make_record, make_result

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST, SECOND, THIRD = (
    "20261120-101010-aaaaaa",
    "20261121-101010-bbbbbb",
    "20261121-111111-cccccc",
)


def write(root: Path, name: str, *, model: str = "org/small", good: bool = True) -> Path:
    """Write a run as an acceptance leaves it."""
    results = all_passed() if good else (make_result("chat.a.b", Outcome.FAIL),)
    when = dt.datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=dt.UTC)
    record = make_record(results, run_id=name, started=when.isoformat())
    assert isinstance(record.server, ServerInfo)
    record = replace(record, server=replace(record.server, model=model))
    (root / name).mkdir(parents=True)
    (root / name / "run.json").write_text(to_json(record))
    return root / name / "run.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of three runs, the second rejected, the third of another model."""
    folder = tmp_path / "runs"
    write(folder, FIRST)
    write(folder, SECOND, good=False)
    write(folder, THIRD, model="org/large")
    return folder


@pytest.mark.parametrize(
    ("name", "run"),
    [
        (FIRST, FIRST),
        ("20261120", FIRST),
        ("20261121-1010", SECOND),
        ("latest", THIRD),
        ("latest~1", SECOND),
        ("latest~2", FIRST),
        ("latest:model=small", SECOND),
        ("latest:verdict=promote", THIRD),
        ("latest~1:verdict=promote", FIRST),
        ("latest:model=small,verdict=promote", FIRST),
    ],
)
def test_a_run_is_found_by_what_people_call_it(root: Path, name: str, run: str) -> None:
    assert find_run(name, root=root) == root / run / "run.json"


def test_a_path_wins_over_a_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(root.parent, FIRST).parent
    monkeypatch.chdir(root.parent)
    assert find_run(FIRST, root=root).resolve() == (folder / "run.json").resolve()
    assert find_run(str(folder / "run.json"), root=root) == folder / "run.json"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("20261121", "could mean 2 runs"),
        ("nothing", "there is no run nothing"),
        ("", "there is no run an empty name"),
        ("latest~3", "there is no run with 3 newer ones in"),
        ("latest:gpu=H100", "there is no run of GPU H100 in"),
        ("latest:color=red", "chooses no run"),
        ("\0", "there is no run"),
        ("x" * 5000, ""),
        ("~nobody-has-this-name/x", ""),
    ],
)
def test_what_is_no_run_is_named(root: Path, name: str, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        find_run(name, root=root)
    assert words in caught.value.message
    assert caught.value.advice


def test_without_any_run_the_name_is_the_problem(tmp_path: Path) -> None:
    for name in ("latest", FIRST):
        with pytest.raises(TargetError, match="there is no run"):
            find_run(name, root=tmp_path / "none")


def test_the_latest_is_so_by_its_time_and_not_by_its_name(root: Path) -> None:
    """A run that a person has renamed is no later for that."""
    (root / SECOND).rename(root / "the-accepted-one")
    old = dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()
    os.utime(root / "the-accepted-one" / "run.json", (old, old))
    assert find_run("latest", root=root).parent.name == THIRD
    assert find_run("the-acc", root=root).parent.name == "the-accepted-one"


def test_what_is_read_is_what_lies_there(root: Path) -> None:
    run = read_run("latest", root=root)
    assert run.folder == root / THIRD
    assert run.data == (root / THIRD / "run.json").read_bytes()
    assert run.record.run_id == THIRD
    assert len(run.sha256) == 64


def test_a_baseline_by_latest_was_promoted(root: Path) -> None:
    write(root, "20261122-101010-dddddd", good=False)
    assert read_baseline("latest", root=root).run_id == THIRD
    assert read_baseline("latest~1", root=root).run_id == FIRST
    assert read_baseline("latest:verdict=reject", root=root).run_id == "20261122-101010-dddddd"
    assert read_baseline("20261122", root=root).run_id == "20261122-101010-dddddd"


def test_a_first_run_that_names_the_latest_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as caught:
        read_baseline("latest", root=tmp_path)
    assert caught.value.message.startswith("--vllm-baseline: latest: there is no run of verdict")
    assert "a first run has no baseline: leave the option out" in caught.value.advice


@pytest.mark.parametrize(
    "levels",
    [3, [{"rounds": 3}], [{"rounds": [{"figures": {"output_tokens_per_s": "fast"}}]}]],
    ids=["levels", "rounds", "figures"],
)
def test_a_baseline_whose_loads_are_something_else_is_refused(tmp_path: Path, levels: Any) -> None:
    file = write(tmp_path, FIRST)
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "performance": {"levels": levels}}))
    with pytest.raises(TargetError, match="--vllm-baseline: the loads in .* cannot be read"):
        read_baseline("latest", root=tmp_path)


def test_runs_are_listed_the_newest_first(root: Path) -> None:
    assert [run.folder.name for run in list_runs(root)] == [THIRD, SECOND, FIRST]
    small = list_runs(root, read_choice(model="SMALL", since="2026-11-21"))
    assert [run.folder.name for run in small] == [SECOND]


def spoil(folder: Path, kind: str) -> None:
    """Make a record unreadable."""
    file = folder / "run.json"
    if kind == "gone":
        file.unlink()
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(SPOILT[kind])


SPOILT = {
    "empty": b"",
    "cut": b'{"schema": 2, "run_id": "x", "resu',
    "binary": b"\xff\xfe\x00",
    "list": b"[1]",
    "other": b'{"a": 1}',
    "newer": b'{"schema": 99, "run_id": "x"}',
    "bare": b'{"schema": 2}',
    "deep": b"[" * 100_000,
    "huge": b'{"schema": 2, "run_id": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("kind", ["gone", "folder", *SPOILT])
def test_a_run_that_cannot_be_read_is_listed_as_such(root: Path, kind: str) -> None:
    spoil(root / SECOND, kind)
    runs = list_runs(root)
    assert [run.folder.name for run in runs] == [THIRD, SECOND, FIRST]
    assert runs[1].brief is None
    assert "run.json" in runs[1].problem
    assert [run.folder.name for run in list_runs(root, RunChoice(model="small"))] == [FIRST]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be an ordinary user, to whom folders are closed as they are not to root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder of three runs where everybody may look, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "runs"
        for run in (FIRST, SECOND, THIRD):
            write(root, run)
        for path in Path(name).rglob("*"):
            path.chmod(0o755)
        Path(name).chmod(0o755)
        monkeypatch.chdir(name)
        yield root
        for path in root.iterdir():
            path.chmod(0o755)


def test_a_folder_that_lets_nobody_look_costs_no_other_run(shared: Path) -> None:
    (shared / "lost+found").mkdir()
    for name in (THIRD, "lost+found"):
        (shared / name).chmod(0)
    with as_nobody():
        runs = list_runs(shared)
        assert [run.folder.name for run in runs] == [THIRD, SECOND, FIRST]
        assert [bool(run.brief) for run in runs] == [False, True, True]
        assert "Permission denied" in runs[0].problem
        assert len(list_runs(shared, RunChoice(model="small"))) == 2
        assert find_run("latest", root=shared).parent.name == SECOND
        assert find_run("20261120", root=shared).parent.name == FIRST
        assert read_baseline("latest", root=shared).run_id == SECOND
        with pytest.raises(TargetError, match=f"cannot read .*{THIRD}.*: Permission denied"):
            read_run(THIRD, root=shared)


def test_other_folders_are_no_runs(root: Path) -> None:
    """What `pytest-vllm ab` and `golden` leave there, and what anybody else put there."""
    (root / "20261123-000000-eeeeee").mkdir()
    (root / "20261123-000000-eeeeee" / "ab.json").write_text("{}")
    (root / "golden-20261123-000000-7").mkdir()
    (root / "notes").mkdir()
    (root / ".gitignore").write_text("*\n")
    assert len(list_runs(root)) == 3


def test_a_folder_of_runs_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="there is no folder of runs"):
        list_runs(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="cannot read .*file: Not a directory"):
        list_runs(tmp_path / "file")


def test_the_folder_of_all_runs_is_that_of_the_option(tmp_path: Path) -> None:
    named: dict[str, Any] = {"PYTEST_VLLM_ARTIFACTS": str(tmp_path)}
    assert runs_root(named) == tmp_path
    assert runs_root({}) == Path(".vllm")
    with pytest.raises(TargetError, match="PYTEST_VLLM_ARTIFACTS: there is no such home folder"):
        runs_root({"PYTEST_VLLM_ARTIFACTS": "~nobody-has-this-name/runs"})
