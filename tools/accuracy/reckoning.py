"""Forecasts of the models that the tests know, as `pytest-vllm fit` would make them."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.gpu_table import gpu_models
from pytest_vllm.adapters.model_table import listed_model
from pytest_vllm.domain.fit import ModelMemory, forecast
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.free import with_free
from pytest_vllm.domain.memory.gpus import read_cards
from pytest_vllm.domain.memory.reading import read_serving
from pytest_vllm.domain.target import ServeArgs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.fit import Forecast

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "accuracy"
CONFIGS = ROOT / "tests" / "data" / "models" / "configs.json"
VERSION = "0.32.0"
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}


@cache
def configs() -> dict[str, dict[str, Any]]:
    """Return the shipped configs of the models that the tests know, by their IDs."""
    listed = {name: listed_model(name) for name in json.loads(CONFIGS.read_text("utf-8"))["models"]}
    return {name: model.config for name, model in listed.items() if model is not None}


def table(name: str) -> dict[str, Any]:
    """Read one of the tables of known figures."""
    return tomllib.loads((DATA / name).read_text("utf-8"))


def reckon(  # noqa: PLR0913 - what a user can say
    model: str,
    gpus: str,
    *,
    arguments: Sequence[str] = (),
    free: str = "",
    variant: str = "",
    version: str = VERSION,
    positions: int | None = None,
) -> Forecast:
    """Return the forecast for a model on GPUs of the shipped table.

    Args:
        model: Its ID.
        gpus: As for `--gpus`.
        arguments: vLLM's own.
        free: As for `--free`; idle GPUs without it.
        variant: `bf16` or `int4` for weights that are stored in another way than published.
        version: Version of vLLM.
        positions: Longest context of the config, without scaling, where the served one had that.
    """
    config = dict(configs()[model])
    if variant:
        config.pop("quantization_config", None)
    if variant == "int4":
        config["quantization_config"] = _AWQ
    if positions is not None:
        config.pop("rope_scaling", None)
        config["max_position_embeddings"] = positions
    cards = read_cards(gpus, gpu_models())
    serving = read_serving(
        ServeArgs(argv=tuple(arguments)),
        {},
        version=tuple(map(int, re.findall(r"\d+", version))),
        platform=cards.gpu.platform,
    )
    devices = with_free(cards.devices, free) if free else cards.devices
    return forecast(ModelMemory(name=model, shape=read_shape(config)), devices, serving)


def gib(size: float) -> str:
    """Write bytes as GiB with two decimals."""
    return f"{size / 2**30:.2f}"


def percent(found: float, truth: float) -> str:
    """Write how far a figure is off, with its sign."""
    return f"{(found - truth) / truth * 100:+.1f} %"


def prose(text: str) -> list[str]:
    """Write a paragraph; one that begins with a dash is an item of a list."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, 100, subsequent_indent=indent, break_on_hyphens=False)


def rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Write a table."""
    cells = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {c} |" for c in cells)]
