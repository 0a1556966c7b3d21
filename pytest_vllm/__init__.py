"""Acceptance tests for vLLM servers on AMD GPUs: one command from image and model to a verdict."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vllm.domain.checks import INFO, MUST, SHOULD, Layer, Level
    from pytest_vllm.plugin.client import Client
    from pytest_vllm.plugin.marks import ENDPOINTS, check, needs, suite
    from pytest_vllm.plugin.memory import ServerMemory
    from pytest_vllm.plugin.skips import not_applicable, not_run

__all__ = [
    "ENDPOINTS",
    "INFO",
    "MUST",
    "SHOULD",
    "Client",
    "Layer",
    "Level",
    "ServerMemory",
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
    "MUST": "pytest_vllm.domain.checks",
    "SHOULD": "pytest_vllm.domain.checks",
    "ServerMemory": "pytest_vllm.plugin.memory",
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
