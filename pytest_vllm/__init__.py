"""Acceptance tests for vLLM servers on AMD GPUs: one command from image and model to a verdict."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vllm.domain.checks import INFO, MUST, SHOULD, Layer, Level
    from pytest_vllm.domain.load.measurement import Measurement, Slo
    from pytest_vllm.domain.load.plan import Limits
    from pytest_vllm.domain.load.traffic import Pattern, Traffic
    from pytest_vllm.plugin.client import Client
    from pytest_vllm.plugin.load import Load
    from pytest_vllm.plugin.marks import ENDPOINTS, check, needs, suite
    from pytest_vllm.plugin.memory import ServerMemory
    from pytest_vllm.plugin.performance import Performance
    from pytest_vllm.plugin.skips import not_applicable, not_run

__all__ = [
    "ENDPOINTS",
    "INFO",
    "MUST",
    "SHOULD",
    "Client",
    "Layer",
    "Level",
    "Limits",
    "Load",
    "Measurement",
    "Pattern",
    "Performance",
    "ServerMemory",
    "Slo",
    "Traffic",
    "check",
    "needs",
    "not_applicable",
    "not_run",
    "suite",
]

_HOME = {
    "Client": "pytest_vllm.plugin.client",
    "ENDPOINTS": "pytest_vllm.plugin.marks",
    "INFO": "pytest_vllm.domain.checks",
    "Layer": "pytest_vllm.domain.checks",
    "Level": "pytest_vllm.domain.checks",
    "Limits": "pytest_vllm.domain.load.plan",
    "Load": "pytest_vllm.plugin.load",
    "MUST": "pytest_vllm.domain.checks",
    "Measurement": "pytest_vllm.domain.load.measurement",
    "Pattern": "pytest_vllm.domain.load.traffic",
    "Performance": "pytest_vllm.plugin.performance",
    "SHOULD": "pytest_vllm.domain.checks",
    "ServerMemory": "pytest_vllm.plugin.memory",
    "Slo": "pytest_vllm.domain.load.measurement",
    "Traffic": "pytest_vllm.domain.load.traffic",
    "check": "pytest_vllm.plugin.marks",
    "needs": "pytest_vllm.plugin.marks",
    "not_applicable": "pytest_vllm.plugin.skips",
    "not_run": "pytest_vllm.plugin.skips",
    "suite": "pytest_vllm.plugin.marks",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use, so that importing the package stays cheap."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
