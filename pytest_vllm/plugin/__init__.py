"""The pytest plugin: options, fixtures and the run of an acceptance.

This module is imported by every pytest run of an environment in which the package is installed, so
it imports nothing heavy; what a run needs is imported when the run turns out to be an acceptance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.plugin.fixtures import (
    vllm,
    vllm_benchmark,
    vllm_gpus,
    vllm_load,
    vllm_memory,
    vllm_performance,
    vllm_server,
    vllm_target,
    vllm_transport,
)
from pytest_vllm.plugin.marks import MARKERS
from pytest_vllm.plugin.options import add_options, is_active

if TYPE_CHECKING:
    import pytest

__all__ = [
    "vllm",
    "vllm_benchmark",
    "vllm_gpus",
    "vllm_load",
    "vllm_memory",
    "vllm_performance",
    "vllm_server",
    "vllm_target",
    "vllm_transport",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the group `vLLM acceptance`."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and, when a server is named, the acceptance run."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if is_active(config):
        from pytest_vllm.plugin.acceptance import activate  # noqa: PLC0415 - only when used

        activate(config)
