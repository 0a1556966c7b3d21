"""Goldens of real vLLM and of transformers, each held against real vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_vllm.adapters.golden import read_golden
from pytest_vllm.domain.golden import LONG

pytestmark = pytest.mark.usefixtures("real_vllm")
TIMEOUT_S = 600
SHIPPED = Path(__file__).parents[2] / "pytest_vllm/data/goldens/SmolLM2-135M-Instruct.golden.json"


def record(folder: Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest_vllm", "golden", "record", *words]
    run = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    return run.returncode, run.stdout + run.stderr


def compare(folder: Path, url: str, golden: Path) -> tuple[int, dict[str, str]]:
    command = [sys.executable, "-m", "pytest", f"--vllm-url={url}", "--vllm-suite=golden"]
    command += [f"--vllm-golden={golden}", "-p", "no:cacheprovider", "--vllm-artifacts=runs"]
    run = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    (record_file,) = (folder / "runs").glob("*/run.json")
    results = json.loads(record_file.read_text())["results"]
    outcomes = {one["check"]["id"]: one["outcome"] for one in results}
    assert outcomes, run.stdout
    return run.returncode, outcomes


def changed(source: Path, target: Path, **values: Any) -> Path:
    target.write_text(json.dumps({**json.loads(source.read_text()), **values}))
    return target


def test_a_server_reproduces_its_own_golden(real_vllm: str, tmp_path: Path) -> None:
    golden = tmp_path / "golden.json"
    code, output = record(tmp_path, f"--url={real_vllm}", f"--output={golden}")
    assert code == 0, output
    (long,) = (text for text in read_golden(golden).texts if text.kind == LONG)
    assert 0.7 * 2048 < len(long.ids) <= 0.8 * 2048
    code, outcomes = compare(tmp_path, real_vllm, golden)
    assert code == 0, outcomes
    assert outcomes["golden.texts.same-numbers"] == "pass"


def test_transformers_and_vllm_agree(
    real_vllm: str, real_vllm_python: str, real_model: str, tmp_path: Path
) -> None:
    golden = tmp_path / "golden.json"
    words = ["--reference=hf", f"--model={real_model}", f"--python={real_vllm_python}"]
    code, output = record(tmp_path, *words, "--max-model-len=2048", f"--output={golden}")
    assert code == 0, output
    code, outcomes = compare(tmp_path, real_vllm, golden)
    assert code == 0, outcomes
    assert set(outcomes.values()) == {"pass"}


def test_other_numbers_of_this_model_reject(real_vllm: str, tmp_path: Path) -> None:
    document = json.loads(SHIPPED.read_text())
    for text in document["texts"]:
        text["logprobs"] = [value - 0.4 for value in text["logprobs"]]
    golden = changed(SHIPPED, tmp_path / "g.json", texts=document["texts"])
    code, outcomes = compare(tmp_path, real_vllm, golden)
    assert code == 1
    assert outcomes["golden.texts.same-numbers"] == "fail"
    assert outcomes["golden.copy.same-numbers"] == "fail"
    assert outcomes["golden.tokenizer.same-ids"] == "pass"


def test_a_golden_of_another_model_leaves_the_verdict_open(real_vllm: str, tmp_path: Path) -> None:
    strings = [{"text": "Hello world", "ids": [1, 2, 3]}]
    golden = changed(SHIPPED, tmp_path / "g.json", model="Other-7B", strings=strings)
    code, outcomes = compare(tmp_path, real_vllm, golden)
    assert code == 75
    assert outcomes["golden.tokenizer.same-ids"] == "error"


def test_transformers_that_are_missing_are_named(real_model: str, tmp_path: Path) -> None:
    code, output = record(tmp_path, "--reference=hf", f"--model={real_model}", "--output=g.json")
    assert code == 4
    assert "golden-hf" in output
    assert not (tmp_path / "g.json").exists()
