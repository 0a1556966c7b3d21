"""The flags of a server are read once and kept; what cannot be read is said, never guessed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.serve_help import cached_help, read_help
from tests.unit.launch_facts import DATA, make_target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_vllm.domain.facts.arguments import HelpFacts
    from pytest_vllm.domain.target import Target

HELP = DATA / "help" / "vllm-0.32.0.txt"


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Name the file to which each stand-in writes the words that it was started with."""
    return tmp_path / "asked"


@pytest.fixture
def read(tmp_path: Path, asked: Path) -> Callable[[str], HelpFacts]:
    """Return a function that reads the help of an interpreter that does what a script says."""

    def read_of(script: str) -> HelpFacts:
        python = tmp_path / "env" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(f'#!/bin/sh\necho "$*" >> {asked}\n{script}\n')
        python.chmod(0o755)
        metadata = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
        (metadata / "vllm-0.32.0.dist-info").mkdir(parents=True, exist_ok=True)
        return read_help(_target(tmp_path), None, None, _env(tmp_path))

    return read_of


def _target(tmp_path: Path) -> Target:
    return make_target(backend="process", python=str(tmp_path / "env" / "bin" / "python"))


def _env(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}


def _cache_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "pytest-vllm" / "help").glob("*"))


def test_flags_are_read_once(tmp_path: Path, asked: Path, read: Callable[[str], HelpFacts]) -> None:
    assert cached_help(_target(tmp_path), None, _env(tmp_path)) is None
    first = read(f"cat {HELP}")
    assert (first.problem, len(first.flags), first.version) == ("", 317, "0.32.0")
    assert first.source == "process"
    assert first.spare_word
    second = read(f"cat {HELP}")
    assert second.flags == first.flags
    assert second.source.startswith("cache ")
    assert asked.read_text().splitlines() == ["-m vllm.entrypoints.openai.api_server --help=all"]
    assert len(_cache_files(tmp_path)) == 1


def test_another_installation_is_another_server(
    tmp_path: Path, read: Callable[[str], HelpFacts]
) -> None:
    read(f"cat {HELP}")
    old = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "vllm-0.32.0.dist-info"
    old.rename(old.parent / "vllm-0.33.0.dist-info")
    assert cached_help(_target(tmp_path), None, _env(tmp_path)) is None


def test_an_older_server_is_asked_in_its_own_way(
    asked: Path, read: Callable[[str], HelpFacts]
) -> None:
    script = 'case "$*" in *--help=all) echo "ignored explicit argument" >&2; exit 2;; esac\n'
    facts = read(f"{script}cat {HELP}")
    assert len(facts.flags) == 317
    assert [line.split()[-1] for line in asked.read_text().splitlines()] == ["--help=all", "--help"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'RuntimeError: Failed to infer device type' >&2; exit 1", "Failed to infer device"),
        ("exit 0", "nothing"),
        ("printf '  --model MODEL\\n  --port PORT\\n'", "--port PORT"),
        ("printf '\\377\\376\\000'", "printed no list"),
    ],
    ids=["error", "silence", "a part", "garbage"],
)
def test_a_help_that_is_none_is_said(
    tmp_path: Path, read: Callable[[str], HelpFacts], script: str, said: str
) -> None:
    facts = read(script)
    assert facts.flags == ()
    assert said in facts.problem
    assert _cache_files(tmp_path) == []


def test_an_interpreter_that_does_not_run_is_said(tmp_path: Path) -> None:
    gone = make_target(backend="process", python="/no/python")
    facts = read_help(gone, None, None, _env(tmp_path))
    assert "/no/python" in facts.problem


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 9}'])
def test_a_broken_cache_is_no_cache(
    tmp_path: Path, read: Callable[[str], HelpFacts], content: str
) -> None:
    read(f"cat {HELP}")
    (file,) = _cache_files(tmp_path)
    file.write_text(content)
    assert cached_help(_target(tmp_path), None, _env(tmp_path)) is None
    assert len(read(f"cat {HELP}").flags) == 317


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, read: Callable[[str], HelpFacts]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(read(f"cat {HELP}").flags) == 317


def test_what_is_kept_is_plain_json(tmp_path: Path, read: Callable[[str], HelpFacts]) -> None:
    read(f"cat {HELP}")
    (file,) = _cache_files(tmp_path)
    assert json.loads(file.read_text())["version"] == "0.32.0"
