"""Turn `--gpus` into devices: those of a table, of this host, or the memory of its CPU.

It is asked for an answer in the blink of an eye, so what only some ways need is imported there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.fit import Device
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.serving import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.memory.serving import Serving

_HIP, _CUDA = "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What to reckon with.

    Attributes:
        devices: All devices.
        platform: What vLLM runs on there.
        notes: What is not sure about them.
        variable: The variable that chooses among them, empty for devices of the table.
        numbers: What it calls each of them.
    """

    devices: tuple[Device, ...]
    platform: Platform
    notes: tuple[str, ...] = ()
    variable: str = ""
    numbers: tuple[str, ...] = ()

    def for_ranks(self, serving: Serving) -> tuple[Device, ...]:
        """Return the devices; on the CPU backend ranks split the memory of the host evenly."""
        if self.platform is not Platform.CPU:
            return self.devices
        (host,) = self.devices
        ranks = serving.ranks_here
        total, free = host.total_bytes // ranks, host.free_bytes // ranks
        return (replace(host, total_bytes=total, free_bytes=free),) * ranks

    def freer(self, serving: Serving) -> tuple[str, ...]:
        """Name the devices to choose where others have more room than those that vLLM takes."""
        devices, count = self.devices, serving.ranks_here
        if not self.numbers or not 0 < count < len(devices):
            return ()
        by_room = sorted(range(len(devices)), key=lambda index: -devices[index].free_bytes)
        best, taken = sorted(by_room[:count]), range(count)
        room, left = (
            min(devices[index].free_bytes for index in chosen) / GIB for chosen in (best, taken)
        )
        if room < left + 1:
            return ()
        chosen = ",".join(self.numbers[index] for index in best)
        note = (
            f"vLLM takes the first {count} of {len(devices)} devices, where as little as "
            f"{left:.2f} GiB is free; with {self.variable}={chosen} it has {room:.2f} on each"
        )
        return (note,)


def read_hardware(text: str, *, idle: bool, monitor: str) -> Hardware:
    """Read `--gpus`: `auto`, `cpu`, or a GPU of the table with a number of cards.

    Args:
        text: What the user typed.
        idle: Whether nothing is said about what others leave of GPUs of the table.
        monitor: Who is asked for those of this host.

    Raises:
        TargetError: There are no such GPUs, or none at all.
        HostError: The kernel does not tell the memory of this host.
    """
    text = text.strip()
    if text.lower() == "cpu":
        return _host()
    if text.lower() == "auto":
        return _seen(monitor)
    from pytest_vllm.adapters.gpu_table import gpu_models  # noqa: PLC0415 - only for a name
    from pytest_vllm.domain.memory.gpus import Basis, read_cards  # noqa: PLC0415

    cards = read_cards(text, gpu_models())
    gpu, notes = cards.gpu, []
    if gpu.devices > 1:
        notes.append(
            f"{cards.count} {gpu.name} are {len(cards.devices)} devices of "
            f"{gpu.reported_bytes / 2**30:.2f} GiB"
        )
    if gpu.basis is Basis.GUESS:
        shared = "is shared with the CPU and depends on the host" if gpu.shared else "is not sure"
        notes.append(f"the memory of a {gpu.name} {shared}: {gpu.source}; use --gpus auto there")
    elif idle:
        notes.append("idle GPUs are assumed; --free says what others leave")
    return Hardware(devices=cards.devices, platform=gpu.platform, notes=tuple(notes))


def _seen(monitor: str) -> Hardware:
    """Ask a monitor for the GPUs of this host."""
    from pytest_vllm.adapters.gpus import probe  # noqa: PLC0415 - a monitor takes its time
    from pytest_vllm.domain.devices import usable_devices  # noqa: PLC0415
    from pytest_vllm.domain.preflight.visibility import visible  # noqa: PLC0415

    looking = probe(monitor)
    try:
        facts = looking.facts()
    finally:
        looking.close()
    devices = usable_devices(facts)
    if not devices:
        raise TargetError(
            f"--gpus auto: no GPU is seen on this host ({facts['reason'] or 'without memory'})",
            advice="name the GPUs to reckon with, such as --gpus MI300X:8, or use --gpus cpu",
        )
    left = visible(devices, os.environ)
    if not left and left is not None:
        raise TargetError(
            f"--gpus auto: variables hide all {len(devices)} devices of this host",
            advice="unset ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES",
        )
    hidden = len(devices) - len(left or devices)
    platform = Platform.CUDA if facts["monitor"] == "nvidia" else Platform.ROCM
    variable, numbers = _numbers(left or devices, platform, os.environ)
    all_told = left is not None and len(devices) == len(facts["gpus"])
    return Hardware(
        devices=left or devices,
        platform=platform,
        variable=variable,
        numbers=numbers if all_told else (),
        notes=(
            f"{len(devices)} devices as {facts['monitor']} sees them now"
            + (f", {hidden} of which variables hide" if hidden else ""),
        ),
    )


def _numbers(
    devices: tuple[Device, ...], platform: Platform, env: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    """Return the variable that chooses among devices, and what it calls each; nothing if unsure.

    HIP counts what ROCr left from 0. CUDA puts faster GPUs first, so different ones have no number.
    """
    as_cuda = bool(env.get(_CUDA)) and not env.get(_HIP)
    variable = _CUDA if platform is Platform.CUDA or as_cuda else _HIP
    if platform is Platform.CUDA and len({device.name for device in devices}) > 1:
        return variable, ()
    listed = [part.strip() for part in env.get(variable, "").split(",") if part.strip()]
    numbers = listed or list(map(str, range(len(devices))))
    return variable, tuple(numbers) if len(numbers) == len(devices) else ()


def _host() -> Hardware:
    """Return the memory of this host as one device."""
    from pytest_vllm.adapters.facts.memory import host_memory  # noqa: PLC0415

    total, free = host_memory()
    device = Device(name="CPU", total_bytes=total, free_bytes=free)
    return Hardware(devices=(device,), platform=Platform.CPU)
