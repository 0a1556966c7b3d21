"""Where facts about GPUs come from, behind one protocol."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

GpuFacts = dict[str, Any]
"""JSON-able facts about the GPUs of this host.

`monitor`: who looked. `reason`: why no GPU is known, or empty. `gpus`: one mapping each, by PCI
address, with `index`, `name`, `gfx`, `bdf`, `vram_total_bytes`, `vram_used_bytes`, `render_node`;
what is not known is `None`, or empty for a text.
"""


class GpuMonitor(Protocol):
    """Looks at the GPUs of this host; never raises and never writes to the terminal."""

    name: str

    def facts(self) -> GpuFacts:
        """Look now."""


_HOME = {
    "amd": ("pytest_vllm.adapters.gpus.amd", "AmdMonitor"),
    "sysfs": ("pytest_vllm.adapters.gpus.sysfs", "SysfsMonitor"),
}
_AUTO = ("amd", "sysfs")


def probe(name: str) -> GpuMonitor:
    """Return the monitor to use.

    Args:
        name: `amd`, `sysfs` or `none` for that one, whether it sees a GPU or not; `auto` for the
            first that sees one, else for one that says why nobody does.
    """
    from pytest_vllm.adapters.gpus.none import NoMonitor  # noqa: PLC0415 - it needs GpuFacts

    if name == "none":
        return NoMonitor("--vllm-monitor=none")
    if name != "auto":
        return _make(name)
    reasons = []
    for candidate in _AUTO:
        monitor = _make(candidate)
        facts = monitor.facts()
        if facts["gpus"]:
            return monitor
        reasons.append(f"{candidate}: {facts['reason']}")
    return NoMonitor("; ".join(reasons))


def no_gpus(monitor: str, reason: str) -> GpuFacts:
    """Make the facts of a monitor that knows no GPU."""
    return {"monitor": monitor, "reason": reason, "gpus": []}


def _make(name: str) -> GpuMonitor:
    module, kind = _HOME[name]
    return cast("GpuMonitor", getattr(import_module(module), kind)())
