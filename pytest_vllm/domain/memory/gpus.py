"""The GPUs that a forecast can be made for without having one: rows of `data/gpus/`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.fit import Device

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_vllm.domain.memory.serving import Platform

_VENDOR_WORDS = re.compile(r"\b(amd|nvidia|instinct|radeon|geforce)\b")
_NOISE = re.compile(r"[\s_-]+")
_COUNT = re.compile(r"[1-9]\d{0,3}")
_BACKWARDS = re.compile(r"(?P<count>\d+)\s*[xX*]\s*(?P<name>.+)")
_FORWARDS = re.compile(r"(?P<name>.+?)\s*[xX*]\s*(?P<count>\d+)")
_ALIKE = 0.5
_SHOWN = 3


class Basis(StrEnum):
    """How sure the size of a GPU's memory is."""

    MEASURED = "measured"
    """Read off such a GPU, to the byte or to 0.01 GiB."""
    DERIVED = "derived"
    """What is marketed less what the driver keeps on its siblings."""
    GUESS = "guess"
    """The memory is shared with the CPU or not yet sold: the real figure depends on the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One product.

    Attributes:
        name: Name without the vendor, such as `MI300X`.
        aliases: Other names of it.
        platform: What vLLM runs on there.
        gfx: Instruction set such as `gfx942`, empty for other vendors.
        devices: Devices of one card, as HIP or CUDA counts them: two for an MI250.
        marketed_gb: Memory of one device as it is sold.
        reported_bytes: Memory of one device as the driver reports it.
        idle_bytes: What is in use of it before anything runs.
        basis: How sure `reported_bytes` is.
        shared: Whether it is memory of the CPU too.
        fp8: Type of 8-bit floats that its matrix units take, empty for none.
        mx: Whether they take 4-bit floats in blocks (MXFP4).
        pci_ids: PCI device IDs.
        source: Where the figures come from.
    """

    name: str
    aliases: tuple[str, ...] = ()
    platform: Platform
    gfx: str = ""
    devices: int = 1
    marketed_gb: int
    reported_bytes: int
    idle_bytes: int = 0
    basis: Basis
    shared: bool = False
    fp8: str = ""
    mx: bool = False
    pci_ids: tuple[str, ...] = ()
    source: str = ""

    def device(self) -> Device:
        """Return one idle device of it."""
        return Device(
            name=self.name,
            gfx=self.gfx,
            total_bytes=self.reported_bytes,
            free_bytes=self.reported_bytes - self.idle_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """What `--gpus NAME:COUNT` means.

    Attributes:
        gpu: The product.
        count: Cards of it.
    """

    gpu: GpuModel
    count: int

    @property
    def devices(self) -> tuple[Device, ...]:
        """All their devices, idle."""
        return (self.gpu.device(),) * (self.count * self.gpu.devices)


def read_cards(text: str, known: Sequence[GpuModel]) -> Cards:
    """Read `MI300X:8` or `MI300X`, which is one card.

    Args:
        text: Name and number as the user typed them.
        known: The table.

    Raises:
        TargetError: No such GPU, or no such number.
    """
    gpu = _by_name(text, known)  # a name may hold a colon no more than a number may be missing
    if gpu is not None:
        return Cards(gpu=gpu, count=1)
    name, colon, number = text.rpartition(":")
    gpu = _by_name(name, known) if colon else None
    if gpu is None:
        raise _unknown(text, name if colon else text, known)
    if not _COUNT.fullmatch(number):
        raise TargetError(
            f"--gpus: {number!r} in {text!r} is no number of cards",
            advice=f"write --gpus {gpu.name}:1",
        )
    return Cards(gpu=gpu, count=int(number))


def find_gpu(name: str, known: Iterable[GpuModel]) -> GpuModel | None:
    """Return the product that a driver's name means, `None` for one that is not in the table.

    Drivers add to a name (`AMD Instinct MI300X OAM`, `NVIDIA H100 80GB HBM3`), so the longest
    name of the table that it begins with counts when none is the same.
    """
    known = tuple(known)
    same = _by_name(name, known)
    if same is not None:
        return same
    asked = _plain(name)
    begins = [
        (len(plain), gpu)
        for gpu in known
        for plain in map(_plain, (gpu.name, *gpu.aliases))
        if asked.startswith(plain)
    ]
    return max(begins, key=lambda item: item[0])[1] if begins else None


def _by_name(name: str, known: Iterable[GpuModel]) -> GpuModel | None:
    asked = _plain(name)
    return next(
        (gpu for gpu in known if asked in map(_plain, (gpu.name, *gpu.aliases))),
        None,
    )


def _plain(name: str) -> str:
    """Spell a name without case, vendor, blanks and hyphens."""
    return _NOISE.sub("", _VENDOR_WORDS.sub("", name.lower()))


def _unknown(text: str, name: str, known: Sequence[GpuModel]) -> TargetError:
    for pattern in (_BACKWARDS, _FORWARDS):
        match = pattern.fullmatch(text.strip())
        gpu = _by_name(match["name"], known) if match else None
        if match and gpu:
            return TargetError(
                f"--gpus: cannot read {text!r}",
                advice=f"the number comes behind a colon: --gpus {gpu.name}:{match['count']}",
            )
    names = {_plain(other): gpu.name for gpu in known for other in (gpu.name, *gpu.aliases)}
    close = get_close_matches(_plain(name), names, n=_SHOWN, cutoff=_ALIKE)
    meant = list(dict.fromkeys(names[plain] for plain in close))
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    every = ", ".join(gpu.name for gpu in known)
    return TargetError(
        f"--gpus: there is no GPU {name!r} in the table{hint}",
        advice=f"use auto, cpu, or one of {every}, such as --gpus {known[0].name}:1; "
        "for any other one that has as much memory, name a GPU of the table and --free",
    )
