"""The GPUs of a run, from before its launch until their memory is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.adapters.gpus import probe
from pytest_vllm.adapters.gpus.sampler import Sampler

if TYPE_CHECKING:
    from pytest_vllm.adapters.gpus import GpuMonitor
    from pytest_vllm.plugin.state import RunState


class Sampling:
    """Chooses the monitor of a run, and samples with it where it sees a GPU.

    Args:
        state: Gets the facts of the GPUs, and at the end the samples.
    """

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._sampler: Sampler | None = None
        self.monitor: GpuMonitor = probe(state.target.text("monitor"))

    def start(self) -> None:
        """Look once and begin to sample (`--vllm-sample-interval`)."""
        state = self._state
        state.gpus = dict(self.monitor.facts())
        interval_s = state.target.seconds("sample-interval")
        if interval_s and state.gpus["gpus"] and self._sampler is None:
            self._sampler = Sampler(self.monitor, state.gpus["gpus"], interval_s=interval_s)
            self._sampler.start()
            state.gpu_columns = self._sampler.columns

    def stop(self) -> None:
        """End the samples, hand them over and give back the monitor; a second call does nothing."""
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            self._state.gpu_samples = sampler.stop()
        self.monitor.close()
