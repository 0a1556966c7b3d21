"""Real vLLM's model classes still allocate what was recorded, which the closed forms equal."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.unit import oracle_cases as oracle

_TOOL = Path(__file__).parents[2] / "tools" / "oracle.py"
_TIMEOUT_S = 1200
_FEW = ("SmolLM2-135M-Instruct tp3", "gpt2 pp2 stage 1", "moe fp8 block tp4")
"""A dense model, the ends of a pipeline, and experts whose blocks are cut smaller."""


def _check(python: str, names: tuple[str, ...]) -> None:
    run = subprocess.run(
        [python, str(_TOOL), str(oracle.FOLDER / "cases.json"), *names],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    seen = {line["name"]: line for line in map(json.loads, run.stdout.splitlines())}
    recorded = oracle.record()["answers"]
    wanted = names or tuple(recorded)
    assert sorted(seen) == sorted(wanted)
    for name in wanted:
        assert {key: seen[name][key] for key in recorded[name]} == recorded[name], name


def test_some_classes_allocate_what_was_recorded(real_vllm_python: str) -> None:
    """Cheap enough for every change; all of them are tried at night."""
    _check(real_vllm_python, _FEW)


if os.environ.get("PYTEST_VLLM_TEST_ALL"):

    def test_all_classes_allocate_what_was_recorded(real_vllm_python: str) -> None:
        """A new version that allocates otherwise shows here, case by case."""
        _check(real_vllm_python, ())
