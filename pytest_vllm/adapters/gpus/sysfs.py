"""Reads GPU facts out of `/sys`, which needs neither ROCm nor any permission.

Files: https://docs.kernel.org/gpu/amdgpu/driver-misc.html (`mem_info_vram_*`, `product_name`,
`unique_id`), `current_compute_partition` and `current_memory_partition` of the same driver, and
KFD's topology (`kfd`). The partitions of a GPU after its first have no device folder of their own:
they are found in the topology, and numbered in the function of the PCI address as AMD SMI does.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.gpus import UNKNOWN_GPU, GpuFacts, no_gpus
from pytest_vllm.adapters.gpus.kfd import (
    ComputeNode,
    hip_order,
    number,
    read_nodes,
    read_processes,
    text,
)
from pytest_vllm.adapters.gpus.naming import fill_names
from pytest_vllm.adapters.gpus.sensors import Sensors
from pytest_vllm.domain.devices import mark_shared, socket_of
from pytest_vllm.domain.gpu_samples import QUANTITIES, RARE, Look

if TYPE_CHECKING:
    from collections.abc import Iterator

_AMD = 0x1002
_CARD = re.compile(r"card\d+")
_RENDER = re.compile(r"renderD(?P<minor>\d+)")
_OFTEN = frozenset(QUANTITIES) - frozenset(RARE)
_FACTS = ("vram_total_bytes", "vram_used_bytes")


class SysfsMonitor:
    """Reads the files of the amdgpu driver.

    Args:
        root: Where sysfs is mounted.
        proc: Where the kernel shows processes.
    """

    name = "sysfs"

    def __init__(self, root: Path = Path("/sys"), *, proc: Path = Path("/proc")) -> None:
        self._root = root
        self._proc = proc
        self._sensors: dict[str, Sensors] | None = None

    def facts(self) -> GpuFacts:
        """Look at all cards of the amdgpu driver."""
        folder = self._root / "class/drm"
        try:
            cards = [card for card in folder.iterdir() if _CARD.fullmatch(card.name)]
        except FileNotFoundError:
            return no_gpus(self.name, f"there is no {folder}")
        except OSError as error:
            return no_gpus(self.name, f"cannot read {folder} ({error.strerror})")
        seen = self._read_gpus(cards)
        if not seen:
            other = f"; {len(cards)} cards of other drivers" if cards else ""
            return no_gpus(self.name, f"no card of driver amdgpu in {folder}{other}")
        by_address = sorted(seen, key=lambda gpu: (gpu["bdf"], gpu["render_node"]))
        gpus = fill_names([{"index": index, **gpu} for index, gpu in enumerate(by_address)])
        told = {"monitor": self.name, "reason": "", "source": str(self._root)}
        return {**told, "gpus": mark_shared(gpus)}

    def sample(self, *, rare: bool) -> Look:
        """Read the sensors; the partitions of a GPU show what their package does."""
        names = _OFTEN | frozenset(RARE) if rare else _OFTEN
        return Look(readings=self.read(names))

    def read(self, names: frozenset[str]) -> dict[str, dict[str, Any]]:
        """Read some quantities of every GPU, by PCI address."""
        if self._sensors is None:
            self._sensors = self._find_sensors()
        read: dict[int, dict[str, Any]] = {}
        for sensors in self._sensors.values():
            if id(sensors) not in read:
                read[id(sensors)] = sensors.read(names)
        return {bdf: dict(read[id(sensors)]) for bdf, sensors in self._sensors.items()}

    def close(self) -> None:
        """Hold nothing."""

    def _find_sensors(self) -> dict[str, Sensors]:
        """Map every GPU to its sensors, which partitions share."""
        nodes = read_nodes(self._root)
        found = {}
        for card in self._root.glob("class/drm/card*"):
            if not _CARD.fullmatch(card.name) or not _is_amd(card / "device"):
                continue
            sensors = Sensors(card / "device")
            for gpu in _partitions(_read_card(card / "device"), nodes):
                found[gpu["bdf"]] = sensors
        return found

    def _read_gpus(self, cards: list[Path]) -> list[dict[str, Any]]:
        nodes = read_nodes(self._root)
        order, by_minor = hip_order(nodes), {node.minor: node for node in nodes}
        processes = read_processes(self._root, self._proc)
        driver = text(self._root / "module/amdgpu/version") or f"of kernel {platform.release()}"
        found = []
        for card in cards:
            if not _is_amd(card / "device"):
                continue
            for gpu in _partitions(_read_card(card / "device"), nodes):
                node = by_minor.get(_minor(gpu["render_node"]))
                known: dict[str, Any] = {"driver": driver}
                if node is not None:
                    known["gfx"] = node.gfx
                    known["hip_index"] = order.get(node.minor)
                    known["hip_total_bytes"] = node.memory_bytes
                    known["processes"] = processes.get(node.gpu_id or 0, [])
                found.append({**gpu, **known})
        return found


def _is_amd(device: Path) -> bool:
    event = text(device / "uevent").splitlines()
    return "DRIVER=amdgpu" in event and number(device / "vendor") == _AMD


def _read_card(device: Path) -> dict[str, Any]:
    event = dict(line.partition("=")[::2] for line in text(device / "uevent").splitlines())
    match = next((m for n in _names(device / "drm") if (m := _RENDER.fullmatch(n))), None)
    modes = (text(device / f"current_{what}_partition").upper() for what in ("compute", "memory"))
    unique = text(device / "unique_id")
    return {
        **UNKNOWN_GPU,
        "name": text(device / "product_name"),
        "vendor": "amd",
        "device_id": text(device / "device").lower(),
        "uuid": f"GPU-{unique}" if unique else "",
        "bdf": event.get("PCI_SLOT_NAME", "").lower(),
        "vram_total_bytes": number(device / "mem_info_vram_total"),
        "vram_used_bytes": number(device / "mem_info_vram_used"),
        "render_node": f"/dev/dri/{match[0]}" if match else "",
        "partition": "/".join(mode for mode in modes if mode),
        "processes": [],
    }


def _partitions(gpu: dict[str, Any], nodes: list[ComputeNode]) -> Iterator[dict[str, Any]]:
    """Yield a GPU, or each of its partitions when it is cut into several."""
    socket = socket_of(gpu["bdf"])
    parts = [node for node in nodes if socket and node.socket == socket]
    if len(parts) <= 1:
        yield gpu
        return
    for node in parts:
        yield {
            **gpu,
            "bdf": f"{socket}.{node.partition}",
            "render_node": f"/dev/dri/renderD{node.minor}",
        }


def _minor(render_node: str) -> int:
    match = _RENDER.search(render_node)
    return int(match["minor"]) if match else -1


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
