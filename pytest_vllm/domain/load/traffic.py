"""When requests are due: the pattern of a load."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Pattern(StrEnum):
    """How requests come."""

    CLOSED = "closed"
    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"
    TRACE = "trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """A pattern with its figures.

    Attributes:
        pattern: How requests come.
        requests: Measured requests, the warm-up not counted.
        concurrency: Places of a closed loop; bound of an open loop (0: none).
        rate_per_s: Requests a second of an open loop.
        burstiness: Shape of `gamma`: 1 is Poisson, below 1 comes in bursts (as in vLLM's client).
        normalized: Whether the last arrival is moved to `requests / rate_per_s` (vLLM's way; it
            takes the variance of a Poisson process away).
        warm_up: Requests before the measured ones.
        ramp_s: Seconds over which the load rises (places of a closed loop, or the rate from 0).
        seed: Root of all that is random.
    """

    pattern: Pattern = Pattern.CLOSED
    requests: int = 64
    concurrency: int = 0
    rate_per_s: float = 0.0
    burstiness: float = 1.0
    normalized: bool = False
    warm_up: int = 0
    ramp_s: float = 0.0
    seed: int = 0
