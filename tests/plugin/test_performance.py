"""The suite `performance` at its edges: what stands in its way, and what users take from it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import RunRecord, from_json
from pytest_vllm.domain.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parents[1] / "data" / "performance"
README = Path(__file__).parents[2] / "README.md"
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
SHORT = f"--vllm-performance={DATA / 'short.toml'}"


@contextmanager
def simulated(*words: str) -> Iterator[str]:
    """Serve a model of our own on a port that is free, and tell the URL; a run waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "pytest_vllm", "simulate", f"--port={port}", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with simulated("--token-delay-ms=4", "--first-token-delay-ms=20") as served:
        yield served


def run(folder: Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--vllm-monitor=none"]
    ours = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [*command, *words], cwd=folder, env=ours, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def judge(folder: Path, *words: str) -> tuple[RunRecord, str]:
    _, said = run(folder, "--vllm-suite=performance", *words)
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
    (("-n1",), "without -n"),
    (("--benchmark-disable",), "pytest-benchmark measures nothing (--benchmark-disable)"),
    (("--benchmark-skip",), "--benchmark-skip"),
]
"""Options and what is said of each; the last two only where all tests run."""


@pytest.mark.parametrize(("words", "reason"), IN_THE_WAY[: 4 if ALL else 2])
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


def test_other_loads_than_the_baselines_are_not_compared(url: str, tmp_path: Path) -> None:
    """A run of another workload cannot be a baseline; that is no pass."""
    words = (f"--vllm-url={url}", "-k", "test_regression or test_throughput")
    base, said = judge(tmp_path, *words, SHORT)
    assert base.performance["levels"], said
    other = tmp_path / "other.toml"
    other.write_text(
        (DATA / "short.toml").read_text().replace("prompt_tokens = 32", "prompt_tokens = 33")
    )
    baseline = f"--vllm-baseline={tmp_path / '.vllm' / base.run_id}"
    judged, said = judge(tmp_path, *words, f"--vllm-performance={other}", baseline)
    seen, why = outcomes(judged, "performance.regression")["performance.regression"]
    assert seen is Outcome.NOT_RUN, said
    assert "not comparable with the baseline" in why
    assert judged.verdict.decision is Decision.INCONCLUSIVE
    junit = (tmp_path / ".vllm" / judged.run_id / "junit.xml").read_text()
    assert 'name="performance.c8.output_tokens_per_s"' in junit


def test_the_suite_is_added_where_its_option_is_named(url: str, tmp_path: Path) -> None:
    words = (f"--vllm-url={url}", "--collect-only", "-q")
    assert "test_performance.py" not in run(tmp_path, *words)[1]
    assert "test_answered[c8]" in run(tmp_path, *words, SHORT)[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema = 1", ("mine.toml", "concurrency")),
        ("schema = ", ("performance profile mine.toml is not TOML",)),
        (None, ("cannot read mine.toml",)),
    ],
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
    (example,) = [code for block in blocks if "vllm_load" in (code := block.split("```")[0])]
    (tmp_path / "test_mine.py").write_text(example)
    code, said = run(tmp_path, "test_mine.py", f"--vllm-url={url}")
    assert code == 0, said
    assert "1 passed" in said
