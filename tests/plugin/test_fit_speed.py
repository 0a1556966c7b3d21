"""`pytest-vllm fit` answers at once: it imports none of the packages that take their time."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.tensors import write_safetensors

LOGGER = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
MOST_SHARE = 3
"""CPU time of the whole command (start of Python, forecast, answer), by that of `YARDSTICK` beside
it: both take more of it where others load the machine. It is 1.5; httpx alone would be as much."""
YARDSTICK = "import argparse, asyncio, dataclasses, http.client, json, subprocess, tempfile"
WAITS_S = 2.0
"""What the clock may show beyond the CPU time; a network or a server that is asked takes more."""
TRIES = 5
HEAVY = {
    *("torch", "transformers", "numpy", "httpx", "openai", "pytest", "_pytest", "docker", "rich"),
    *("jsonschema", "referencing", "prometheus_client", "amdsmi", "huggingface_hub"),
}
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}
WORDS = ("fit", "model", "--gpus", "MI300X:1")
LISTING = "import sys; from pytest_vllm.cli import main; main({words!r}); print(*sys.modules)"


def make_model(folder: Path) -> None:
    """Write a model of 8 billion parameters, with all the headers that it has."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    sizes = {"q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096)}
    tensors = {
        f"model.layers.{layer}.self_attn.{name}.weight": ("BF16", size)
        for layer in range(36)
        for name, size in sizes.items()
    }
    write_safetensors(folder / "model.safetensors", tensors)


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", LISTING.format(words=list(WORDS))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "pytest_vllm" in loaded
    assert loaded & HEAVY == set()


def test_a_local_model_is_judged_at_once(tmp_path: Path) -> None:
    """By what it takes beside a yardstick, at its best: a busy host makes all of them slower."""
    make_model(tmp_path / "model")
    shares, waits = [], []
    for _ in range(TRIES):
        took, used = measure(tmp_path, "-m", "pytest_vllm", *WORDS)
        _, yard = measure(tmp_path, "-c", YARDSTICK)
        LOGGER.info("%.3f s, %.3f s of CPU, yardstick %.3f s", took, used, yard)
        shares.append(used / yard)
        waits.append(took - used)
        if shares[-1] < MOST_SHARE and waits[-1] < WAITS_S:
            return
    pytest.fail(f"it takes {min(shares):.1f} yardsticks, and waits for {min(waits):.1f} s")


def measure(folder: Path, *words: str) -> tuple[float, float]:
    """Return the seconds that Python takes for some words, and the CPU time of that."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        check=True,
    )
    took, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
