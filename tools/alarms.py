"""Count false alarms: `python -m tools.alarms [RUNS]` accepts healthy vLLM again and again.

Each run launches vLLM anew by the process backend, with another seed: other random prompts, and
another order in which the checks are sent. The parts come from the environment as in the tests
(`./dev test` names them).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
SERVE = "--enforce-eager --max-model-len=2048 --max-num-seqs=16 --dtype=bfloat16"
LIMIT_S = 900


def accept(seed: int, folder: Path) -> str:
    """Run all suites once; return a row of the table."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    command += ["--vllm-backend=process", f"--vllm-python={os.environ['PYTEST_VLLM_TEST_PYTHON']}"]
    command += [f"--vllm-model={os.environ['PYTEST_VLLM_TEST_MODEL']}", f"--vllm-serve-arg={SERVE}"]
    command += ["--vllm-env=VLLM_CPU_KVCACHE_SPACE=1", "--vllm-env=TORCHDYNAMO_DISABLE=1"]
    command += [f"--vllm-seed={seed}", f"--vllm-artifacts={folder}", "--vllm-soak-requests=200"]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False, timeout=LIMIT_S)
    record = json.loads(next(folder.glob("*/run.json")).read_text(encoding="utf-8"))
    results = record["results"]
    passed = Counter(result["outcome"] for result in results)["pass"]
    bad = [r for r in results if r["outcome"] in ("fail", "error", "not run")]
    musts = [r["check"]["id"] for r in bad if r["check"]["level"] == "MUST"]
    shoulds = [r["check"]["id"] for r in bad if r["check"]["level"] != "MUST"]
    named = ", ".join(sorted({*musts, *shoulds})) or "-"
    decision, seconds = record["verdict"]["decision"], record["checks_s"]
    cells = (seed, decision, passed, len(musts), len(shoulds), named, f"{seconds:.0f}")
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: Sequence[str]) -> int:
    """Print the table, row by row."""
    runs = int(argv[0]) if argv else 10
    print("| seed | verdict | passed | MUST failed | SHOULD failed | which | seconds of checks |")
    print("|---|---|---|---|---|---|---|")
    for seed in range(1, runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            print(accept(seed, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
