"""`pytest-vllm ab` with real vLLM: a server with itself, and two launched ones, one of them slow.

The second runs at night (PYTEST_VLLM_TEST_ALL=1): it starts real vLLM twice, as containers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
WORKLOAD = 'schema = 1\nsummary = "Little."\nprompt_tokens = 16\noutput_tokens = 8\n'
RUNS = ("--workload=small.toml", "--requests=11", "--warm-up=2", "--concurrency=4", "--pairs=6")
SERVE = ("--enforce-eager", "--max-model-len=1024", "--dtype=bfloat16")
CPU = ("--vllm-env=VLLM_CPU_KVCACHE_SPACE=1", "--vllm-env=TORCHDYNAMO_DISABLE=1")


def compare(folder: Path, *words: str) -> tuple[int, str, dict[str, Any]]:
    """Return exit code, what was printed, and the record."""
    (folder / "small.toml").write_text(WORKLOAD)
    done = subprocess.run(
        [sys.executable, "-m", "pytest_vllm", "ab", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout + done.stderr
    found = sorted(folder.glob(".vllm/*/ab.json"))
    assert found, told
    return done.returncode, told, json.loads(found[-1].read_text())


def test_real_vllm_with_itself(real_vllm: str, tmp_path: Path) -> None:
    code, told, record = compare(tmp_path, f"--url={real_vllm}", "--aa=1", *RUNS)
    assert code == 0, told
    runs = record["comparisons"][0]["runs"]
    assert len(runs) == 12
    assert all(run["output_tokens"] == 11 * 8 and not run["failures"] for run in runs), told
    assert all(run["client"]["clock"] == "kernel" for run in runs)
    assert record["calibration"]["path"] == "epoll"
    assert record["alarms"]["worse"]["total"] == 1
    cached = {run["figures"].get("cached_tokens", 0) for run in runs}
    assert cached == {0}, "a run found the prompts of another in the prefix cache"


if ALL:

    def test_a_container_that_serves_one_at_a_time_is_worse(
        real_image: str, real_model: str, tmp_path: Path
    ) -> None:
        words = (f"--image={real_image}", f"--model={real_model}", "--together", *RUNS, *CPU)
        slow = ("--a-serve-arg=--max-num-seqs=8", "--b-serve-arg=--max-num-seqs=1")
        code, told, record = compare(tmp_path, *words, *slow, "--", *SERVE)
        assert code == 1, told
        changes = record["comparisons"][0]["judgement"]["changes"]
        effects = {change["metric"]: change["effect"] for change in changes}
        assert effects["output_tokens_per_s"] == "worse", told
        assert record["base"]["launch"]["image"] == record["candidate"]["launch"]["image"]
        label = f"label=pytest-vllm.run={record['run_id']}-a1"
        left = subprocess.run(
            ["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, check=True
        )
        assert left.stdout == ""
