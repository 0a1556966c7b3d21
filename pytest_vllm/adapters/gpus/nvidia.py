"""Asks NVML about NVIDIA's GPUs, in a process of its own (`nvidia_child`)."""

from __future__ import annotations

from typing import Any

from pytest_vllm.adapters.gpus import UNKNOWN_GPU, GpuFacts, no_gpus
from pytest_vllm.adapters.gpus.companion import Companion, Reply
from pytest_vllm.domain.devices import mark_shared
from pytest_vllm.domain.gpu_samples import Look
from pytest_vllm.domain.text import one_line

_TIMEOUT_S = 20.0
_SAMPLE_TIMEOUT_S = 5.0
_CODES = {
    4: "no permission: this user may not use /dev/nvidiactl",
    9: "driver nvidia is not loaded",
    12: "the driver's library libnvidia-ml.so.1 is not installed",
    13: "the driver's library libnvidia-ml.so.1 is too old for nvidia-ml-py",
    15: "a GPU has fallen off the bus",
    18: "driver and library differ in version: reload the driver or reboot",
}
"""Return codes of `nvmlReturn_t`."""


class NvidiaMonitor:
    """Asks NVML.

    Args:
        timeout_s: Seconds after which NVML counts as hung.
    """

    name = "nvidia"

    def __init__(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._companion = Companion(
            "pytest_vllm.adapters.gpus.nvidia_child", what="NVML", first_s=timeout_s
        )

    def facts(self) -> GpuFacts:
        """Ask now."""
        reply = self._companion.ask("facts", timeout_s=self._timeout_s)
        if reply.down or reply.error is not None:
            return no_gpus(self.name, _explain(reply))
        if not reply.answer["gpus"]:
            return no_gpus(self.name, "NVML sees no GPU")
        gpus: list[dict[str, Any]] = [
            UNKNOWN_GPU | gpu | {"index": index, "hip_index": index}
            for index, gpu in enumerate(reply.answer["gpus"])
        ]
        return {
            "monitor": self.name,
            "reason": "",
            "source": reply.answer["source"],
            "gpus": mark_shared(gpus),
        }

    def sample(self, *, rare: bool) -> Look:
        """Ask for what changes."""
        timeout_s = min(self._timeout_s, _SAMPLE_TIMEOUT_S)
        reply = self._companion.ask("sample rare" if rare else "sample", timeout_s=timeout_s)
        if reply.down or reply.error is not None:
            return Look(problem=_explain(reply))
        return Look(readings=reply.answer, cpu_s=reply.cpu_s)

    def close(self) -> None:
        """End the process that asks."""
        self._companion.close()


def _explain(reply: Reply) -> str:
    """Put into words why NVML told nothing."""
    if reply.down:
        said = f": {one_line(reply.noise[-1], 200)}" if reply.noise else ""
        return f"{reply.down}{said}"
    error = reply.error or {}
    kind, text, code = str(error.get("kind")), str(error.get("text")), error.get("code")
    if kind == "ModuleNotFoundError":
        return "Python package nvidia-ml-py is not installed"
    known = _CODES.get(code) if isinstance(code, int) else None
    return f"NVML: {known or one_line(text, 200)}{f' (error {code})' if code is not None else ''}"
