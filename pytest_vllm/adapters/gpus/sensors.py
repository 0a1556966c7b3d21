"""Reads what changes on an AMD GPU out of the files of its device folder.

Files and units: https://docs.kernel.org/gpu/amdgpu/thermal.html (hwmon: microwatts, thousandths of
a degree, hertz), https://docs.kernel.org/gpu/amdgpu/driver-misc.html (`mem_info_vram_used` in
bytes, `gpu_busy_percent`) and https://docs.kernel.org/gpu/amdgpu/ras.html (`*_err_count`).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pytest_vllm.adapters.gpus.kfd import text

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vllm.domain.gpu_samples import Value

_UNCORRECTED = re.compile(rb"^ue: (\d+)$", re.MULTILINE)
_MICRO, _MILLI = 1e-6, 1e-3
_HOTSPOT, _EDGE, _MEMORY = "junction", "edge", "mem"
_GFX_CLOCK, _MEMORY_CLOCK = "sclk", "mclk"
_LIMIT_BYTES = 4096


class Sensors:
    """The files of one device folder, looked up once.

    Args:
        device: The folder of the PCI device.
    """

    def __init__(self, device: Path) -> None:
        hwmon = next(iter(sorted((device / "hwmon").glob("hwmon*"))), device / "hwmon")
        temperatures = _labelled(hwmon, "temp")
        clocks = _labelled(hwmon, "freq")
        self._used = device / "mem_info_vram_used"
        self._activity = device / "gpu_busy_percent"
        # what the firmware averages; newer drivers tell the present power of some GPUs instead
        self._power = (hwmon / "power1_average", hwmon / "power1_input")
        self._temperature = temperatures.get(_HOTSPOT) or temperatures.get(_EDGE)
        self._memory_temperature = temperatures.get(_MEMORY)
        self._gfx_clock, self._memory_clock = clocks.get(_GFX_CLOCK), clocks.get(_MEMORY_CLOCK)
        self._errors = sorted((device / "ras").glob("*_err_count"))

    def read(self, names: frozenset[str]) -> dict[str, Value]:
        """Read some quantities; what a GPU does not tell is `None`."""
        readers = {
            "vram_used_bytes": lambda: _number(self._used),
            "activity_percent": lambda: _number(self._activity),
            "power_w": self._read_power,
            "temperature_c": lambda: _scaled(self._temperature, _MILLI),
            "memory_temperature_c": lambda: _scaled(self._memory_temperature, _MILLI),
            "gfx_clock_mhz": lambda: _whole(_scaled(self._gfx_clock, _MICRO)),
            "memory_clock_mhz": lambda: _whole(_scaled(self._memory_clock, _MICRO)),
            "ecc_errors": self._count_errors,
        }
        return {name: readers[name]() for name in readers if name in names}

    def _read_power(self) -> Value:
        watts = (_scaled(file, _MICRO) for file in self._power)
        return next((value for value in watts if value is not None), None)

    def _count_errors(self) -> Value:
        """Add up the errors of all parts of the GPU that could not be corrected."""
        contents = [_bytes(file) for file in self._errors]
        counts = [int(match[1]) for data in contents if (match := _UNCORRECTED.search(data))]
        return sum(counts) if counts else None


def _labelled(hwmon: Path, kind: str) -> dict[str, Path]:
    """Map what the driver calls each sensor of a kind to the file of its value."""
    return {
        text(label): label.with_name(label.name.replace("_label", "_input"))
        for label in hwmon.glob(f"{kind}*_label")
    }


def _bytes(file: Path) -> bytes:
    """Read a file of a driver in one go, which is cheaper than a file object."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _LIMIT_BYTES)
    except OSError:  # a GPU that sleeps or was lost
        return b""
    finally:
        os.close(descriptor)


def _number(file: Path) -> int | None:
    data = _bytes(file).strip()
    return int(data) if data.lstrip(b"-").isdigit() else None


def _scaled(file: Path | None, factor: float) -> float | None:
    value = _number(file) if file is not None else None
    return None if value is None else value * factor


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
