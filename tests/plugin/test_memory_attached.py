"""The suite `memory` on a server at a URL: what a run cannot see, or has no time for, is open."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import RunRecord, from_json
from pytest_vllm.domain.verdict import Decision
from tests.plugin.simulated import simulated

if TYPE_CHECKING:
    from pathlib import Path

ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
SOAK, CAPACITY = "memory.soak.no-growth", "memory.kv-cache.is-real"
BLIND = ("--vllm-monitor=none", "--vllm-soak-requests=60")
NOTHING = "not one request of"
"""Where a host stood still while the speed was measured, so that even one seems too long."""
LEAKS = ("--vllm-monitor=none", "--vllm-soak-requests=150", "--vllm-soak-growth-host=64")


def judge(folder: Path, url: str, *words: str) -> RunRecord:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--vllm-url={url}"]
    ours = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [*command, "--vllm-suite=memory", *words],
        cwd=folder,
        env=ours,
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(folder.glob(".vllm/*/run.json"))
    assert found, done.stdout + done.stderr
    return from_json(found[-1].read_text(), where="run.json")


def outcome(judged: RunRecord, check: str) -> tuple[Outcome, str]:
    (result,) = [result for result in judged.results if result.check.id == check]
    return result.outcome, result.message


def test_without_a_monitor_no_growth_of_processes_is_no_pass(tmp_path: Path) -> None:
    """The model may be on a GPU that nobody watched; what the server tells itself is judged."""
    with simulated() as url:
        judged = judge(tmp_path, url, *BLIND)
    seen, why = outcome(judged, SOAK)
    assert seen is Outcome.NOT_RUN
    assert "no GPU was watched, where the model may be: --vllm-monitor=none" in why
    passed = {r.check.id for r in judged.results if r.outcome is Outcome.PASS}
    assert passed == {
        "memory.kv-cache.figures-fit",
        "memory.peak.no-preemptions",
        CAPACITY,
        "liveness.after-suite",
    }
    assert judged.verdict.decision is Decision.PROMOTE
    assert "10 checks were not run, for they look behind the API" in judged.verdict.reasons[1]


if ALL:  # the defects' matrix runs the first as well, the second takes half a minute

    def test_growth_of_processes_is_a_failure_without_a_monitor(tmp_path: Path) -> None:
        with simulated("--defect=memory-leak") as url:
            judged = judge(tmp_path, url, *LEAKS, "-k", "soak")
        assert outcome(judged, SOAK)[0] is Outcome.FAIL
        assert judged.verdict.decision is Decision.REJECT

    def test_requests_that_fill_the_cache_may_wait_for_each_other(tmp_path: Path) -> None:
        """Longer than one request of a check may take: they are sent at once and read in turn."""
        with simulated("--first-token-delay-ms=3000") as url:
            judged = judge(tmp_path, url, BLIND[0], "--vllm-request-timeout=2", "-k", "capacity")
        assert outcome(judged, CAPACITY) == (Outcome.PASS, "")


@pytest.mark.parametrize(
    ("defects", "limit_s", "expected", "words"),
    [
        ((), 4, Outcome.NOT_RUN, rf"% of the stated 32,768\) filled|{NOTHING}"),
        (("--defect=kv-cache-smaller-than-told",), 4, Outcome.FAIL, "times as full"),
        ((), 0.2, Outcome.NOT_RUN, NOTHING),
    ][: 3 if ALL else 2],
    ids=["a part", "a part shows it", "nothing"][: 3 if ALL else 2],
)
def test_a_cache_too_large_for_the_time_is_filled_as_far_as_time_goes(
    tmp_path: Path, defects: tuple[str, ...], limit_s: float, expected: Outcome, words: str
) -> None:
    """17 prompts of half a second take too long; less than 90 % shows a defect or nothing."""
    with simulated("--first-token-delay-ms=500", *defects) as url:
        judged = judge(
            tmp_path, url, "--vllm-monitor=none", f"--vllm-soak-limit={limit_s}", "-k", "capacity"
        )
    seen, why = outcome(judged, CAPACITY)
    assert seen is expected
    assert re.search(words, why), why
    if seen is Outcome.NOT_RUN:
        assert "raise --vllm-soak-limit, or shrink the cache" in why
        assert any(reason.startswith(f"{CAPACITY}: ") for reason in judged.verdict.reasons)
