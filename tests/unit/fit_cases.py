"""Models and devices that the tests of the forecast share."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest_vllm
from pytest_vllm.domain.fit import Device, ModelMemory
from pytest_vllm.domain.memory import GIB, MIB
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.serving import Platform, Serving

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.shape import ModelShape

_CONFIGS = Path(pytest_vllm.__file__).parent / "data" / "models" / "configs"
MI300X_BYTES = 206_141_652_992
MI250_BYTES = 64 * GIB - 16 * MIB
H100_BYTES = int(79.18 * GIB)
H100_FREE = int(78.66 * GIB)


@cache
def model(name: str) -> ModelMemory:
    """Return a well-known model by its shipped config."""
    text = (_CONFIGS / f"{name.replace('/', '--')}.json").read_text(encoding="utf-8")
    return ModelMemory(name=name, shape=read_shape(json.loads(text)["config"]))


def mi300x(count: int = 1, *, free: int = MI300X_BYTES) -> tuple[Device, ...]:
    """Return MI300X."""
    one = Device(name="MI300X", gfx="gfx942", total_bytes=MI300X_BYTES, free_bytes=free)
    return (one,) * count


def mi250(cards: int = 1) -> tuple[Device, ...]:
    """Return both dies of some MI250."""
    one = Device(name="MI250", gfx="gfx90a", total_bytes=MI250_BYTES, free_bytes=MI250_BYTES)
    return (one,) * (2 * cards)


def h100(*, free: int = H100_BYTES) -> tuple[Device, ...]:
    """Return an H100 of 80 GB as its logs show it."""
    return (Device(name="H100", total_bytes=H100_BYTES, free_bytes=free),)


def small(gib: float, count: int = 1) -> tuple[Device, ...]:
    """Return idle devices of any size."""
    size = int(gib * GIB)
    return (Device(name="small", gfx="gfx1100", total_bytes=size, free_bytes=size),) * count


def cuda_026(**changes: object) -> Serving:
    """Return the arguments of the recorded runs on an H100."""
    asked: dict[str, object] = {"max_model_len": 4096, **changes}
    return Serving(version=(0, 26, 0), platform=Platform.CUDA, **asked)  # type: ignore[arg-type]


def shape_of(known: ModelMemory) -> ModelShape:
    """Return the shape of a model that is known."""
    return known.shape  # type: ignore[return-value]
