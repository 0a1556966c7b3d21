"""Real vLLM still lays out the KV cache as recorded; nightly, as it imports all of vLLM."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_DATA = _ROOT / "tests" / "data" / "oracle-kv"
_TIMEOUT_S = 600

if os.environ.get("PYTEST_VLLM_TEST_ALL"):

    def test_vllm_lays_out_the_cache_as_recorded(real_vllm_python: str) -> None:
        """A new version that lays it out otherwise shows here, case by case."""
        run = subprocess.run(
            [real_vllm_python, str(_ROOT / "tools" / "oracle_kv.py"), str(_DATA / "cases.json")],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-4000:]
        recorded = json.loads((_DATA / "0.32.json").read_text(encoding="utf-8"))
        assert json.loads(run.stdout)["answers"] == recorded["answers"]
