"""What a server said of itself over a load, as columns over time: for plots, and bounded."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.server_looks import GAUGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.load.server_looks import ServerLook, ServerLooks

MOST = 60
"""Most looks of a round that the record keeps; of more, evenly spread ones are, and those with
the highest value of a gauge."""

Timeline = dict[str, list[float | None]]

_NS_PER_S = 1e9
_DIGITS = 4


def timeline(told: ServerLooks, *, begin_ns: int, most: int = MOST) -> Timeline:
    """Return the gauges of each look as columns of one length; empty where no look has any.

    Args:
        told: What the server told.
        begin_ns: The zero of the times, CLOCK_MONOTONIC: the begin of the load.
        most: Most looks that are kept, at least 5; the first, the last and the highest of each
            gauge always are.

    Returns:
        `time_s`, and each of `GAUGES` that any look has, `None` where a look has it not.
    """
    looks = [look for look in told.looks if look.gauges]
    if len(looks) > most:
        stay = highest(looks)
        spread = most - len(stay)
        stay |= {n * (len(looks) - 1) // (spread - 1) for n in range(spread)}
        looks = [looks[n] for n in sorted(stay)]
    columns: Timeline = {
        name: [_short(look.gauges.get(name)) for look in looks]
        for name in GAUGES
        if any(name in look.gauges for look in looks)
    }
    if not columns:
        return {}
    return {"time_s": [round((look.at_ns - begin_ns) / _NS_PER_S, 2) for look in looks], **columns}


def highest(looks: Sequence[ServerLook]) -> set[int]:
    """Return the places of the looks that hold the highest value of a gauge, the first of each."""
    places = set()
    for name in GAUGES:
        seen = [(look.gauges.get(name), n) for n, look in enumerate(looks)]
        known = [(value, -n) for value, n in seen if value is not None and math.isfinite(value)]
        if known:
            places.add(-max(known)[1])
    return places


def during(looks: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """Return the looks at a gauge that fell into a load: those around it tell nothing of it.

    Args:
        looks: Seconds since the load began, and the value.
        seconds: How long the load took.
    """
    return sorted(look for look in looks if 0 <= look[0] <= seconds)


def time_mean(looks: Sequence[tuple[float, float]], seconds: float) -> float | None:
    """Return the mean of a gauge over a load, each look for the time that it is the nearest to.

    Looks are no clock: a busy server answers them late, and of many the record keeps some.

    Args:
        looks: Seconds since the load began, and the value.
        seconds: How long the load took.

    Returns:
        `None` where no look fell into the load.
    """
    inside = during(looks, seconds)
    if not inside or not seconds:
        return None
    halves = [(one + other) / 2 for (one, _), (other, _) in pairwise(inside)]
    spans = pairwise((0.0, *halves, seconds))
    shares = ((end - begin) / seconds for begin, end in spans)
    return sum(value * share for (_, value), share in zip(inside, shares, strict=True))


def _short(value: float | None) -> float | None:
    """Return a value with four digits behind the point, and a whole number as one."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else round(value, _DIGITS)
