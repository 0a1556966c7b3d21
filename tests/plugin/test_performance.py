"""The suite `performance` at its edges: what stands in its way, and what users take from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import RunRecord, from_json, to_json
from pytest_vllm.domain.verdict import Decision
from tests.plugin.far import far_away
from tests.plugin.simulated import simulated
from tests.unit.performances import performance
from tests.unit.records import make_record

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parents[1] / "data" / "performance"
README = Path(__file__).parents[2] / "README.md"
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
CALIBRATED = """

def test_the_client_tells_its_own_error(vllm_load):
    asked = {"prompt_tokens": 8, "output_tokens": 4}, Traffic(requests=16, concurrency=4)
    seen = vllm_load.run(*asked)
    assert seen.client["calibration"]["streams"] == 4
    assert seen.client["calibration"]["ttft_error_p50_us"] > 0
    assert "not calibrated" not in " ".join(seen.flags)
    seen = vllm_load.run(*asked, calibrates=False)
    assert seen.client["calibration"] == {}
    assert "the client was not calibrated" in " ".join(seen.flags)
"""
"""Appended to the example of the README."""
SHORT = f"--vllm-performance={DATA / 'short.toml'}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with simulated("--token-delay-ms=4", "--first-token-delay-ms=20") as served:
        yield served


def run(folder: Path, *words: str, without: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--vllm-monitor=none"]
    out = ("PYTEST_ADDOPTS", without)
    ours = {name: value for name, value in os.environ.items() if name not in out}
    done = subprocess.run(
        [*command, *words], cwd=folder, env=ours, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def judge(
    folder: Path, *words: str, suites: str = "performance", without: str = ""
) -> tuple[RunRecord, str]:
    named = (f"--vllm-suite={suites}",) if suites else ()
    _, said = run(folder, *named, *words, without=without)
    found = sorted(folder.glob(".vllm/*/run.json"))
    assert found, said
    return from_json(found[-1].read_text(), where="run.json"), said


def outcomes(judged: RunRecord, name: str) -> dict[str, tuple[Outcome, str]]:
    return {
        result.name: (result.outcome, result.message)
        for result in judged.results
        if result.check.id.startswith(name)
    }


IN_THE_WAY = [
    (("-p", "no:benchmark"), "pytest-benchmark is turned off (-p no:benchmark)"),
    (("--benchmark-disable",), "pytest-benchmark measures nothing (--benchmark-disable)"),
    (("--benchmark-skip",), "--benchmark-skip"),
    (("-n1",), "run it without -n"),
]
"""Options and what is said of each; all but the first only where all tests run."""


@pytest.mark.parametrize(("words", "reason"), IN_THE_WAY[: None if ALL else 1])
def test_what_stands_in_the_way_of_a_measurement_is_said(
    url: str, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    """Without pytest-benchmark, or beside xdist, nothing is measured and nothing passes."""
    judged, said = judge(tmp_path, f"--vllm-url={url}", SHORT, *words, "-k", "test_answered")
    seen, why = outcomes(judged, "performance.load.answered")["performance.load.answered[c8]"]
    assert seen is Outcome.NOT_RUN, said
    assert reason in why
    assert judged.verdict.decision is Decision.INCONCLUSIVE
    assert judged.performance.get("levels", []) == []
    assert not (tmp_path / ".vllm" / judged.run_id / "benchmark.json").exists()


if ALL:

    def test_no_figure_is_taken_of_a_server_that_writes_garbage(tmp_path: Path) -> None:
        """The suite asks by itself, and names what it saw."""
        with simulated("--defect=weights-wrong") as broken:
            judged, said = judge(tmp_path, f"--vllm-url={broken}", SHORT)
        assert judged.verdict.decision is Decision.INCONCLUSIVE, said
        seen = outcomes(judged, "performance.load.")
        assert {outcome for outcome, _ in seen.values()} == {Outcome.NOT_RUN}
        assert all(
            "English is not likelier to it than shuffled words" in why for _, why in seen.values()
        )
        assert judged.performance == {}


def test_the_content_checks_of_the_same_run_speak_first(tmp_path: Path) -> None:
    """What they found is what refuses; the suite does not ask again."""
    words = ("--vllm-suite=content", "-k", "test_english or test_answered")
    with simulated("--defect=weights-wrong") as broken:
        judged, said = judge(tmp_path, f"--vllm-url={broken}", SHORT, *words)
    seen = outcomes(judged, "performance.load.answered")
    assert "(content.english.above-shuffled failed in this run)" in next(iter(seen.values()))[1]
    assert judged.verdict.decision is Decision.REJECT, said


def test_who_asks_for_figures_gets_no_verdict_beside_the_workers_of_xdist(
    url: str, tmp_path: Path
) -> None:
    """The suite that was asked for is named, and what asked for it."""
    judged, said = judge(tmp_path, f"--vllm-url={url}", SHORT, "-n1", suites="models,performance")
    assert judged.verdict.decision is Decision.INCONCLUSIVE, said
    why = " ".join(judged.verdict.reasons)
    assert "the workers of pytest-xdist share them; run it without -n, for performance=" in why
    assert "short.toml (option) asks for figures" in why
    assert judged.performance == {}


def test_two_suites_are_not_run_beside_the_workers_of_xdist(url: str, tmp_path: Path) -> None:
    """Where nobody asked for them the verdict is on the others, and says which were not run."""
    words = (f"--vllm-url={url}", "-n1", "-k", "models or memory or performance")
    judged, said = judge(tmp_path, *words, suites="", without="PYTEST_VLLM_PERFORMANCE")
    beside = [r for r in judged.results if r.check.suite in ("memory", "performance")]
    assert {r.check.suite for r in beside} == {"memory", "performance"}
    assert {r.outcome for r in beside} == {Outcome.NOT_RUN}
    (words,) = {r.message for r in beside}
    assert "the workers of pytest-xdist share them; run it without -n" in words
    assert judged.verdict.decision is Decision.PROMOTE, said
    (told,) = [reason for reason in judged.verdict.reasons if "were not run" in reason]
    count = len(beside) + 2  # whether the server generates after each of the two
    assert told.startswith(f"{count} checks of ")
    assert told.endswith(words.removeprefix("not run: "))
    assert judged.performance == {}


def test_objectives_and_a_baseline_that_nobody_looked_at_are_named(
    url: str, tmp_path: Path
) -> None:
    """They were declared, and the verdict must not read as if they were kept."""
    (tmp_path / "before.json").write_text(to_json(make_record()))
    profile = f"--vllm-profile={DATA / 'slo.toml'}"
    words = (f"--vllm-url={url}", profile, "--vllm-baseline=before.json")
    judged, said = judge(tmp_path, *words, suites="models")
    assert judged.verdict.decision is Decision.PROMOTE, said
    assert "[slo] was not looked at: this run leaves out performance.slo" in " ".join(said.split())
    slo, baseline = judged.warnings
    for check in ("performance.slo.latency", "performance.slo.rates", "performance.slo.goodput"):
        assert check in slo
    assert baseline == (
        "no figure was compared with the baseline: this run leaves out performance.regression"
    )


if ALL:

    def test_a_network_in_between_is_no_fault_of_the_server(url: str, tmp_path: Path) -> None:
        """At 60 ms each way the client waits several times as long as the server says."""
        with far_away(url, one_way_s=0.06) as far:
            judged, said = judge(tmp_path, f"--vllm-url={far}", SHORT, "-k", "test_metrics")
        seen, why = outcomes(judged, "performance.metrics")["performance.metrics.as-measured"]
        assert seen is Outcome.PASS, f"{why}\n{said}"
        (told,) = [o.value for o in judged.observations if o.name == "performance.e2el-mean"]
        server, client = (float(told.split(word)[0].split()[-1]) for word in (" ms by", " ms at"))
        assert client > server + 110


def test_other_loads_than_the_baselines_are_not_compared(url: str, tmp_path: Path) -> None:
    """A run of another workload cannot be a baseline; that is no pass.

    What pytest-benchmark saves of it is read by its own tool.
    """
    before = replace(make_record(), performance=performance())
    (tmp_path / "before.json").write_text(to_json(before))
    words = (f"--vllm-url={url}", "--benchmark-autosave", "-k", "test_answered or test_regression")
    judged, said = judge(tmp_path, *words, SHORT, "--vllm-baseline=before.json")
    seen, why = outcomes(judged, "performance.regression")["performance.regression"]
    assert seen is Outcome.NOT_RUN, said
    assert "not comparable with the baseline" in why
    assert "other workload: chat of the baseline, short of this run" in why
    assert judged.verdict.decision is Decision.INCONCLUSIVE
    junit = (tmp_path / ".vllm" / judged.run_id / "junit.xml").read_text()
    assert 'name="performance.c8.output_tokens_per_s"' in junit
    tool = str(Path(sys.executable).parent / "pytest-benchmark")
    told = [tool, "compare", "--columns=median,rounds"]
    table = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (row,) = [line.split() for line in table.splitlines() if line.startswith("test_answered[c8]")]
    assert row[-1] == str(rounds_of(judged)), table
    _is_compared_with_the_next(tmp_path, url, judged, tool)


def rounds_of(judged: RunRecord) -> int:
    """Number of rounds that were measured: what was asked for, or fewer where they take long."""
    (level,) = judged.performance["levels"]
    rounds = len(level["rounds"])
    assert 1 <= rounds <= 5
    return rounds


def _is_compared_with_the_next(folder: Path, url: str, first: RunRecord, tool: str) -> None:
    """Make one more run, whose baseline is named like any run; each keeps a `benchmark.json`."""
    words = ("-k", "test_answered or test_regression", "--benchmark-json=mine.json", SHORT)
    named = "--vllm-baseline=latest:verdict=inconclusive"
    second, said = judge(folder, f"--vllm-url={url}", named, *words)
    assert second.comparison is not None, said
    assert second.comparison.run_id == first.run_id
    files = [folder / ".vllm" / run.run_id / "benchmark.json" for run in (first, second)]
    told = [tool, "compare", *map(str, files), "--columns=median,rounds"]
    table = subprocess.run(told, cwd=folder, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in table.splitlines() if line.startswith("test_answered[c8]")]
    assert [row[-1] for row in rows] == [str(rounds_of(run)) for run in (first, second)], table
    assert all(f"{run.run_id}/benchmark)" in table for run in (first, second)), table
    (kept,) = json.loads(files[1].read_text())["benchmarks"]
    (mine,) = json.loads((folder / "mine.json").read_text())["benchmarks"]
    assert kept == mine
    assert len(kept["stats"]["data"]) == rounds_of(second)
    figures = kept["extra_info"]["vllm"]["rounds"]
    assert [one["output_tokens_per_s"] for one in figures] == [
        one["figures"]["output_tokens_per_s"] for one in second.performance["levels"][0]["rounds"]
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema = 1", ("mine.toml", "concurrency")),
        ("schema = ", ("performance profile mine.toml is not TOML",)),
        (None, ("cannot read mine.toml",)),
    ][: None if ALL else 1],
)
def test_a_wrong_performance_profile_is_a_usage_error(
    tmp_path: Path, text: str | None, words: tuple[str, ...]
) -> None:
    if text is not None:
        (tmp_path / "mine.toml").write_text(text)
    code, said = run(tmp_path, "--vllm-url=http://127.0.0.1:9", "--vllm-performance=mine.toml")
    assert code == pytest.ExitCode.USAGE_ERROR
    for word in words:
        assert word in said
    assert "Traceback" not in said


def test_the_readmes_load_test_runs(url: str, tmp_path: Path) -> None:
    """The example of `vllm_load` is copied out of the README as it stands there."""
    blocks = README.read_text(encoding="utf-8").split("```python\n")[1:]
    (example,) = [text for block in blocks if "vllm_load" in (text := block.split("```")[0])]
    (tmp_path / "test_mine.py").write_text(example + CALIBRATED)
    code, said = run(tmp_path, "test_mine.py", f"--vllm-url={url}")
    assert code == 0, said
    assert "2 passed" in said
