"""When requests are due: the pattern of a load."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SECOND_NS = 1_000_000_000


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
        speed: Times as fast as it was recorded a trace is sent.
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
    speed: float = 1.0

    @property
    def total(self) -> int:
        """Requests with those of the warm-up."""
        return self.warm_up + self.requests

    @property
    def is_open(self) -> bool:
        """Whether requests come whatever the server does."""
        return self.pattern is not Pattern.CLOSED


def check(traffic: Traffic) -> Traffic:
    """Return the traffic as it is, or say what of it cannot be.

    Raises:
        TargetError: A figure is missing, out of range or contradicts another.
    """
    numbers = (traffic.rate_per_s, traffic.burstiness, traffic.ramp_s, traffic.speed)
    whole = (traffic.requests, traffic.concurrency, traffic.warm_up)
    if not all(math.isfinite(number) for number in numbers):
        raise TargetError("traffic: a figure is not finite", advice="use plain numbers")
    if traffic.requests < 1 or min(*whole, *numbers) < 0:
        raise TargetError(
            "traffic needs at least one request, and no figure of it may be negative",
            advice="see --requests, --concurrency, --rate, --warm-up and --ramp",
        )
    paced = traffic.pattern in (Pattern.CONSTANT, Pattern.POISSON, Pattern.GAMMA)
    if paced and not traffic.rate_per_s:
        raise TargetError(
            f"pattern {traffic.pattern} has no rate", advice="say how many requests a second: rate"
        )
    if not paced and traffic.rate_per_s:
        raise TargetError(
            f"pattern {traffic.pattern} takes no rate",
            advice="leave the rate out, or choose constant, poisson or gamma",
        )
    if traffic.pattern is Pattern.CLOSED and not traffic.concurrency:
        raise TargetError("a closed loop has no places", advice="say how many: concurrency")
    if traffic.pattern is Pattern.GAMMA and not traffic.burstiness:
        raise TargetError("burstiness 0 is no gamma process", advice="use a figure above 0")
    if traffic.pattern is not Pattern.GAMMA and traffic.burstiness != 1:
        raise TargetError(
            f"burstiness {traffic.burstiness:g} does nothing to pattern {traffic.pattern}",
            advice="choose pattern gamma, or leave the burstiness out",
        )
    if traffic.normalized and traffic.pattern not in (Pattern.POISSON, Pattern.GAMMA):
        raise TargetError(
            f"normalized does nothing to pattern {traffic.pattern}",
            advice="choose poisson or gamma, or leave it out",
        )
    if traffic.pattern is Pattern.TRACE and (not traffic.speed or traffic.ramp_s):
        raise TargetError(
            "a trace is sent when its file says: it has no ramp, and its speed is above 0",
            advice="leave the ramp out, or choose another pattern",
        )
    return traffic


def arrivals(traffic: Traffic, *, recorded_ns: Sequence[int] = ()) -> tuple[int, ...]:
    """Return when each request is due after the begin of the load, in ns, the warm-up first.

    The same traffic gives the same times. A ramp of T seconds to the rate R is the same process
    with its clock bent: by the time t it has had R t^2 / (2 T) of its mean gaps, and R (t - T / 2)
    from T on, so the rate rises as a straight line from 0 (time change of a renewal process).

    Args:
        traffic: The pattern; sound by `check`.
        recorded_ns: Times of the rows of a trace, in any unit of origin; only for `trace`.

    Returns:
        Nothing for a closed loop, where no request has a time of its own.

    Raises:
        TargetError: The traffic is not sound, or the trace has too few rows or goes back in time.
    """
    check(traffic)
    if traffic.pattern is Pattern.CLOSED:
        return ()
    if traffic.pattern is Pattern.TRACE:
        return _replayed(traffic, recorded_ns)
    gaps = list(accumulate(_gaps(traffic)))
    if traffic.normalized and gaps[-1]:
        gaps = [passed * len(gaps) / gaps[-1] for passed in gaps]
    rate, ramp = traffic.rate_per_s, traffic.ramp_s
    in_ramp = rate * ramp / 2
    return tuple(
        round(
            SECOND_NS
            * (
                math.sqrt(2 * passed * ramp / rate)
                if passed < in_ramp
                else ramp / 2 + passed / rate
            )
        )
        for passed in gaps
    )


def _gaps(traffic: Traffic) -> Iterable[float]:
    """Return the gap before each request, in mean gaps; a constant rate begins at once."""
    count = traffic.total
    if traffic.pattern is Pattern.CONSTANT:
        return [0.0, *[1.0] * (count - 1)]
    rng = random.Random(f"{traffic.seed}:arrivals")  # noqa: S311 - a load, no secret
    if traffic.pattern is Pattern.POISSON:
        return [-math.log(1.0 - rng.random()) for _ in range(count)]
    shape = traffic.burstiness
    return [rng.gammavariate(shape, 1.0 / shape) for _ in range(count)]


def _replayed(traffic: Traffic, recorded_ns: Sequence[int]) -> tuple[int, ...]:
    if len(recorded_ns) < traffic.total:
        raise TargetError(
            f"the trace has {len(recorded_ns)} requests, and {traffic.total} were asked for "
            f"(with {traffic.warm_up} to warm up)",
            advice="ask for fewer, or use a longer trace",
        )
    taken = recorded_ns[: traffic.total]
    for number, (before, after) in enumerate(pairwise(taken), start=2):
        if after < before:
            raise TargetError(
                f"row {number} of the trace is earlier than the row before it",
                advice="sort the trace by its timestamps",
            )
    return tuple(round((time - taken[0]) / traffic.speed) for time in taken)


def describe(traffic: Traffic) -> dict[str, Any]:
    """Return the traffic as plain data, which `read_traffic` reads."""
    return {**asdict(traffic), "pattern": traffic.pattern.value}


def read_traffic(table: Mapping[str, Any], *, source: str = "traffic") -> Traffic:
    """Read traffic out of a table of a file or a record.

    Args:
        table: Fields of `Traffic`; `rate_per_s` may be missing and so on.
        source: File and table, for messages.

    Raises:
        TargetError: A key is unknown or its value of another type, or the traffic is not sound.
    """
    defaults = asdict(Traffic())
    for key, value in table.items():
        if key not in defaults:
            raise TargetError(
                f"{source}: there is no key {key!r}{closest(key, tuple(defaults))}",
                advice=f"use {', '.join(defaults)}",
            )
        default = defaults[key]
        kind: Any = (int, float) if isinstance(default, float) else type(default)
        kind = str if key == "pattern" else kind
        if not isinstance(value, kind) or isinstance(value, bool) != isinstance(default, bool):
            raise TargetError(f"{source}: {key} = {value!r} is of the wrong type")
    given = dict(table)
    if "pattern" in given:
        known = [pattern.value for pattern in Pattern]
        if given["pattern"] not in known:
            raise TargetError(
                f"{source}: there is no pattern {given['pattern']!r}"
                f"{closest(given['pattern'], known)}",
                advice=f"use {', '.join(known)}",
            )
        given["pattern"] = Pattern(given["pattern"])
    return check(Traffic(**given))
