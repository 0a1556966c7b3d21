"""The shipped table of GPUs, `data/gpus/*.toml`; it imports little, for it is read often."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from pytest_vllm.domain.memory.gpus import Basis, GpuModel
from pytest_vllm.domain.memory.serving import Platform

_FOLDER = Path(__file__).parent.parent / "data" / "gpus"


@cache
def gpu_models() -> tuple[GpuModel, ...]:
    """Return the GPUs of the table, AMD's first."""
    return tuple(
        _read(row, Platform(document["platform"]))
        for file in sorted(_FOLDER.glob("*.toml"))
        for document in [tomllib.loads(file.read_text("utf-8"))]
        for row in document["gpu"]
    )


def _read(row: dict[str, Any], platform: Platform) -> GpuModel:
    """Make a row; a key that is not known raises `TypeError`, for the table is ours."""
    values: dict[str, Any] = {**row, "basis": Basis(row["basis"]), "platform": platform}
    values |= {key: tuple(row[key]) for key in ("aliases", "pci_ids") if key in row}
    return GpuModel(**values)
