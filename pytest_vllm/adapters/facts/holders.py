"""Finds the processes that have a GPU open."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pytest_vllm.adapters.gpus.answering import NAME as COMPANION
from pytest_vllm.domain.facts.host import Holder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_vllm.adapters.facts.host import Roots

_NODE = re.compile(r"/dev/(kfd|dri/renderD\d+)")
_VRAM = re.compile(r"^drm-memory-vram:\s*(\d+) (KiB|MiB|GiB)$", re.MULTILINE)
_CLIENT = re.compile(r"^drm-client-id:\s*(\d+)$", re.MULTILINE)
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def find_holders(roots: Roots) -> tuple[Holder, ...]:
    """Return the processes that have a GPU open, the one with the most memory first.

    Open files are seen of our own processes only, unless we are root; the amdgpu driver names
    every process that computes (`/sys/class/kfd/kfd/proc`), with its memory on each GPU.
    """
    by_driver = _told_by_driver(roots.sysfs)
    pids = {int(entry.name) for entry in _entries(roots.proc) if entry.name.isdigit()}
    holders = []
    for pid in sorted(pids):
        devices, memory = _open_nodes(roots.proc / str(pid))
        name = _name(roots.proc / str(pid))
        ours = pid == os.getpid() or name == COMPANION  # a monitor looks, and uses no memory
        if (devices or pid in by_driver) and not ours:
            known = [size for size in (memory, by_driver.get(pid)) if size is not None]
            holders.append(
                Holder(
                    pid=pid,
                    name=name,
                    devices=devices,
                    vram_bytes=max(known) if known else None,
                )
            )
    return tuple(sorted(holders, key=lambda holder: -(holder.vram_bytes or 0)))


def _told_by_driver(sysfs: Path) -> dict[int, int]:
    """Return VRAM in bytes by process, over all GPUs (files `vram_<gpu id>` of each process)."""
    found = {}
    for folder in _entries(sysfs / "class/kfd/kfd/proc"):
        if folder.name.isdigit():
            sizes = [_read(file).strip() for file in folder.glob("vram_*")]
            found[int(folder.name)] = sum(int(size) for size in sizes if size.isdecimal())
    return found


def _open_nodes(process: Path) -> tuple[tuple[str, ...], int | None]:
    """Return the GPU nodes that a process has open, and its VRAM as the driver counts it.

    A DRM client may have many descriptors; each says the same (drm-usage-stats in the kernel's
    documentation), so a client is counted once.
    """
    devices: set[str] = set()
    clients: dict[str, int] = {}
    for descriptor in _entries(process / "fd"):
        try:
            link = str(descriptor.readlink())
        except OSError:
            continue
        if not _NODE.fullmatch(link):
            continue
        devices.add(link)
        info = _read(process / "fdinfo" / descriptor.name)
        size, client = _VRAM.search(info), _CLIENT.search(info)
        if size:
            key = f"{link} {client[1]}" if client else descriptor.name
            clients[key] = int(size[1]) * _UNITS[size[2]]
    return tuple(sorted(devices)), sum(clients.values()) if clients else None


def _name(process: Path) -> str:
    return _read(process / "comm").strip()


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return ()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
