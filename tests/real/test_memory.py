"""The suite `memory` on real vLLM: green with the soak that users get, and red on a real leak.

Both take minutes, so they run where PYTEST_VLLM_TEST_ALL is set. In CI the suite runs on real vLLM
in the runs of `test_run.py`, with a short soak: on Docker, and on a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import RunRecord, from_json
from pytest_vllm.domain.verdict import Decision
from tests.real.whole_runs import told

if TYPE_CHECKING:
    import pytest

LEAK = Path(__file__).parents[1] / "data" / "memory" / "leak"
SERVE = "--enforce-eager --max-model-len=2048 --max-num-seqs=16 --dtype=bfloat16"
SMALL_CACHE = "--kv-cache-memory-bytes=209715200"
"""200 MiB: so small that 16 requests can fill it, and that it is full in half a minute."""


def run(folder: Path, *words: str) -> RunRecord:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--vllm-suite=memory"]
    command += [f"--vllm-serve-arg={SERVE} {SMALL_CACHE}", "--vllm-env=TORCHDYNAMO_DISABLE=1"]
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    found = sorted(folder.glob(".vllm/*/run.json"))
    assert found, told(done)
    judged = from_json(found[-1].read_text(), where="run.json")
    assert done.returncode == judged.verdict.decision.exit_code, told(done)
    return judged


def outcomes(judged: RunRecord) -> dict[str, Outcome]:
    return {r.check.id: r.outcome for r in judged.results if r.check.suite == "memory"}


if os.environ.get("PYTEST_VLLM_TEST_ALL"):

    def test_a_healthy_server_is_promoted_after_the_soak_that_users_get(
        request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        """In a container: 2,000 requests, a full cache; only what needs a GPU does not apply."""
        image, model = (request.getfixturevalue(name) for name in ("real_image", "real_model"))
        words = (f"--vllm-image={image}", f"--vllm-model={model}", "--vllm-soak-requests=2000")
        judged = run(tmp_path, *words)
        seen = outcomes(judged)
        moot = {name for name, outcome in seen.items() if outcome is Outcome.NOT_APPLICABLE}
        assert moot == {
            "memory.weights.as-forecast",
            "memory.free.as-seen-before",
            "memory.use.of-other-gpus",
        }
        assert {outcome for name, outcome in seen.items() if name not in moot} == {Outcome.PASS}
        assert judged.verdict.decision is Decision.PROMOTE

    def test_a_server_that_leaks_is_rejected(
        real_vllm_python: str, real_model: str, tmp_path: Path
    ) -> None:
        """1 MiB of every request stays in the API server, by a middleware of its own."""
        words = ("--vllm-backend=process", f"--vllm-python={real_vllm_python}")
        leak = ("--vllm-serve-arg=--middleware=leaking.leak", f"--vllm-env=PYTHONPATH={LEAK}")
        judged = run(
            tmp_path,
            *(*words, f"--vllm-model={real_model}", *leak),
            *("--vllm-soak-requests=300", "-k", "soak"),
        )
        assert outcomes(judged)["memory.soak.no-growth"] is Outcome.FAIL
        assert judged.verdict.decision is Decision.REJECT
        (message,) = [r.message for r in judged.results if r.check.id == "memory.soak.no-growth"]
        assert "host memory grows by 1" in message
