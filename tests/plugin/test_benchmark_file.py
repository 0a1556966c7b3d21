"""`benchmark.json`: pytest-benchmark's own form by its own hooks, and no harm where it fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ENDING = """
import pathlib
import pytest
from pytest_vllm.plugin.benchmark_file import benchmark_file

@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    made = benchmark_file(session.config)
    pathlib.Path("made.json").write_text(made.text)
    pathlib.Path("problem.txt").write_text(made.problem)
"""
ADDED = """
@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json):
    output_json["mine"] = "added"
"""
RAISES = """
@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info):
    raise OSError("no machine")
"""
MEASURES = """
def test_it(benchmark):
    benchmark.pedantic(len, args=("",), rounds=3)
"""


def same_moment(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document without what moves from one moment to the next: time and CPU clock."""
    machine = document["machine_info"]
    cpu = {name: value for name, value in machine["cpu"].items() if not name.startswith("hz_")}
    return {**document, "datetime": "", "machine_info": {**machine, "cpu": cpu}}


@pytest.fixture
def run(pytester: pytest.Pytester, tmp_path: Path) -> object:
    """Run a project and return what was made, and what stood in the way."""

    def made(conftest: str, *words: str, test: str = MEASURES) -> tuple[str, str]:
        pytester.makeconftest(ENDING + conftest)
        pytester.makepyfile(test)
        options = ("-p", "no:cacheprovider", f"--benchmark-storage={tmp_path}")
        pytester.runpytest_inprocess(*options, *words)
        paths = (pytester.path / name for name in ("made.json", "problem.txt"))
        text, problem = (path.read_text() for path in paths)
        return text, problem

    return made


def test_it_is_what_pytest_benchmark_saves_itself(run, pytester: pytest.Pytester) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    text, problem = run(ADDED, "--benchmark-json=own.json")
    assert not problem
    made, own = json.loads(text), json.loads((pytester.path / "own.json").read_text())
    assert same_moment(made) == same_moment(own)
    assert made["mine"] == "added"
    assert len(made["benchmarks"][0]["stats"]["data"]) == 3


def test_what_fails_in_it_is_told_and_stops_nothing(run) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    text, problem = run(RAISES)
    assert text == ""
    assert problem.startswith("benchmark.json could not be made by pytest-benchmark: OSError")


@pytest.mark.parametrize(
    ("words", "test"),
    [
        (("--benchmark-disable",), MEASURES),
        ((), "def test_it():\n    pass\n"),
        ((), "def test_it(benchmark):\n    benchmark(int, 'x')\n"),
    ],
    ids=["disabled", "nothing measured", "failed"],
)
def test_without_a_measurement_there_is_no_file(run, words: tuple[str, ...], test: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    assert run("", *words, test=test) == ("", "")
