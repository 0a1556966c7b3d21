"""Where facts and samples of GPUs come from, behind one protocol."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from pytest_vllm.domain.gpu_samples import Look

GpuFacts = dict[str, Any]
"""JSON-able facts about the GPUs of this host.

`monitor`: who looked. `reason`: why no GPU is known, or some are not, or empty. `source`: what was
asked, such as `amdsmi 7.0.2`. `gpus`: one mapping each, by PCI address, with

- `index`, `name`, `vendor`, `gfx` (AMD) or `compute_capability` (NVIDIA), `device_id`, `uuid`,
  `driver`
- `bdf`, `render_node`, `hip_index` (how HIP or CUDA counts it when no variable hides a GPU)
- `vram_total_bytes`, `vram_used_bytes`, and `hip_total_bytes` (what the compute driver grants)
- `partition` (`SPX/NPS1`), `socket` and `shared_with`: the indexes that draw on the same memory,
  which must never be added up (`domain.devices.usable_devices` knows how to share it)
- `processes`: `pid` (the host's), `name`, `vram_used_bytes`

What is not known is `None`, or empty for a text or a list.
"""

UNKNOWN_GPU: dict[str, Any] = {
    "name": "",
    "vendor": "",
    "gfx": "",
    "compute_capability": "",
    "device_id": "",
    "uuid": "",
    "driver": "",
    "bdf": "",
    "render_node": "",
    "hip_index": None,
    "vram_total_bytes": None,
    "vram_used_bytes": None,
    "hip_total_bytes": None,
    "partition": "",
    "processes": [],
}
"""A GPU of which nothing is known."""


class GpuMonitor(Protocol):
    """Looks at the GPUs of this host; never raises and never writes to the terminal.

    Its methods may be called from several threads.
    """

    name: str

    def facts(self) -> GpuFacts:
        """Look at everything."""

    def sample(self, *, rare: bool) -> Look:
        """Look at what changes.

        Args:
            rare: Whether to ask also for what takes long (`gpu_samples.RARE`).
        """

    def close(self) -> None:
        """Give back what the monitor holds, at once, also while another thread looks."""


_HOME = {
    "amd": ("pytest_vllm.adapters.gpus.amd", "AmdMonitor"),
    "sysfs": ("pytest_vllm.adapters.gpus.sysfs", "SysfsMonitor"),
    "nvidia": ("pytest_vllm.adapters.gpus.nvidia", "NvidiaMonitor"),
}
_NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia", "/dev/dxg", "/usr/local/nvidia")
"""Any of them where a GPU of NVIDIA may be; the last two in WSL and in some clouds' containers."""


def probe(name: str) -> GpuMonitor:
    """Return the monitor to use; the caller closes it.

    Args:
        name: `amd`, `sysfs`, `nvidia` or `none` for that one, whether it sees a GPU or not; `auto`
            for the first that sees one, else for one that says why nobody does.
    """
    from pytest_vllm.adapters.gpus.none import NoMonitor  # noqa: PLC0415 - it needs GpuFacts

    if name == "none":
        return NoMonitor("--vllm-monitor=none")
    if name != "auto":
        return _make(name)
    reasons = []
    for candidate in _HOME:
        if candidate == "nvidia" and not any(map(os.path.exists, _NVIDIA)):
            reasons.append(f"{candidate}: there is no {_NVIDIA[0]}")
            continue  # not worth a process that could only say so
        monitor = _make(candidate)
        facts = monitor.facts()
        if facts["gpus"]:
            return monitor
        monitor.close()
        reasons.append(f"{candidate}: {facts['reason']}")
    return NoMonitor("; ".join(reasons))


def no_gpus(monitor: str, reason: str) -> GpuFacts:
    """Make the facts of a monitor that knows no GPU."""
    return {"monitor": monitor, "reason": reason, "source": "", "gpus": []}


def _make(name: str) -> GpuMonitor:
    module, kind = _HOME[name]
    return cast("GpuMonitor", getattr(import_module(module), kind)())
