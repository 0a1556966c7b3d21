"""When the truth server writes what: an exact schedule, and noise by a seed on top of it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_TEXT = (
    "the of and to in a is that for it as was with be by on not he his are this or had from "
    "which have one you were all her there"
)
WORDS = tuple(f" {word}" for word in _TEXT.split(" "))
"""What it writes, one token each; their number is a power of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a reply is written. A request may change it by fields of its own, see `FIELDS`.

    Attributes:
        ttft_us: From the arrival of the request to the first event. With `itl_us` 0 as well there
            is no schedule: all streams are written in turn, as fast as they are read (a flood).
        itl_us: From one write to the next.
        tokens: Tokens of a reply, unless the request says (`max_tokens`).
        events_per_write: Events that one write carries.
        tokens_per_event: Tokens that one event carries.
        grid: Whether all streams are written at the same moments, as by the steps of an engine.
        factor: Makes both times longer: 1.05 is a server that is 5 % slower.
        step_cv: Coefficient of variation of a step, each by itself.
        drift_cv: Coefficient of variation of a drift: an AR(1) process over the steps.
        drift_rho: Correlation of that drift from one step to the next.
        seed: Root of the noise.
    """

    ttft_us: int = 200_000
    itl_us: int = 20_000
    tokens: int = 128
    events_per_write: int = 1
    tokens_per_event: int = 1
    grid: bool = False
    factor: float = 1.0
    step_cv: float = 0.0
    drift_cv: float = 0.0
    drift_rho: float = 0.99
    seed: int = 0


FIELDS = {
    "stub_ttft_us": "ttft_us",
    "stub_itl_us": "itl_us",
    "stub_n": "tokens",
    "stub_burst": "events_per_write",
    "stub_tokens_per_event": "tokens_per_event",
    "stub_grid": "grid",
}
"""Fields of a request's body, and what they change; numbers all of them."""


class Noise:
    """Draws how much longer than its schedule each step takes."""

    def __init__(self, schedule: Schedule) -> None:
        self._factor = schedule.factor
        self._step = schedule.step_cv
        self._drift = schedule.drift_cv
        self._rho = schedule.drift_rho
        self._random = random.Random(schedule.seed)  # noqa: S311 - noise, no secret
        self._level = self._drift * self._random.gauss(0.0, 1.0)

    def draw(self) -> float:
        """Give the factor of the next step: log-normal, its median at the schedule's factor."""
        if not self._step and not self._drift:
            return self._factor
        gauss = self._random.gauss
        fresh = math.sqrt(1.0 - self._rho**2) * self._drift
        self._level = self._rho * self._level + fresh * gauss(0.0, 1.0)
        return self._factor * math.exp(self._level + self._step * gauss(0.0, 1.0))
