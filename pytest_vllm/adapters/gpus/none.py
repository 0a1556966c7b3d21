"""Says why no GPU is known."""

from __future__ import annotations

from pytest_vllm.adapters.gpus import GpuFacts, no_gpus
from pytest_vllm.domain.gpu_samples import Look


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

    def sample(self, *, rare: bool) -> Look:  # noqa: ARG002 - the protocol's
        """Return the reason."""
        return Look(problem=self._reason)

    def close(self) -> None:
        """Hold nothing."""
