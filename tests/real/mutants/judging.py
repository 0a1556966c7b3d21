"""Runs the suites content and golden on a served variant, as a user does, and reads the verdict."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import from_json

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 900
QUICK = "test_finite or test_english or test_copy or test_golden"
"""The checks that read prompts only: they find most mutants in a small part of the time."""
FREE = "test_san_francisco or test_poem or test_varied or test_facts"
"""Checks of free text: slow, and as they are made, only a heap of rubble fails them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the suite said of one variant.

    Attributes:
        decision: The verdict of the run.
        failed: Checks that did not pass, by name, with their messages.
        passed: Checks that passed.
        seconds: Wall time of the run of pytest.
    """

    decision: str
    failed: dict[str, str]
    passed: tuple[str, ...]
    seconds: float

    @property
    def tier0(self) -> tuple[str, ...]:
        """Failed checks that need no golden."""
        return tuple(name for name in self.failed if not is_golden(name))

    @property
    def tier1(self) -> tuple[str, ...]:
        """Failed checks against the golden."""
        return tuple(name for name in self.failed if is_golden(name))


def is_golden(check: str) -> bool:
    """Tell whether a check compares with a golden."""
    return check.startswith("golden.")


def judge_mutant(url: str, folder: Path, *, golden: Path | None) -> Judgement:
    """Run the quick checks, and those left where no check without a golden failed."""
    quick = judge(url, folder / "quick", golden=golden, select=QUICK)
    if quick.tier0:
        return quick
    rest = judge(url, folder / "rest", golden=None, select=f"not ({QUICK} or {FREE})")
    return Judgement(
        decision="REJECT" if "REJECT" in (quick.decision, rest.decision) else rest.decision,
        failed=quick.failed | rest.failed,
        passed=quick.passed + rest.passed,
        seconds=quick.seconds + rest.seconds,
    )


def judge(
    url: str, folder: Path, *, golden: Path | None, select: str = "", told: tuple[str, ...] = ()
) -> Judgement:
    """Run the suites content and golden on a server, in a folder of its own.

    Args:
        url: The server.
        folder: Where pytest runs and leaves its evidence.
        golden: What the suite golden compares with; without one it does not apply.
        select: `-k` of pytest, all checks by default.
        told: Arguments of the launch that the run is told of.

    Raises:
        RuntimeError: The run left no evidence, so nothing was judged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--vllm-url={url}"]
    command += ["--vllm-suite=content,golden", *(f"--vllm-serve-arg={word}" for word in told)]
    if golden is not None:
        command += [f"--vllm-golden={golden}"]
    if select:
        command += ["-k", select]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    seconds = time.monotonic() - began
    found = sorted(folder.glob(".vllm/*/run.json"))
    if not found:
        raise RuntimeError(f"no evidence in {folder}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    record = from_json(found[-1].read_text(encoding="utf-8"), where=str(found[-1]))
    bad = (Outcome.FAIL, Outcome.ERROR)
    return Judgement(
        decision=str(record.verdict.decision),
        failed={r.name: r.message for r in record.results if r.outcome in bad},
        passed=tuple(r.name for r in record.results if r.outcome is Outcome.PASS),
        seconds=seconds,
    )


def record_golden(url: str, path: Path) -> None:
    """Record the golden of the served bfloat16 model with the project's own verb.

    Raises:
        RuntimeError: The verb refused.
    """
    command = [sys.executable, "-m", "pytest_vllm", "golden", "record"]
    command += ["--url", url, "--output", str(path)]
    command += ["--dtype", "bfloat16", "--quantization", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"no golden was recorded: {done.stdout[-2000:]}{done.stderr[-2000:]}")
