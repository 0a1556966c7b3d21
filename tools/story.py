"""What `fit` says of the story, for the README: a table, and what it prints of one case."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.gpu_table import gpu_models
from pytest_vllm.adapters.model_memory import Network, gather
from pytest_vllm.domain.fit import Fit, ModelMemory, forecast
from pytest_vllm.domain.memory.gpus import read_cards
from pytest_vllm.domain.memory.serving import Serving
from pytest_vllm.domain.memory.shape import ModelShape, Quantization
from pytest_vllm.domain.memory.weights import weigh

if TYPE_CHECKING:
    from pytest_vllm.domain.fit import Forecast

_MODELS = (
    ("671B", "deepseek-ai/DeepSeek-V3.1"),
    ("67B", "deepseek-ai/deepseek-llm-67b-chat"),
    ("7B", "deepseek-ai/deepseek-llm-7b-chat"),
)
_TYPES = (
    ("16 bits", Quantization()),
    ("FP8", Quantization(method="fp8", bits=8, block=(128, 128))),
    ("4 bits (groups of 128)", Quantization(method="gptq", bits=4, group=128, zeros=True)),
)
_GPUS = (("MI250:4", "four MI250 of 128 GB"), ("MI300X:1", "one MI300X of 192 GB"))
_GIB, _GB = 2**30, 10**9
_SAMPLE = (
    "fit deepseek-ai/deepseek-llm-67b-chat --gpus MI300X --free 164.76GiB "
    "-- --gpu-memory-utilization 0.9"
)
_BEGIN, _END = "<!-- fit: written by ./dev docs -->\n", "<!-- fit: end -->"


def with_story(readme: str) -> str:
    """Return the README with what stands between its two marks written anew."""
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{_section()}{_END}{after}"


def _section() -> str:
    shown = _printed(_SAMPLE)
    return f"```\npytest-vllm {_SAMPLE}\n```\n```\n{shown}```\n\n{story_table()}\n"


def _printed(words: str) -> str:
    """Run the command in an environment that knows nothing but the shipped table."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_vllm", *words.split()],
        env={
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PYTHONUTF8": "1",
            "HF_HOME": "/nonexistent",
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.stderr:
        raise RuntimeError(done.stderr)
    return done.stdout


def story_table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| model | stored in | weights | "
        + " | ".join(_title(gpus, title) for gpus, title in _GPUS)
        + " |",
        "|---|---|---|" + "---|" * len(_GPUS),
    ]
    for size, name in _MODELS:
        for title, quantization in _TYPES:
            model = _stored(name, quantization)
            whole = sum(rank.parameters_bytes for rank in weigh(model, Serving()))
            cells = [_judge(model, gpus) for gpus, _ in _GPUS]
            row = (f"{size} ({name.partition('/')[2]})", title, f"{whole / _GB:,.0f} GB", *cells)
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _stored(name: str, quantization: Quantization) -> ModelMemory:
    """Return a model of the shipped table as if it were stored in another type."""
    found = gather(name, env={"HF_HOME": "/nonexistent"}, network=Network.NEVER)
    if not isinstance(found.shape, ModelShape):
        raise TypeError(f"{name}: {found.shape.reason}")
    return ModelMemory(name=name, shape=replace(found.shape, quantization=quantization))


def _judge(model: ModelMemory, gpus: str) -> str:
    """Return the verdict with as few ranks as fit, else with all devices."""
    devices = read_cards(gpus, gpu_models()).devices
    seen = []
    for ranks in (1, 2, 4, 8):
        if ranks > len(devices):
            break
        found = forecast(model, devices, Serving(tensor_parallel=ranks))
        if found.verdict is Fit.FITS:
            return _worded(found)
        seen.append(found)
    marginal = [found for found in seen if found.verdict is Fit.MARGINAL]
    return _worded(marginal[-1] if marginal else seen[-1])


def _title(gpus: str, title: str) -> str:
    devices = read_cards(gpus, gpu_models()).devices
    free = f"{devices[0].free_bytes / _GIB:.1f} GiB free"
    return f"{title}: {f'{len(devices)} devices, {free} on each' if devices[1:] else free}"


def _worded(found: Forecast) -> str:
    ranks = found.serving.tensor_parallel
    held = max(rank.total_bytes for rank in found.weights) / _GIB
    gate = f" ({found.gate})" if found.gate is not None else ""
    return f"{found.verdict}{gate}: {f'{ranks} x ' if ranks > 1 else ''}{held:,.1f} GiB"
