"""Hold what was measured against an objective: kept, missed, or too little was seen to tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_vllm.domain.interval import Z_95, Score
from pytest_vllm.domain.load.over_rounds import share_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.load.measurement import Distribution
    from pytest_vllm.domain.rounds import Mean
    from pytest_vllm.domain.slo import Bound


class Held(StrEnum):
    """What became of an objective."""

    KEPT = "kept"
    MISSED = "missed"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An objective, held against what was measured.

    Attributes:
        key: Key of the profile.
        held: What became of it.
        text: What was asked and seen, with the interval of 95 %.
    """

    key: str
    held: Held
    text: str


def hold_latency(bound: Bound, distribution: Distribution | None) -> Finding:
    """Hold a percentile against its bound.

    It is kept when the whole interval lies inside, missed when the whole of it lies outside: a
    sample that straddles the bound says neither.
    """
    asked = f"{bound.key} at most {_ms(bound.most_ms)}"
    seen = distribution.percentiles.get(bound.percentile) if distribution is not None else None
    if distribution is None and bound.metric.endswith("_sched"):
        usual = bound.key.replace("-sched", "")
        return _finding(
            bound.key,
            Held.CANNOT_TELL,
            f"{asked}: it counts from when a request was due, and here each was sent when a place "
            f"was free; use {usual}, or a load with a rate (pytest-vllm load --rate)",
        )
    if distribution is None or seen is None:
        return _finding(bound.key, Held.CANNOT_TELL, f"{asked}: the load has no {bound.metric}")
    if seen.value is None:
        return _finding(
            bound.key,
            Held.CANNOT_TELL,
            f"{asked}: {bound.percentile} needs {seen.needs} requests, there are "
            f"{distribution.requests}; use --vllm-performance=standard or more rounds",
        )
    text = f"{asked}: saw {_ms(seen.value)}{_interval(seen.low, seen.high, _ms)}"
    if seen.low is not None and seen.low > bound.most_ms:
        return _finding(bound.key, Held.MISSED, text)
    if seen.high is not None and seen.high <= bound.most_ms:
        return _finding(bound.key, Held.KEPT, text)
    return _finding(bound.key, Held.CANNOT_TELL, f"{text}: more rounds would tell")


def hold_rate(figure: str, least: float, seen: Mean | None) -> Finding:
    """Hold a rate against the least that it may be, over rounds as in `hold_latency`."""
    key = figure.replace("_", "-")
    asked = f"{key} at least {least:g}"
    if seen is None:
        return _finding(key, Held.CANNOT_TELL, f"{asked}: the server did not tell it")
    text = f"{asked}: saw {seen.value:.4g}{_interval(seen.low, seen.high, '{:.4g}'.format)}"
    if seen.low is None or seen.high is None:
        return _finding(key, Held.CANNOT_TELL, f"{text}; two rounds at least are needed")
    if seen.high < least:
        return _finding(key, Held.MISSED, text)
    if seen.low >= least:
        return _finding(key, Held.KEPT, text)
    return _finding(key, Held.CANNOT_TELL, f"{text}: more rounds would tell")


def hold_goodput(least: float, *, good: int, issued: int, rounds: Sequence[float] = ()) -> Finding:
    """Hold the share of good requests, of all that were sent, against the least it may be.

    As in `hold_latency` the whole interval decides. No sample can show a share of 100 %: that is
    kept when all were good, and missed by a single one that was not.

    Args:
        least: The share that is asked for.
        good: Good requests.
        issued: All that were sent.
        rounds: The share in each round, where there are several.
    """
    score = Score(right=good, total=issued)
    low, high = share_bounds(score, rounds)
    text = (
        f"goodput at least {least:.1%}: {good} of {issued} requests were good, "
        f"{score.share:.1%} (95 %: {low:.1%} to {high:.1%})"
    )
    if least >= 1:
        held = Held.KEPT if good == issued else Held.MISSED
        return _finding("goodput", held, f"{text}; it asks for all of them, and no sample for more")
    if high < least:
        return _finding("goodput", Held.MISSED, text)
    if low >= least:
        return _finding("goodput", Held.KEPT, text)
    needs = requests_to_tell(least, share=score.share)
    would = f"{needs:,} requests with this share would tell" if needs else "it is just that share"
    if 0 < needs <= issued:  # what cannot be told is how rounds differ
        would = "more rounds would tell"
    return _finding("goodput", Held.CANNOT_TELL, f"{text}: {would}")


def requests_to_tell(least: float, *, share: float) -> int:
    """Return how many requests put all of Wilson's interval on one side of a share; 0: none do.

    An end of that interval is at `least` where `|share - least| = z sqrt(least (1 - least) / n)`.
    """
    if share == least:
        return 0
    return math.ceil(Z_95**2 * least * (1 - least) / (share - least) ** 2)


def _finding(key: str, held: Held, text: str) -> Finding:
    return Finding(key=key, held=held, text=text)


def _ms(value: float) -> str:
    return f"{value:.4g} ms"


def _interval(low: float | None, high: float | None, shown: object) -> str:
    if low is None and high is None:
        return ""
    write = shown if callable(shown) else str
    ends = ["open" if end is None else str(write(end)) for end in (low, high)]
    return f" (95 %: {ends[0]} to {ends[1]})"
