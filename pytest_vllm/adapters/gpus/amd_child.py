"""Asks AMD SMI from inside a process of its own: the one home of `amdsmi`.

ROCm brings a Python package that fits its library; it is preferred over the wheel, which may be of
another version. So only calls are made whose data have one size in all of AMD SMI 6 and 7
(addresses, 64-bit counters, texts with their length, and the structures of activity, clock and
error counts: 64, 32 and 64 bytes from 6.1 to 7.0), and `hip_id`, whose structure of 272 bytes has
not changed since it came with 6.4. Names, power and processes come from sysfs: their structures
grew between versions, so a library would write past what another version's wheel allots.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytest_vllm.adapters.gpus.answering import answer_all, plain_number

_FOLDER = "share/amd_smi"
_HOTTEST_C = 200  # a reading above is thousandths of a degree, as some versions give


class AmdSmi:
    """The library, once it is loaded."""

    def __init__(self) -> None:
        self._smi: Any = None
        self._failure: BaseException | None = None
        self._handles: list[tuple[str, Any]] | None = None
        self._nameless = 0
        self._dumb: set[tuple[str, str]] = set()
        self._is_unsupported = False
        self.source = ""

    def answer(self, word: str) -> Any:
        """Answer `facts`, `sample` or `sample rare`."""
        handles = self._find()
        if word == "facts":
            return {
                "source": self.source,
                "nameless": self._nameless,
                "gpus": [self._facts(bdf, handle) for bdf, handle in handles],
            }
        rare = word.endswith("rare")
        return {bdf: self._sample(bdf, handle, rare=rare) for bdf, handle in handles}

    def _find(self) -> list[tuple[str, Any]]:
        """Return address and handle of each GPU; the library itself looks for them only once."""
        if self._handles is None:
            smi = self._load()
            smi.amdsmi_init()
            handles = smi.amdsmi_get_processor_handles()
            named = [(self._ask("amdsmi_get_gpu_device_bdf", h), h) for h in handles]
            self._handles = [(str(bdf).lower(), handle) for bdf, handle in named if bdf]
            self._nameless = len(handles) - len(self._handles)
        return self._handles

    def _load(self) -> Any:
        """Import the package, once: after a failure it is half there and would fail otherwise."""
        if self._failure is not None:
            raise self._failure
        if self._smi is None:
            try:
                self._smi, self.source = _import()
            except BaseException as error:
                self._failure = error
                raise
        return self._smi

    def _facts(self, bdf: str, handle: Any) -> dict[str, Any]:
        smi = self._smi
        vram = smi.AmdSmiMemoryType.VRAM
        modes = (
            self._ask("amdsmi_get_gpu_compute_partition", handle),
            self._ask("amdsmi_get_gpu_memory_partition", handle),
        )
        device = plain_number(self._ask("amdsmi_get_gpu_id", handle))
        # wheels before 6.4 do not know the order in which HIP counts
        enumerated = self._ask("amdsmi_get_gpu_enumeration_info", handle) or {}
        return {
            "bdf": bdf,
            "vendor": "amd",
            "device_id": f"0x{device:04x}" if isinstance(device, int) else "",
            "hip_index": plain_number(enumerated.get("hip_id")),
            "partition": "/".join(str(m) for m in modes if m and m not in ("N/A", "UNKNOWN")),
            "vram_total_bytes": plain_number(
                self._ask("amdsmi_get_gpu_memory_total", handle, vram)
            ),
            "vram_used_bytes": plain_number(self._ask("amdsmi_get_gpu_memory_usage", handle, vram)),
        }

    def _sample(self, bdf: str, handle: Any, *, rare: bool) -> dict[str, Any]:
        smi = self._smi
        kinds, current = smi.AmdSmiTemperatureType, smi.AmdSmiTemperatureMetric.CURRENT

        def ask(name: str, call: str, *words: Any) -> Any:
            """Ask what this GPU has told before, or was not asked yet."""
            if (bdf, name) in self._dumb:
                return None
            value = self._ask(call, handle, *words)
            if value is None and self._is_unsupported:
                self._dumb.add((bdf, name))
            return value

        def degrees(name: str, kind: Any) -> Any:
            value = plain_number(ask(name, "amdsmi_get_temp_metric", kind, current))
            return value if value is None or value <= _HOTTEST_C else value / 1000

        hotspot = degrees("hotspot", kinds.HOTSPOT)
        clocks = smi.AmdSmiClkType
        sample = {
            "vram_used_bytes": ask(
                "used", "amdsmi_get_gpu_memory_usage", smi.AmdSmiMemoryType.VRAM
            ),
            "activity_percent": _field(ask("activity", "amdsmi_get_gpu_activity"), "gfx_activity"),
            "temperature_c": hotspot if hotspot is not None else degrees("edge", kinds.EDGE),
            "memory_temperature_c": degrees("memory", kinds.VRAM),
            "gfx_clock_mhz": _clock(ask("gfx", "amdsmi_get_clock_info", clocks.GFX)),
            "memory_clock_mhz": _clock(ask("mem", "amdsmi_get_clock_info", clocks.MEM)),
        }
        if rare:
            errors = ask("ecc", "amdsmi_get_gpu_total_ecc_count")
            sample["ecc_errors"] = _field(errors, "uncorrectable_count")
        return {name: plain_number(value) for name, value in sample.items()}

    def _ask(self, call: str, *words: Any) -> Any:
        """Make a call; a GPU that does not tell one thing is still a GPU."""
        self._is_unsupported = False
        try:
            return getattr(self._smi, call)(*words)
        except Exception as error:  # noqa: BLE001 - the wheel has no common error across versions
            self._is_unsupported = getattr(error, "err_code", None) == _NOT_SUPPORTED
            return None


_NOT_SUPPORTED = 2


def _field(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, dict) else None


def _clock(answer: Any) -> Any:
    value = _field(answer, "clk")
    return value if value is not None else _field(answer, "cur_clk")  # its name in 6.1


def _import() -> tuple[Any, str]:
    """Import ROCm's own package when it is there and works, else the wheel."""
    for root in (os.environ.get("ROCM_HOME"), os.environ.get("ROCM_PATH"), "/opt/rocm"):
        folder = Path(root or "/nonexistent") / _FOLDER
        if (folder / "amdsmi/__init__.py").is_file():
            with suppress(Exception, SystemExit):
                return _import_from(folder), f"ROCm's package in {folder}"
    smi = import_module("amdsmi")
    try:
        named = f"amdsmi {version('amdsmi')}"
    except PackageNotFoundError:
        named = f"amdsmi in {Path(smi.__file__ or '').parent.parent}"
    return smi, named


def _import_from(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    try:
        return import_module("amdsmi")
    except BaseException:
        for name in [name for name in sys.modules if name.partition(".")[0] == "amdsmi"]:
            del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(folder))


if __name__ == "__main__":
    answer_all(AmdSmi().answer)
