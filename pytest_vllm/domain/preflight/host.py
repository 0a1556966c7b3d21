"""Rules about the host: devices, memory, kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight import GIB, not_applicable, without_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts

_SHM_LEAST_GIB = 1
"""Far above Docker's 64 MB, with which RCCL fails, far below the 16 GiB of vLLM's own CI."""
_IDLE_BYTES = 2 * GIB
"""VRAM that driver and firmware hold on an idle GPU stays below this."""
_DOWNLOAD_FACTOR = 1.1
_LISTED = 3


def devices(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The compute device and one render node for each GPU must be there."""
    host, target = facts.host, facts.target
    why = without_gpu(facts)
    if target.gpus == "none" or target.backend == "attach" or not host.here:
        if why:
            yield not_applicable("host.no-device", why)
        return
    cards = bool(host.gpus or host.render_nodes)
    if host.kfd is None and cards:
        seen = f"{len(host.gpus) or len(host.render_nodes)} AMD GPUs but no /dev/kfd"
    elif host.kfd is not None and not host.render_nodes:
        seen = "/dev/kfd but no AMD render node /dev/dri/renderD*"
    elif host.kfd is None and _wants_gpu(facts):
        seen = f"{_subject(facts)} is built for ROCm and this host has no /dev/kfd"
    else:
        if why:
            yield not_applicable("host.no-device", why)
        return
    yield Finding(
        id="host.no-device",
        severity=Severity.FATAL,
        fault=Fault.HOST,
        seen=seen,
        cure="load the driver (lsmod | grep amdgpu; modprobe amdgpu), or --vllm-gpus=none",
        ref="D11",
    )


