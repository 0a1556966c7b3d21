"""`--free`: what is free of each device, in the words of a user."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.memory import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.fit import Device

_AMOUNT = re.compile(r"(?P<number>\d+(?:[._]\d+)*)\s*(?P<unit>[a-zA-Z%]*)")
_UNITS = {
    "gib": GIB,
    "mib": MIB,
    "kib": 2**10,
    "tib": 2**40,
    "gb": 10**9,
    "mb": 10**6,
    "kb": 10**3,
    "tb": 10**12,
    "b": 1,
    "bytes": 1,
}
_ADVICE = "write it as 164.76GiB, 170GB, 168714MiB, 85% or bytes, or one for each, with commas"
_SLACK = 0.005
"""A figure that a log rounds to 0.01 GiB may be that share of a GiB above the true one."""


def with_free(devices: Sequence[Device], text: str) -> tuple[Device, ...]:
    """Return the devices with what `--free` says is free of them.

    Args:
        devices: All of them.
        text: One amount for all, or one for each with commas between.

    Raises:
        TargetError: It is no amount, more than a device has, or not one for each.
    """
    amounts = [part.strip() for part in text.split(",")]
    if len(amounts) == 1:
        amounts *= len(devices)
    if len(amounts) != len(devices):
        raise TargetError(
            f"--free names {len(amounts)} amounts for {len(devices)} devices",
            advice="give one for all, or one for each (an MI250 is two devices)",
        )
    return tuple(
        replace(device, free_bytes=_read(amount, device))
        for amount, device in zip(amounts, devices, strict=True)
    )


def _read(text: str, device: Device) -> int:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise TargetError(f"--free: cannot read {text!r}", advice=_ADVICE)
    unit = match["unit"].lower()
    try:
        number = float(match["number"].replace("_", ""))
    except ValueError:
        raise TargetError(f"--free: cannot read {text!r}", advice=_ADVICE) from None
    if unit == "%":
        amount = device.total_bytes * number / 100
    elif unit in _UNITS:
        amount = number * _UNITS[unit]
    elif unit or number < MIB:
        raise TargetError(
            f"--free: {text!r} has no unit" if not unit else f"--free: unit of {text!r} unknown",
            advice=_ADVICE,
        )
    else:
        amount = number
    if amount > device.total_bytes + _SLACK * GIB:
        raise TargetError(
            f"--free: {text} is more than the {device.total_bytes / GIB:.2f} GiB "
            f"({device.total_bytes / 10**9:.1f} GB) that a {device.name or 'device'} has",
            advice="GiB are 2^30 bytes, GB are 10^9; name what is free of one device",
        )
    return min(round(amount), device.total_bytes)
