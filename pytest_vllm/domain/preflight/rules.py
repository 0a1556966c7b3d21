"""All rules of the preflight, in the order in which their findings are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.preflight import (
    arguments,
    engine,
    fit,
    gpu_count,
    host,
    image,
    memory,
    model,
    model_files,
    network,
    security,
    visibility,
)

if TYPE_CHECKING:
    from pytest_vllm.domain.preflight import Rule

_MODULES = (
    engine,
    image,
    host,
    model,
    model_files,
    fit,
    gpu_count,
    memory,
    arguments,
    visibility,
    network,
    security,
)

RULES: tuple[Rule, ...] = tuple(rule for module in _MODULES for rule in module.RULES)
IDS: tuple[str, ...] = tuple(dict.fromkeys(name for module in _MODULES for name in module.IDS))
"""Every ID that a finding of the preflight can have."""
