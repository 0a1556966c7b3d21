"""Looks at this host: kernel, devices, memory, and who holds its GPUs. Reads files only."""

from __future__ import annotations

import grp
import os
import platform
import re
import socket
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.device import render_nodes
from pytest_vllm.adapters.facts.holders import find_holders
from pytest_vllm.adapters.gpus import no_gpus, probe
from pytest_vllm.adapters.gpus.kfd import gfx_name
from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from pytest_vllm.adapters.hub_cache import hub_cache
from pytest_vllm.domain.facts.host import DeviceNode, Gpu, HostFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.adapters.gpus import GpuFacts

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_VISIBILITY = (
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HSA_OVERRIDE_GFX_VERSION",
)
_CGROUP = re.compile(r"docker|kubepods|containerd|libpod|lxc")
_OTHERS = ("nvidia[0-9]*", "davinci[0-9]*", "accel/accel[0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Where the kernel shows the host; tests name trees of their own.

    Attributes:
        root: The root folder, for the marks of a container.
        dev: Device nodes.
        sysfs: What drivers tell.
        proc: Processes and kernel settings.
    """

    root: Path = Path("/")
    dev: Path = Path("/dev")
    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")


HERE = Roots()


def gather_host(env: Mapping[str, str], *, monitor: str = "auto", roots: Roots = HERE) -> HostFacts:
    """Look at the host. Never raises: what cannot be seen is not known.

    Args:
        env: Our environment.
        monitor: Who tells about the GPUs (`--vllm-monitor`).
        roots: Where to look.
    """
    seen = _gpus(monitor, roots)
    nodes = tuple(describe_node(path) for path in render_nodes(roots.dev, roots.sysfs))
    gids = {node.path: node.gid for node in nodes}
    memory = _memory(roots.proc)
    cache = hub_cache(env)
    gpus = tuple(
        _gpu(gpu, gid=gids.get(str(roots.dev / gpu["render_node"].removeprefix("/dev/"))))
        for gpu in seen["gpus"]
    )
    kfd = roots.dev / "kfd"
    return HostFacts(
        hostname=socket.gethostname(),
        system=f"{platform.system()} {platform.release()}",
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        user=os.geteuid(),
        container=find_container(roots),
        gpus=gpus,
        gpus_reason=seen["reason"],
        gpus_by=seen["monitor"] if gpus else "",
        other_gpus=_other_gpus(monitor, roots),
        kfd=describe_node(kfd) if kfd.exists() else None,
        render_nodes=nodes,
        topology=_topology(roots.sysfs),
        other_accelerators=_others(roots.dev),
        holders=find_holders(roots) if gpus or kfd.exists() else (),
        variables={name: env[name] for name in _VISIBILITY if name in env},
        numa_balancing=_flag(roots.proc / "sys/kernel/numa_balancing"),
        shm_bytes=_size(roots.dev / "shm"),
        memory_bytes=memory.get("MemTotal"),
        memory_free_bytes=memory.get("MemAvailable"),
        swap_bytes=memory.get("SwapTotal"),
        cache=str(cache),
        cache_free_bytes=free_bytes(cache),
    )


def describe_node(path: Path) -> DeviceNode:
    """Tell whose a device node is and whether this user may use it."""
    status = path.stat()
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = ""
    return DeviceNode(
        path=str(path),
        gid=status.st_gid,
        group=group,
        mode=status.st_mode & 0o777,
        usable=os.access(path, os.R_OK | os.W_OK),
    )


def find_container(roots: Roots = HERE) -> str:
    """Return what says that this process runs inside a container; empty when nothing does."""
    for mark in (".dockerenv", "run/.containerenv"):
        if (roots.root / mark).exists():
            return f"/{mark}"
    match = _CGROUP.search(_read(roots.proc / "1/cgroup"))
    return f"/proc/1/cgroup ({match[0]})" if match else ""


def free_bytes(folder: Path) -> int | None:
    """Return the free space of the disk on which a folder lies, or will lie."""
    for place in (folder, *folder.parents):
        try:
            status = os.statvfs(place)
        except OSError:
            continue
        return status.f_bavail * status.f_frsize
    return None


def _gpu(facts: Mapping[str, Any], *, gid: int | None) -> Gpu:
    """Take over what a monitor tells, as far as the rules of the preflight use it."""
    names = {item.name for item in fields(Gpu)} - {"gid", "shared_with"}
    told = {name: facts[name] for name in names if name in facts}
    return Gpu(**told, gid=gid, shared_with=tuple(facts.get("shared_with", ())))


def _gpus(monitor: str, roots: Roots) -> GpuFacts:
    """Ask sysfs, and AMD SMI for what sysfs does not tell.

    Without a card of the amdgpu driver there is nothing to ask AMD SMI about, which takes a second.
    """
    if monitor == "nvidia":
        return no_gpus("none", "--vllm-monitor=nvidia")
    if monitor in ("none", "amd"):
        return _ask(monitor)
    facts = SysfsMonitor(roots.sysfs, proc=roots.proc).facts()
    told = all(
        gpu["vram_total_bytes"] and gpu["vram_used_bytes"] is not None for gpu in facts["gpus"]
    )
    if monitor == "sysfs" or told:
        return dict(facts)
    better = _ask("amd")
    return better if better["gpus"] else dict(facts)


def _other_gpus(monitor: str, roots: Roots) -> tuple[Gpu, ...]:
    """Ask NVML where a driver of NVIDIA has made devices, or where it is asked for by name."""
    if monitor != "nvidia" and not (monitor == "auto" and (roots.dev / "nvidiactl").exists()):
        return ()
    return tuple(_gpu(gpu, gid=None) for gpu in _ask("nvidia")["gpus"])


def _ask(monitor: str) -> GpuFacts:
    with closing(probe(monitor)) as asked:
        return dict(asked.facts())


def _topology(sysfs: Path) -> tuple[str, ...]:
    """Name the instruction set of each compute node; node 0 is the CPU."""
    names = []
    for file in sorted(sysfs.glob("class/kfd/kfd/topology/nodes/*/properties")):
        match = re.search(r"^gfx_target_version (\d+)$", _read(file), re.MULTILINE)
        if match and int(match[1]):
            names.append(gfx_name(int(match[1])))
    return tuple(names)


def _others(dev: Path) -> tuple[str, ...]:
    return tuple(sorted(str(path) for pattern in _OTHERS for path in dev.glob(pattern)))


def _memory(proc: Path) -> dict[str, int]:
    """Read sizes in bytes out of `meminfo` (proc_meminfo(5)), which counts in kB of 1024 bytes."""
    found = re.findall(r"^(\w+): +(\d+) kB$", _read(proc / "meminfo"), re.MULTILINE)
    return {name: int(size) * 1024 for name, size in found}


def _size(folder: Path) -> int | None:
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_blocks * status.f_frsize


def _flag(file: Path) -> bool | None:
    text = _read(file).strip()
    return text != "0" if text.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def plain_gpus(facts: HostFacts) -> dict[str, Any]:
    """Return the GPUs in the form that the record keeps them in."""
    gpus = [
        {name: value for name, value in asdict(gpu).items() if name != "gid"} for gpu in facts.gpus
    ]
    return {"monitor": facts.gpus_by or "none", "reason": facts.gpus_reason, "gpus": gpus}
