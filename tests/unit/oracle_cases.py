"""Cases that vLLM's own model classes were asked, and what they answered (`tools/oracle.py`)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.serving import Serving

FOLDER = Path(__file__).parents[1] / "data" / "oracle"


@cache
def document() -> dict[str, Any]:
    """The file of the cases: `models` and `cases`."""
    return dict(json.loads((FOLDER / "cases.json").read_text(encoding="utf-8")))


@cache
def record() -> dict[str, Any]:
    """What was answered: `version`, `answers`."""
    return dict(json.loads((FOLDER / "record.json").read_text(encoding="utf-8")))


def names() -> list[str]:
    """All cases."""
    return [case["name"] for case in document()["cases"]]


def case(name: str) -> dict[str, Any]:
    """One case."""
    return next(one for one in document()["cases"] if one["name"] == name)


def config(one: dict[str, Any]) -> dict[str, Any]:
    """The config of a case, its changes laid over."""
    return _laid_over(document()["models"][one["model"]], one.get("change", {}))


def model(one: dict[str, Any]) -> ModelMemory:
    """The model of a case, from its config alone."""
    return ModelMemory(name=one["model"], shape=read_shape(config(one)))


def serving(one: dict[str, Any]) -> Serving:
    """How the case spreads it."""
    return Serving(
        tensor_parallel=one.get("tp", 1),
        pipeline_parallel=one.get("pp", 1),
        data_parallel=one.get("dp", 1),
        expert_parallel=one.get("ep", False),
        dtype=one.get("dtype", "auto"),
    )


def _laid_over(under: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in change.items():
        inner = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _laid_over(result[key], value) if inner else value
    return result
