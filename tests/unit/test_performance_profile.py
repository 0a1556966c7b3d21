"""Performance profiles: the bundled ones make sense, and a wrong one names file and key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.workload import read_workload
from pytest_vllm.domain.performance import NAMES, read_performance
from pytest_vllm.domain.regression import FEWEST_ROUNDS

FOLDER = Path(__file__).parents[2] / "pytest_vllm" / "data" / "load" / "performance"
GOOD = {"schema": 1, "concurrency": [8, 1], "compared": 8, "workload": "chat"}


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_profile_can_be_compared(name: str) -> None:
    table = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    profile = read_performance(name, table)
    assert profile.rounds_of(profile.compared) >= FEWEST_ROUNDS
    assert isinstance(profile.workload, dict)
    assert read_workload(profile.workload).ignore_eos
    assert profile.waves * profile.compared >= 11  # what a p50 needs
    assert profile.description


def test_there_are_no_other_bundled_profiles() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(NAMES)


def test_the_page_has_the_values_of_the_files() -> None:
    """docs/performance.md is written by hand; its table of keys is held against the files."""
    page = (FOLDER.parents[3] / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:5] for line in page.splitlines() if line.startswith("| `")]
    told = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}
    files = [tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8")) for name in NAMES]
    for key in ("rounds", "round-seconds", "limit-seconds"):
        assert told[f"`{key}`"] == [f"{table[key]:g}" for table in files]
    waves = [f"{table['waves']}, {table['warm-up-waves']}" for table in files]
    assert told["`waves`, `warm-up-waves`"] == waves
    assert told["`compared`"] == [
        str(table.get("compared", table["concurrency"][0])) for table in files
    ]


def test_levels_are_ascending_and_defaults_are_filled_in() -> None:
    profile = read_performance("mine.toml", GOOD)
    assert profile.concurrency == (1, 8)
    assert (profile.rounds_of(8), profile.rounds_of(1)) == (6, 1)


def test_the_runs_profile_takes_the_place_of_keys() -> None:
    profile = read_performance("mine.toml", GOOD, overrides={"rounds": 9, "concurrency": [8]})
    assert (profile.rounds, profile.concurrency) == (9, (8,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, ("schema is 2", "schema = 1")),
        ({"schema": True}, ("schema is True", "schema = 1")),
        ({"round": 3}, ("unknown key 'round'", "did you mean rounds?")),
        ({"concurrency": []}, ("concurrency is []",)),
        ({"concurrency": [0]}, ("concurrency is [0]",)),
        ({"concurrency": "8"}, ("concurrency is '8'",)),
        ({"concurrency": [True]}, ("concurrency is [True]",)),
        ({"compared": 4}, ("compared is 4", "[1, 8]")),
        ({"rounds": 0}, ("rounds is 0", "from 1 up")),
        ({"rounds": 2.5}, ("rounds is 2.5",)),
        ({"round-seconds": 0}, ("round-seconds is 0",)),
        ({"limit-seconds": "1h"}, ("limit-seconds is '1h'",)),
        ({"workload": 3}, ("workload is 3",)),
        ({"workload": " "}, ("workload is ' '",)),
    ],
)
def test_a_wrong_profile_names_file_and_key(
    change: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(TargetError) as caught:
        read_performance("mine.toml", {**GOOD, **change})
    for word in ("mine.toml", *words):
        assert word in str(caught.value)


def test_a_wrong_key_of_the_runs_profile_is_told_as_its_own() -> None:
    with pytest.raises(TargetError, match=r"profile \[performance\]: unknown key 'ronds'"):
        read_performance("smoke", GOOD, overrides={"ronds": 3})
