"""Says why no GPU is known."""

from __future__ import annotations

from pytest_vllm.adapters.gpus import GpuFacts, no_gpus


class NoMonitor:
    """Sees nothing.

    Args:
        reason: Why.
    """

    name = "none"

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def facts(self) -> GpuFacts:
        """Return the reason."""
        return no_gpus(self.name, self._reason)
