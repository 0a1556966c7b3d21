"""Ways to store the weights of a model in fewer bits, and the GPUs that have units for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.shape import Quantization

if TYPE_CHECKING:
    from pytest_vllm.domain.fit import Device

_FP8_GPUS = ("gfx942", "gfx950", "gfx12")
_MX_GPUS = ("gfx950", "gfx12")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A way to store weights in fewer bits.

    Attributes:
        name: For a person.
        quantization: How weights are stored.
        gpus: Instruction sets with units for it, as prefixes; empty for any.
        argument: The argument that makes it of 16-bit weights while they are loaded, empty when it
            takes another checkpoint.
    """

    name: str
    quantization: Quantization
    gpus: tuple[str, ...] = ()
    argument: str = ""


KINDS = (
    Kind(
        name="fp8",
        quantization=Quantization(method="fp8", bits=8),
        gpus=_FP8_GPUS,
        argument="--quantization=fp8",
    ),
    Kind(
        name="int4 (GPTQ or AWQ, groups of 128)",
        quantization=Quantization(method="gptq", bits=4, group=128, zeros=True),
    ),
    Kind(
        name="MXFP4",
        quantization=Quantization(method="mxfp4", bits=4, group=32),
        gpus=_MX_GPUS,
    ),
)


def lacking(kind: Kind, devices: tuple[Device, ...]) -> list[str]:
    """Return the instruction sets of the devices that have no units for it."""
    names = sorted({device.gfx for device in devices if device.gfx})
    return [name for name in names if kind.gpus and not name.startswith(kind.gpus)]
