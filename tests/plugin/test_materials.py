"""What a run rests on: each material with the digest of what was really used."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.model_listing import list_model
from pytest_vllm.adapters.store import EvidenceFolder
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.profile import Profile
from pytest_vllm.plugin.materials import (
    installed_suites,
    launch_materials,
    merged,
    rule_materials,
    suite_materials,
)
from pytest_vllm.plugin.options import PACKAGE, SUITES
from pytest_vllm.plugin.state import RunState
from tests.adapters.test_ready import make_target
from tests.unit.records import make_record

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vllm.domain.record import Material

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_model(facts: dict[str, Any], **target: Any) -> Material:
    """Return the material of a model that the preflight knows so much of."""
    state = RunState(
        target=make_target(image="rocm/vllm:1", **target), profile=Profile(name="x"), facts=facts
    )
    (material,) = launch_materials(state, {}, encoded=str.encode)
    assert material.kind == "model"
    return material


def test_rules_are_the_files_that_say_so(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("schema = 1\n")
    (tmp_path / "golden.json").write_text("{}")
    target = make_target(url="http://h:1", performance="standard", golden="golden.json")
    found = rule_materials(target, Profile(name="mine.toml"), base=tmp_path)
    bundled = PACKAGE / "data" / "load" / "performance" / "standard.toml"
    assert [(each.kind, each.name, each.sha256) for each in found] == [
        ("profile", "mine.toml", sha256(b"schema = 1\n")),
        ("performance", "performance/standard.toml", sha256(bundled.read_bytes())),
        ("golden", "golden.json", sha256(b"{}")),
    ]


def test_a_bundled_profile_is_the_shipped_file(tmp_path: Path) -> None:
    """Also where a file of that name lies beside."""
    (tmp_path / "promote").write_text("schema = 1\n")
    target = make_target(url="http://h:1", performance="none")
    (found,) = rule_materials(target, Profile(name="promote"), base=tmp_path)
    bundled = PACKAGE / "data" / "profiles" / "promote.toml"
    assert (found.name, found.sha256) == (
        "profiles/promote.toml",
        sha256(bundled.read_bytes()),
    )


def test_a_rule_that_is_gone_is_refused(tmp_path: Path) -> None:
    target = make_target(url="http://h:1", performance="none")
    with pytest.raises(TargetError, match=r"--vllm-profile: cannot read gone.toml: No such file"):
        rule_materials(target, Profile(name="gone.toml"), base=tmp_path)


def test_the_installed_suites_are_named_as_a_run_names_them(pytestconfig: pytest.Config) -> None:
    """So that promote can hold one against the other."""
    found = installed_suites()
    chat = SUITES / "test_chat.py"
    assert found["suites/test_chat.py"] == sha256(chat.read_bytes())
    assert len(found) == len(list(SUITES.glob("test_*.py")))
    session = SimpleNamespace(config=pytestconfig, items=[SimpleNamespace(path=chat.resolve())])
    named = {each.name: each.sha256 for each in suite_materials(session)}  # type: ignore[arg-type]
    assert named["suites/test_chat.py"] == found["suites/test_chat.py"]


def test_no_file_of_the_user_has_the_name_of_a_bundled_suite(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Else promote would say that a bundled suite was edited, and to install pytest-vllm anew."""
    mine = tmp_path / "suites" / "test_chat.py"
    mine.parent.mkdir()
    mine.touch()
    beside = tmp_path / "test_chat.py"
    beside.touch()
    config = SimpleNamespace(rootpath=tmp_path, pluginmanager=pytestconfig.pluginmanager)
    items = [SimpleNamespace(path=path) for path in (mine, beside, SUITES / "test_chat.py")]
    session = SimpleNamespace(config=config, items=items)
    found = [
        each
        for each in suite_materials(session)  # type: ignore[arg-type]
        if each.name.endswith("test_chat.py")
    ]
    assert {each.name: each.sha256 for each in found} == {
        "./suites/test_chat.py": sha256(b""),
        "suites/test_chat.py": installed_suites()["suites/test_chat.py"],
        "test_chat.py": sha256(b""),
    }


def test_files_of_the_folder_are_hashed_as_they_are_written(tmp_path: Path) -> None:
    """Without secrets: the digest is of the file in the evidence folder."""
    files = {"compose.json": '{"key": "s3cret-s3cret"}', "compose.override.yaml": "x: 1\n"}
    files |= {"server.log": "key: s3cret-s3cret \ud800\n", "benchmark.json": "", "more.txt": "x"}
    folder = EvidenceFolder(tmp_path, secrets=("s3cret-s3cret",))
    state = RunState(target=make_target(url="http://h:1"), profile=Profile(name="x"))
    found = launch_materials(state, files, encoded=folder.encoded)
    folder.write(make_record(), files=files, log_lines=())
    assert [each.name for each in found] == ["compose.json", "compose.override.yaml", "server.log"]
    assert [each.kind for each in found] == ["compose", "compose", "log"]
    for each in found:
        data = (tmp_path / each.name).read_bytes()
        assert each.sha256 == sha256(data)
        assert b"s3cret" not in data


def test_a_folder_is_hashed_by_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    facts = {"model": {"kind": "folder", "path": str(tmp_path)}}
    found = of_model(facts, model=str(tmp_path))
    assert (found.name, found.sha256) == (str(tmp_path), list_model(tmp_path).sha256)
    assert found.of == "listing of 1 file: 1 read whole"


@pytest.mark.parametrize("kind", ["Hub cache", "Hub"], ids=["cached", "downloaded by the server"])
def test_a_model_of_the_hub_has_its_commit(tmp_path: Path, kind: str) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "v1").write_text(COMMIT)
    facts = {"model": {"kind": kind, "path": "", "cache": str(tmp_path)}}
    found = of_model(facts, model="org/name", revision="v1")
    assert found.name == f"org/name@{COMMIT}"
    assert found.sha256 == list_model(snapshot).sha256
    by_path = {"model": {"kind": "folder", "path": str(snapshot)}}
    assert of_model(by_path, model=str(snapshot)) == found


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"engine": {"remote": True}}, "it lies on the host of a remote engine"),
        ({"model": {"kind": "Hub", "cache": "/nowhere"}}, "its files are not on this host"),
        ({"model": None}, "its files are not on this host"),
        ({}, "its files are not on this host"),
        (
            {"model": {"kind": "folder", "path": "/nowhere"}},
            "its files on this host cannot be read: No such file or directory",
        ),
    ],
    ids=["remote", "not here", "unknown", "no look", "gone"],
)
def test_what_cannot_be_seen_is_said_not_to_be(facts: dict[str, Any], words: str) -> None:
    found = of_model(facts, model="org/name", revision="v1")
    assert (found.name, found.sha256, found.of) == ("org/name@v1", "", f"not known: {words}")


def test_each_worker_of_xdist_names_the_same_once() -> None:
    state = RunState(target=make_target(url="http://h:1"), profile=Profile(name="x"))
    found = launch_materials(state, {"compose.json": "{}"}, encoded=str.encode)
    assert merged((found, found, ())) == found
