"""Cut the samples of the GPUs to a window of a load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.devices import socket_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.load.steady import Window

QUANTITIES = ("power_w", "activity_percent", "gfx_clock_mhz", "memory_clock_mhz", "vram_used_bytes")
"""What is told of a window: the mean and the most of each."""

_NS_PER_S = 1e9
_FEWEST = 2


def cut_gpus(samples: Mapping[str, Any], window: Window) -> dict[str, object]:
    """Sum up the samples within a window, as plain data.

    Args:
        samples: Columns, as `SampleColumns.plain` makes them.
        window: From when to when.

    Returns:
        `monitor`, `samples` (how many are within), `gpus`: by PCI address, of each quantity that
        was told its `mean` and `most`; `power_w`: the mean of all working GPUs together, each
        package once, left out where one of them does not tell; `working`: their addresses; `notes`.
    """
    began_ns = samples.get("began_ns", 0)
    cut: dict[str, object] = {"monitor": str(samples.get("monitor", ""))}
    if not began_ns:
        return {**cut, "notes": ["the samples of the GPUs have no time of the load's clock"]}
    times = [began_ns + at_s * _NS_PER_S for at_s in samples["time_s"]]
    inside = [n for n, at in enumerate(times) if window.begin_ns <= at <= window.end_ns]
    cut["samples"] = len(inside)
    if len(inside) < _FEWEST:
        told = f"{len(inside)} samples of the GPUs fell into the window, which is too few to tell"
        return {**cut, "notes": [f"{told} (--vllm-sample-interval)"]}
    gpus = {str(gpu["bdf"]): _within(gpu, inside) for gpu in samples["gpus"]}
    working = [bdf for bdf, told in gpus.items() if _works(told)]
    cut.update(gpus=gpus, working=working)
    power_w = _power(gpus, working)
    if power_w is not None:
        cut["power_w"] = power_w
    idle = [bdf for bdf in gpus if bdf not in working]
    return {**cut, "notes": [f"idle, so not in power_w: {', '.join(idle)}"] if idle else []}


def _within(gpu: Mapping[str, Any], inside: Sequence[int]) -> dict[str, dict[str, float]]:
    told = {}
    for name in QUANTITIES:
        column = gpu.get(name) or ()
        values = [column[n] for n in inside if n < len(column) and column[n] is not None]
        if values:
            told[name] = {"mean": sum(values) / len(values), "most": max(values)}
    return told


def _works(told: Mapping[str, Mapping[str, float]]) -> bool:
    """Tell whether a GPU did anything, which counts as so where it does not tell its activity."""
    return told.get("activity_percent", {"most": 1.0})["most"] > 0


def _power(
    gpus: Mapping[str, Mapping[str, Mapping[str, float]]], working: Sequence[str]
) -> float | None:
    """Add up the mean power of each package once: its partitions all tell that of the whole."""
    packages: dict[str, float] = {}
    for bdf in working:
        power = gpus[bdf].get("power_w")
        package = socket_of(bdf)
        if power is not None:
            packages[package] = max(packages.get(package, 0.0), power["mean"])
        else:
            packages.setdefault(package, 0.0)
    return sum(packages.values()) if packages and all(packages.values()) else None