def access(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A server that runs as this user needs its rights to the devices."""
    host = facts.host
    why = without_gpu(facts)
    if why:
        yield not_applicable("host.device-access", why)
        return
    if facts.target.backend != "process" or not host.here:
        return
    nodes = [node for node in (host.kfd, *host.render_nodes) if node is not None]
    closed = [node for node in nodes if not node.usable]
    if not closed:
        return
    groups = sorted({node.group or str(node.gid) for node in closed})
    named = ", ".join(f"{n.path} (group {n.group or n.gid}, {n.mode:o})" for n in closed[:_LISTED])
    yield Finding(
        id="host.device-access",
        severity=Severity.FATAL,
        fault=Fault.HOST,
        seen=f"this user may not open {named}",
        cure=f"sudo usermod -aG {','.join(groups)} $USER, then log in again",
        ref="G2",
    )


def groups(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The documented flags name the group `video`, which need not own the render nodes."""
    host, target = facts.host, facts.target
    why = without_gpu(facts)
    if why:
        yield not_applicable("host.groups", why)
        return
    if target.backend != "docker" or target.text("docker-flags") != "documented":
        return
    foreign = sorted({n.gid for n in host.render_nodes if n.group != "video"})
    user = facts.image.user if facts.image is not None else ""
    if not foreign or user.partition(":")[0] in ("", "0", "root"):
        return
    yield Finding(
        id="host.groups",
        severity=Severity.WARNING,
        fault=Fault.HOST,
        seen=f"the image runs as {user}, and the render nodes belong to group {foreign[0]}, "
        "not to video, which is all that the documented flags give",
        cure="--vllm-docker-flags=least, which passes numeric groups",
        ref="G2",
    )


def topology(facts: LaunchFacts, /) -> Iterator[Finding]:
    """All GPUs must be of one kind: vLLM places equal shares on them."""
    why = without_gpu(facts)
    if why:
        yield not_applicable("host.mixed-gpus", why)
        return
    kinds = sorted({gpu.gfx for gpu in facts.gpus if gpu.gfx})
    if len(kinds) > 1:
        same = [str(gpu.index) for gpu in facts.gpus if gpu.gfx == kinds[0]]
        yield Finding(
            id="host.mixed-gpus",
            severity=Severity.WARNING,
            fault=Fault.HOST,
            seen=f"GPUs of different kinds: {', '.join(kinds)}",
            cure=f"--vllm-gpus={','.join(same)}",
        )


def in_use(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Say which GPUs are not idle, and who holds them."""
    why = without_gpu(facts)
    if why:
        yield not_applicable("host.gpu-in-use", why)
        return
    busy = [gpu for gpu in facts.gpus if (gpu.vram_used_bytes or 0) > _IDLE_BYTES]
    if not busy:
        return
    used = ", ".join(
        f"GPU {gpu.index}: {(gpu.vram_used_bytes or 0) / GIB:.1f}"
        + (f" of {gpu.vram_total_bytes / GIB:.1f} GiB" if gpu.vram_total_bytes else " GiB")
        for gpu in busy
    )
    by = ", ".join(
        f"PID {holder.pid} ({holder.name or '?'})"
        + (f" {holder.vram_bytes / GIB:.1f} GiB" if holder.vram_bytes else "")
        for holder in facts.host.holders[:_LISTED]
    )
    free = [str(gpu.index) for gpu in facts.host.gpus if (gpu.vram_used_bytes or 0) <= _IDLE_BYTES]
    yield Finding(
        id="host.gpu-in-use",
        severity=Severity.WARNING,
        fault=Fault.HOST,
        seen=f"VRAM in use before the start: {used}; "
        f"held by {by or 'a process that this user cannot see'}",
        cure=f"--vllm-gpus={','.join(free)}" if free else "end that process, or wait for it",
        ref="G7",
    )


def numa(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Automatic NUMA balancing can hang AMD GPUs (ROCm documentation, system optimization)."""
    why = without_gpu(facts)
    if why:
        yield not_applicable("host.numa-balancing", why)
    elif facts.host.numa_balancing:
        yield Finding(
            id="host.numa-balancing",
            severity=Severity.WARNING,
            fault=Fault.HOST,
            seen="automatic NUMA balancing is on, with which AMD GPUs may hang",
            cure="sudo sysctl kernel.numa_balancing=0",
            ref="D19",
        )


def shared_memory(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Ranks of one server exchange data through /dev/shm; a container gets one of its own."""
    host, target = facts.host, facts.target
    ranks = target.serve_args.value("--tensor-parallel-size") or "1"
    shared = target.backend == "process" or target.text("docker-flags") == "documented"
    if not shared or target.backend == "attach" or not (ranks.isdecimal() and int(ranks) > 1):
        return
    if host.shm_bytes is not None and host.shm_bytes < _SHM_LEAST_GIB * GIB:
        yield Finding(
            id="host.shm",
            severity=Severity.WARNING,
            fault=Fault.HOST,
            seen=f"{ranks} ranks exchange data through /dev/shm, which has "
            f"{host.shm_bytes / 2**20:.0f} MiB",
            cure="sudo mount -o remount,size=16g /dev/shm"
            + ("" if target.backend == "process" else ", or --vllm-docker-flags=least"),
            ref="G12",
        )


def memory(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Without a GPU the weights live in the memory of the host."""
    host, model = facts.host, facts.model
    if model is None or model.weights_bytes is None:
        return
    engine = facts.engine
    total = engine.memory_bytes if engine is not None and engine.remote else host.memory_bytes
    if total is None:
        return
    whole = total + (host.swap_bytes or 0)
    handed = host.gpus and facts.target.gpus != "none"
    weights = f"the weights take {model.weights_bytes / GIB:.1f} GiB"
    if not handed and not host.other_accelerators and model.weights_bytes > whole:
        yield Finding(
            id="host.memory",
            severity=Severity.FATAL,
            fault=Fault.HOST,
            seen=f"{weights}, this host has {whole / GIB:.1f} GiB of memory "
            "and no GPU to hold them",
            cure="run on a host with GPUs, or --vllm-model=MODEL with a smaller one",
            ref="D17",
        )
    elif not handed and model.weights_bytes > (host.memory_free_bytes or whole) and host.here:
        yield Finding(
            id="host.memory",
            severity=Severity.WARNING,
            fault=Fault.HOST,
            seen=f"{weights}, and {(host.memory_free_bytes or 0) / GIB:.1f} GiB of memory are free",
            cure="end what else runs on this host",
            ref="D17",
        )


def cache_disk(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A download must fit on the disk of the Hub cache."""
    host, model = facts.host, facts.model
    if model is None or model.cached or model.weights_bytes is None or not host.here:
        return
    if facts.target.model_is_path or host.cache_free_bytes is None:
        return
    need = model.weights_bytes * _DOWNLOAD_FACTOR
    if need > host.cache_free_bytes:
        yield Finding(
            id="host.cache-disk",
            severity=Severity.FATAL,
            fault=Fault.HOST,
            seen=f"the download takes {need / GIB:.0f} GiB, and {host.cache} has "
            f"{host.cache_free_bytes / GIB:.0f} GiB free",
            cure="HF_HUB_CACHE=/a/larger/disk pytest ..., or free space there",
            ref="H10",
        )


def port(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The user's own port must be free."""
    if facts.host.port_problem:
        yield Finding(
            id="host.port",
            severity=Severity.FATAL,
            fault=Fault.HOST,
            seen=facts.host.port_problem,
            cure="end that process, or drop --port from --vllm-serve-arg: a free one is chosen",
            ref="H25",
        )


def _wants_gpu(facts: LaunchFacts) -> bool:
    return facts.target.backend == "docker" and facts.image is not None and facts.image.rocm


def _subject(facts: LaunchFacts) -> str:
    return facts.image.asked if facts.image is not None else "vLLM"


RULES = (
    devices,
    access,
    groups,
    topology,
    in_use,
    numa,
    shared_memory,
    memory,
    cache_disk,
    port,
)
IDS = (
    "host.no-device",
    "host.device-access",
    "host.groups",
    "host.mixed-gpus",
    "host.gpu-in-use",
    "host.numa-balancing",
    "host.shm",
    "host.memory",
    "host.cache-disk",
    "host.port",
)
