"""Reads the topology of KFD, the compute driver of AMD: what HIP will see, and in which order.

Files: `/sys/class/kfd/kfd/topology/nodes/N` (`kfd_topology.c` of the kernel). `gfx_target_version`
90402 is gfx942; `location_id` holds bus, device and function, and on a partitioned GPU the number
of the partition in its top four bits; the files of a node that a container may not use cannot be
read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FRAME_BUFFER = (1, 2)  # HSA_HEAPTYPE_FB_PUBLIC and _PRIVATE: memory of the GPU itself


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeNode:
    """A GPU, or a partition of one, as the compute driver lists it.

    Attributes:
        number: Number of the node; HIP counts GPUs in this order.
        gfx: Name of its instruction set.
        minor: Number of its render node.
        gpu_id: ID under which the driver names it elsewhere; `None` when it may not be used here.
        socket: PCI address without the function, such as `0000:05:00`.
        partition: Number of the partition, 0 for a whole GPU.
        memory_bytes: Memory that it grants, `None` when not told.
    """

    number: int
    gfx: str
    minor: int
    gpu_id: int | None
    socket: str
    partition: int
    memory_bytes: int | None


def read_nodes(sysfs: Path) -> list[ComputeNode]:
    """Return the GPUs of the topology in the driver's order; node 0 and such are CPUs."""
    nodes = []
    for folder in sysfs.glob("class/kfd/kfd/topology/nodes/*"):
        values = _properties(folder / "properties")
        version = values.get("gfx_target_version", 0)
        if not version or not folder.name.isdecimal():
            continue
        location = values.get("location_id", 0)
        nodes.append(
            ComputeNode(
                number=int(folder.name),
                gfx=gfx_name(version),
                minor=values.get("drm_render_minor", 0),
                gpu_id=number(folder / "gpu_id"),
                socket=f"{values.get('domain', 0):04x}:{location >> 8 & 0xFF:02x}:"
                f"{location >> 3 & 0x1F:02x}",
                partition=location >> 28,
                memory_bytes=_memory(folder / "mem_banks"),
            )
        )
    return sorted(nodes, key=lambda node: node.number)


def hip_order(nodes: list[ComputeNode]) -> dict[int, int]:
    """Map the render node of each usable GPU to the index that HIP gives it."""
    usable = [node for node in nodes if node.gpu_id]
    return {node.minor: index for index, node in enumerate(usable)}


def read_processes(sysfs: Path, proc: Path) -> dict[int, list[dict[str, object]]]:
    """Return by GPU ID the processes that compute on it, the one with the most memory first.

    The driver names processes by their numbers on the host; inside a container with numbers of
    its own a name cannot be found out.
    """
    found: dict[int, list[dict[str, object]]] = {}
    for file in sysfs.glob("class/kfd/kfd/proc/*/vram_*"):
        gpu = file.name.removeprefix("vram_")
        used, pid = number(file), file.parent.name
        if not gpu.isdecimal() or not pid.isdecimal() or used is None:
            continue
        name = text(proc / pid / "comm")
        found.setdefault(int(gpu), []).append(
            {"pid": int(pid), "name": name, "vram_used_bytes": used}
        )
    for holders in found.values():
        holders.sort(key=lambda holder: (-int(str(holder["vram_used_bytes"])), holder["pid"]))
    return found


def gfx_name(version: int) -> str:
    """Name an instruction set: 90402 is `gfx942`, 90010 `gfx90a`, 110000 `gfx1100`."""
    return f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"


def text(file: Path) -> str:
    """Read a small file; empty when it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(file: Path) -> int | None:
    """Read a whole number, `None` when there is none."""
    try:
        return int(text(file), 0)
    except ValueError:
        return None


def _properties(file: Path) -> dict[str, int]:
    pairs = re.findall(r"^(\w+) (\d+)$", text(file), re.MULTILINE)
    return {name: int(value) for name, value in pairs}


def _memory(banks: Path) -> int | None:
    sizes = [
        values.get("size_in_bytes", 0)
        for file in banks.glob("*/properties")
        if (values := _properties(file)).get("heap_type") in _FRAME_BUFFER
    ]
    return sum(sizes) or None
