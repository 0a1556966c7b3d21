"""Reads GPU facts out of `/sys`, which needs neither ROCm nor any permission.

Files: https://docs.kernel.org/gpu/amdgpu/driver-misc.html (`mem_info_vram_*`, `product_name`) and
`properties` of KFD's topology (`gfx_target_version` 90402 is gfx942).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pytest_vllm.adapters.gpus import GpuFacts, no_gpus

_AMD = 0x1002
_CARD = re.compile(r"card\d+")
_RENDER = re.compile(r"renderD(?P<minor>\d+)")


class SysfsMonitor:
    """Reads the files of the amdgpu driver.

    Args:
        root: Where sysfs is mounted.
    """

    name = "sysfs"

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._root = root

    def facts(self) -> GpuFacts:
        """Look at all cards of the amdgpu driver."""
        folder = self._root / "class/drm"
        try:
            cards = [card for card in folder.iterdir() if _CARD.fullmatch(card.name)]
        except FileNotFoundError:
            return no_gpus(self.name, f"there is no {folder}")
        except OSError as error:
            return no_gpus(self.name, f"cannot read {folder} ({error.strerror})")
        gfx_names = self._gfx_names()
        seen = [gpu for card in cards if (gpu := _read_gpu(card / "device", gfx_names))]
        if not seen:
            other = f"; {len(cards)} cards of other drivers" if cards else ""
            return no_gpus(self.name, f"no card of driver amdgpu in {folder}{other}")
        by_address = sorted(seen, key=lambda gpu: (gpu["bdf"], gpu["render_node"]))
        gpus = [{"index": index, **gpu} for index, gpu in enumerate(by_address)]
        return {"monitor": self.name, "reason": "", "gpus": gpus}

    def _gfx_names(self) -> dict[int, str]:
        """Map the minor number of each render node to the name of its instruction set."""
        names = {}
        for file in self._root.glob("class/kfd/kfd/topology/nodes/*/properties"):
            values = dict(re.findall(r"^(\w+) (\d+)$", _read(file), re.MULTILINE))
            version, minor = (
                int(values.get(key, 0)) for key in ("gfx_target_version", "drm_render_minor")
            )
            if version and minor:
                names[minor] = gfx_name(version)
        return names


def gfx_name(version: int) -> str:
    """Name an instruction set: 90402 is `gfx942`, 90010 `gfx90a`, 110000 `gfx1100`."""
    return f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"


def _read_gpu(device: Path, gfx_names: dict[int, str]) -> dict[str, Any] | None:
    event = dict(line.partition("=")[::2] for line in _read(device / "uevent").splitlines())
    if event.get("DRIVER") != "amdgpu" or _number(device / "vendor") != _AMD:
        return None
    match = next((m for n in _names(device / "drm") if (m := _RENDER.fullmatch(n))), None)
    return {
        "name": _read(device / "product_name"),
        "gfx": gfx_names.get(int(match["minor"]), "") if match else "",
        "bdf": event.get("PCI_SLOT_NAME", "").lower(),
        "vram_total_bytes": _number(device / "mem_info_vram_total"),
        "vram_used_bytes": _number(device / "mem_info_vram_used"),
        "render_node": f"/dev/dri/{match[0]}" if match else "",
    }


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    try:
        return int(_read(file), 0)
    except ValueError:
        return None
