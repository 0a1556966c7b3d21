"""What a server said of itself over a load, as columns over time: for plots, and bounded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.server_looks import GAUGES

if TYPE_CHECKING:
    from pytest_vllm.domain.load.server_looks import ServerLooks

MOST = 60
"""Most looks of a round that the record keeps; of more, evenly spread ones are."""

Timeline = dict[str, list[float | None]]

_NS_PER_S = 1e9
_DIGITS = 4


def timeline(told: ServerLooks, *, begin_ns: int, most: int = MOST) -> Timeline:
    """Return the gauges of each look as columns of one length; empty where no look has any.

    Args:
        told: What the server told.
        begin_ns: The zero of the times, CLOCK_MONOTONIC: the begin of the load.
        most: Most looks that are kept, at least 2; the first and the last always are.

    Returns:
        `time_s`, and each of `GAUGES` that any look has, `None` where a look has it not.
    """
    looks = [look for look in told.looks if look.gauges]
    if len(looks) > most:
        looks = [looks[n * (len(looks) - 1) // (most - 1)] for n in range(most)]
    columns: Timeline = {
        name: [_short(look.gauges.get(name)) for look in looks]
        for name in GAUGES
        if any(name in look.gauges for look in looks)
    }
    if not columns:
        return {}
    return {"time_s": [round((look.at_ns - begin_ns) / _NS_PER_S, 2) for look in looks], **columns}


def _short(value: float | None) -> float | None:
    """Return a value with four digits behind the point, and a whole number as one."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else round(value, _DIGITS)
