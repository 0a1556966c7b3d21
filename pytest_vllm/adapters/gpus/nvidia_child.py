"""Asks NVML from inside a process of its own: the one home of `pynvml` (package nvidia-ml-py).

Reference: https://docs.nvidia.com/deploy/nvml-api. Sizes are bytes, power milliwatts, clocks MHz.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from typing import Any

from pytest_vllm.adapters.gpus.answering import answer_all, plain_number

_MILLI = 1e-3


class Nvml:
    """The library, once it is loaded."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[tuple[str, Any]] | None = None

    def answer(self, word: str) -> Any:
        """Answer `facts`, `sample` or `sample rare`."""
        handles = self._find()
        if word == "facts":
            return {
                "source": f"nvidia-ml-py {version('nvidia-ml-py')}",
                "gpus": [self._facts(bdf, handle) for bdf, handle in handles],
            }
        rare = word.endswith("rare")
        return {bdf: self._sample(handle, rare=rare) for bdf, handle in handles}

    def _find(self) -> list[tuple[str, Any]]:
        """Return address and handle of each GPU; the order of NVML is that of PCI addresses."""
        if self._handles is None:
            self._nvml = nvml = import_module("pynvml")
            nvml.nvmlInit()
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            self._handles = [(self._bdf(handle), handle) for handle in handles]
        return self._handles

    def _bdf(self, handle: Any) -> str:
        """Return the PCI address as Linux writes it: NVML has eight digits for the domain."""
        named = _text(self._nvml.nvmlDeviceGetPciInfo(handle).busId).lower()
        domain, _, rest = named.partition(":")
        return f"{int(domain, 16):04x}:{rest}"

    def _facts(self, bdf: str, handle: Any) -> dict[str, Any]:
        nvml = self._nvml
        memory = self._memory(handle)
        pci = self._ask("nvmlDeviceGetPciInfo", handle)
        capability = self._ask("nvmlDeviceGetCudaComputeCapability", handle)
        mig = self._ask("nvmlDeviceGetMigMode", handle)
        device = getattr(pci, "pciDeviceId", 0) >> 16
        return {
            "bdf": bdf,
            "vendor": "nvidia",
            "name": _text(self._ask("nvmlDeviceGetName", handle)),
            "device_id": f"0x{device:04x}" if device else "",
            "uuid": _text(self._ask("nvmlDeviceGetUUID", handle)),
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "compute_capability": ".".join(map(str, capability)) if capability else "",
            "partition": "MIG" if mig and mig[0] else "",
            "vram_total_bytes": memory.get("total"),
            "vram_used_bytes": memory.get("used"),
            "processes": [
                {
                    "pid": process.pid,
                    "name": _text(self._ask("nvmlSystemGetProcessName", process.pid)),
                    "vram_used_bytes": plain_number(process.usedGpuMemory),
                }
                for process in self._ask("nvmlDeviceGetComputeRunningProcesses", handle) or []
            ],
        }

    def _sample(self, handle: Any, *, rare: bool) -> dict[str, Any]:
        nvml = self._nvml
        power = plain_number(self._ask("nvmlDeviceGetPowerUsage", handle))
        busy = self._ask("nvmlDeviceGetUtilizationRates", handle)
        heat = self._ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU)
        sample = {
            "vram_used_bytes": self._memory(handle).get("used"),
            "activity_percent": getattr(busy, "gpu", None),
            "power_w": None if power is None else power * _MILLI,
            "temperature_c": heat,
            "memory_temperature_c": None,  # told by few boards, by a call of another kind
            "gfx_clock_mhz": self._ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        }
        if rare:
            kinds = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            sample["ecc_errors"] = self._ask("nvmlDeviceGetTotalEccErrors", handle, *kinds)
        return {name: plain_number(value) for name, value in sample.items()}

    def _memory(self, handle: Any) -> dict[str, int]:
        """Return `total` and `used` as CUDA counts them: without what the driver keeps for itself.

        The second version of the call tells that reserve apart; drivers before 510 know only the
        first, where it counts as used.
        """
        second = getattr(self._nvml, "nvmlMemory_v2", None)
        info = self._ask("nvmlDeviceGetMemoryInfo", handle, second) if second else None
        if info is not None:
            return {"total": int(info.total) - int(info.reserved), "used": int(info.used)}
        info = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return {} if info is None else {"total": int(info.total), "used": int(info.used)}

    def _ask(self, call: str, *words: Any) -> Any:
        """Make a call; a GPU that does not tell one thing is still a GPU."""
        with suppress(Exception):
            return getattr(self._nvml, call)(*words)
        return None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if value is not None else ""


if __name__ == "__main__":
    answer_all(Nvml().answer)
