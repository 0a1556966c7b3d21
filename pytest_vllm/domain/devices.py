"""What a rank may take of the GPUs that a monitor saw.

A GPU may be cut into partitions that share its memory, and each reports all of it (ROCm#4750: in
CPX every one of eight partitions shows the 206 141 652 992 bytes of the MI300X, in NPS1 as in
NPS4). So memory is never added up over GPUs here; partitions are recognised by their socket, which
is the PCI address without the function (ROCm's documentation of partition modes).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.fit import Device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def socket_of(bdf: str) -> str:
    """Return the package that a PCI address belongs to: `0000:05:00.3` is in `0000:05:00`."""
    return bdf.rpartition(".")[0] or bdf


def mark_shared(gpus: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each GPU its `socket`, and in `shared_with` the indexes that have the same memory."""
    sockets = {gpu["index"]: socket_of(gpu["bdf"]) for gpu in gpus}
    return [
        {
            **gpu,
            "socket": sockets[gpu["index"]],
            "shared_with": [
                index
                for index, socket in sockets.items()
                if socket and socket == sockets[gpu["index"]] and index != gpu["index"]
            ],
        }
        for gpu in gpus
    ]


def usable_devices(facts: Mapping[str, Any]) -> tuple[Device, ...]:
    """Return what each rank may take, one device for a GPU, in the order in which HIP counts them.

    A partition may take its share: what the compute driver grants it, else an equal part of the
    memory of its socket, and an equal part of what is free there. A GPU whose memory nobody tells
    is left out.

    Args:
        facts: Facts of the GPUs, as a monitor tells them and the record keeps them.
    """
    gpus = [gpu for gpu in facts.get("gpus") or () if gpu.get("vram_total_bytes")]
    partitions = Counter(_socket(gpu) for gpu in gpus)
    order = sorted(gpus, key=_hip_order) if all(_hip(gpu) is not None for gpu in gpus) else gpus
    return tuple(_device(gpu, partitions[_socket(gpu)]) for gpu in order)


def _device(gpu: Mapping[str, Any], sharing: int) -> Device:
    whole = int(gpu["vram_total_bytes"])
    total = whole
    if sharing > 1:
        granted = gpu.get("hip_total_bytes")
        total = min(whole // sharing, int(granted)) if granted else whole // sharing
    left = max(whole - int(gpu.get("vram_used_bytes") or 0), 0)
    return Device(
        name=str(gpu.get("name") or ""),
        gfx=str(gpu.get("gfx") or ""),
        total_bytes=total,
        free_bytes=min(left // sharing, total),
        bdf=str(gpu.get("bdf") or ""),
        render_node=str(gpu.get("render_node") or ""),
    )


def _socket(gpu: Mapping[str, Any]) -> str:
    """Name the memory that a GPU draws on; one without an address shares with nobody."""
    bdf = str(gpu.get("bdf") or "")
    return socket_of(bdf) if bdf else f"index {gpu.get('index')}"


def _hip(gpu: Mapping[str, Any]) -> int | None:
    number = gpu.get("hip_index")
    return number if isinstance(number, int) else None


def _hip_order(gpu: Mapping[str, Any]) -> tuple[int, int]:
    return _hip(gpu) or 0, int(gpu.get("index") or 0)
