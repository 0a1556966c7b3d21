"""How exact the client is on this host, and whether it was the limit of a load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.percentile import PERMILLES, needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.load.columns import CollectorFacts
    from pytest_vllm.domain.load.measurement import Measurement

BUSY = 0.9
"""Share of the time that the client ran, or ran and waited; from here on it had no idle moment."""

RAN = 0.5
"""Share of the time that a client without an idle moment surely ran, though others shared the core.
One that ran less only waited: its times are right, and its late sends are told by `_late`."""

NEAR_CAPACITY = 0.8
"""Share of the calibrated capacity from which on a higher rate might have been cut short."""

TYPICAL = 0.05
"""So much of a median may be an error of the client's clock: a gate looks for changes of 2 % to
5 %, and what the client adds is nearly the same in both runs of a comparison."""

TAIL = 0.2
"""So much of a p99 may be the client's; a gate allows it twice the change of a median."""

LATE = 0.1
"""So much of what it is part of may be the lateness of a send: with more of it, a closed loop has
empty places in the load that was asked for, and an open one tells the client's times."""

LEAST_LATE_US = 2_000.0
"""Lateness of a send below it is the scheduling of a shared host (`load.md` section 6: p99.9 of 3
to 8 ms on an idle one), whatever it is a share of."""

LEAST_LATE_TAIL_US = 10_000.0
"""The same for the p99."""

BEHIND = 0.25
"""Share of reads that brought several events of a stream, from which on the client lagged behind,
if it had no idle moment as well. Alone it says nothing: a server may send several at a time."""

LEAST_ERROR_US = 50.0
"""A median error below it is the write of the server that was measured against, no fault."""

LEAST_ERROR_TAIL_US = 500.0
"""The same for the p99: that server may lose its core in mid-write."""

SLEW = 500e-6
"""How fast NTP may turn a clock at most (500 ppm, adjtimex(2)); a faster one was set."""

STEP_NS = 1_000_000
"""A clock that moved less was surely not set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the client measured of itself against a server whose every write is known.

    The error of a time is the client's minus the server's clock just before the write, so that
    some microseconds of it are the write itself (`load.md`, "How measured").

    Attributes:
        path: `epoll` or `asyncio`, as in `CollectorFacts`.
        clock: `kernel` or `user`.
        streams: Concurrent streams.
        asked_events_per_s: The rate that was asked for.
        events_per_s: The rate that the server kept, between the first and the last event.
        events: Token events that were compared with the truth.
        ttft_error_p50_us: Error of the first event's time, median.
        ttft_error_p99_us: The same, p99.
        itl_error_p50_us: Error of the gap between two events, without its sign, median.
        itl_error_p99_us: The same, p99.
        cpu_share: Share of one core that the client took.
        cpu_us_per_event: CPU time for one event at this rate.
        wait_share: Share of the time that the client waited for a core.
        coalesced_share: Reads that brought more than one event of a stream, of all reads.
        lateness_p50_us: Send minus due, median.
        lateness_p99_us: The same, p99.
        capacity_events_per_s: Events that one core can take in, by the CPU time of a flood.
        flood_events_per_s: Events that came in during the flood, with the truth server beside.
        peak_rss_bytes: Largest resident memory of the client.
        seconds: How long the calibration took.
        failed: Requests without a sound end; 0 or the calibration is worth nothing.
        requests: Requests whose events were compared. They say which percentile of the error may
            decide anything: a p99 of fewer than 662 is one bad moment of a busy host.
        notes: Anything a reader must know.
    """

    path: str
    clock: str
    streams: int
    asked_events_per_s: float
    events_per_s: float
    events: int
    ttft_error_p50_us: float
    ttft_error_p99_us: float
    itl_error_p50_us: float
    itl_error_p99_us: float
    cpu_share: float
    cpu_us_per_event: float
    wait_share: float
    coalesced_share: float
    lateness_p50_us: float
    lateness_p99_us: float
    capacity_events_per_s: float
    flood_events_per_s: float
    peak_rss_bytes: int
    seconds: float
    failed: int = 0
    requests: int = 0
    notes: tuple[str, ...] = ()


def bottleneck(
    facts: CollectorFacts, measurement: Measurement, calibration: Calibration | None
) -> tuple[str, ...]:
    """Say why the client was the limit of a load, so that its figures are not the server's.

    Every reason is a consequence for the figures, never a busy host alone: kernel times are right
    however long the client waited for a core (`load.md` section 4), and a server of the CPU takes
    all cores that there are.

    Args:
        facts: How the load was measured.
        measurement: Its figures.
        calibration: The client's own, `None` when it was not calibrated.

    Returns:
        The reasons, each a sentence; none when the client was not the limit.
    """
    return (
        *held_back(facts, measurement, calibration),
        *_unknown(facts, calibration),
        *_inexact(measurement, calibration),
        *_read_late(facts, measurement),
        *_clock_set(facts),
    )


def held_back(
    facts: CollectorFacts, measurement: Measurement, calibration: Calibration | None
) -> tuple[str, ...]:
    """Say why a load was less than what was asked for: those of the reasons that make it so.

    The others make its times less exact, which spoils nothing where no time is judged.

    Args:
        facts: How the load was measured.
        measurement: Its figures.
        calibration: The client's own, `None` when it was not calibrated.
    """
    return (
        *_uncalibrated(calibration),
        *_saturated(facts),
        *_over_capacity(facts, calibration),
        *_late(facts, measurement),
    )


def _uncalibrated(calibration: Calibration | None) -> Iterator[str]:
    if calibration is not None and calibration.failed:
        yield (
            f"the client could not even be calibrated: {calibration.failed} of its requests to "
            "the truth server of this host failed"
        )


def _unknown(facts: CollectorFacts, calibration: Calibration | None) -> Iterator[str]:
    if calibration is None:
        return
    if (calibration.path, calibration.clock) != (facts.path, facts.clock):
        yield (
            f"the client was calibrated on the {calibration.path} path with the "
            f"{calibration.clock} clock, and measured on the {facts.path} path with the "
            f"{facts.clock} clock, so that its own error is unknown"
        )


def _saturated(facts: CollectorFacts) -> Iterator[str]:
    share = _share(facts.cpu_s, facts.wall_s)
    waited = _share(facts.wait_s, facts.wall_s)
    behind = _share(facts.coalesced_reads, facts.reads)
    sure = share >= RAN or behind >= BEHIND
    if share >= BUSY or (share + waited >= BUSY and sure):
        yield (
            f"the client had no idle moment: it ran for {share:.0%} of the load and waited for a "
            f"core for {waited:.0%} (limit {BUSY:.0%}); {behind:.0%} of its reads brought several "
            "events of a stream at once"
        )


def _over_capacity(facts: CollectorFacts, calibration: Calibration | None) -> Iterator[str]:
    if calibration is None or calibration.capacity_events_per_s <= 0:
        return
    rate = _share(facts.events, facts.wall_s)
    if rate >= NEAR_CAPACITY * calibration.capacity_events_per_s:
        yield (
            f"{rate:,.0f} events/s came in, and the client can take "
            f"{calibration.capacity_events_per_s:,.0f} on a core of this host "
            f"(limit {NEAR_CAPACITY:.0%} of it)"
        )


def _late(facts: CollectorFacts, measurement: Measurement) -> Iterator[str]:
    """Compare the lateness of sends with what it is part of.

    In an open loop that is the TTFT from the schedule. A closed loop has no schedule: late sends
    leave places empty, so there it is the time that a place is taken, and the median tells.
    """
    open_loop = "ttft_sched" in measurement.distributions
    metric = "ttft_sched" if open_loop else "e2el"
    middle, tail, _most = (lateness / 1e3 for lateness in facts.lateness_ns)
    for late, name, allowed, least in (
        (middle, "p50", LATE, LEAST_LATE_US),
        (tail if open_loop else 0.0, "p99", TAIL, LEAST_LATE_TAIL_US),
    ):
        whole = _figure_us(measurement, metric, name)
        if whole is not None and late > max(least, allowed * whole):
            yield (
                f"requests were sent late: {name} {late / 1e3:.1f} ms after they were due, more "
                f"than {allowed:.0%} of {metric} {name} ({whole / 1e3:.1f} ms)"
            )
            return


def _inexact(measurement: Measurement, calibration: Calibration | None) -> Iterator[str]:
    if calibration is None:
        return
    ttft = (calibration.ttft_error_p50_us, calibration.ttft_error_p99_us)
    itl = (calibration.itl_error_p50_us, calibration.itl_error_p99_us)
    for error, metric, name, allowed, least in (
        (ttft[0], "ttft", "p50", TYPICAL, LEAST_ERROR_US),
        (ttft[1], "ttft", "p99", TAIL, LEAST_ERROR_TAIL_US),
        (itl[0], "tpot", "p50", TYPICAL, LEAST_ERROR_US),  # gaps of a burst are no yardstick
        (itl[1], "icl", "p99", TAIL, LEAST_ERROR_TAIL_US),
    ):
        if calibration.requests < needed(PERMILLES[name]):
            continue
        whole = _figure_us(measurement, metric, name)
        if whole is not None and error > max(least, allowed * whole):
            yield (
                f"the client's own error in the calibration, {name} {error:,.0f} us "
                f"({calibration.clock} clock, {calibration.path} path), is more than "
                f"{allowed:.0%} of {metric} {name} ({whole / 1e3:.2f} ms)"
            )


def _read_late(facts: CollectorFacts, measurement: Measurement) -> Iterator[str]:
    """With a user clock each wait for a core is in the times of what was read after it."""
    if facts.clock == "kernel" or not facts.reads:
        return
    wait_us = facts.wait_s * 1e6 / facts.reads
    gap = _figure_us(measurement, "tpot", "p50")
    if gap is not None and wait_us > max(LEAST_ERROR_US, TYPICAL * gap):
        yield (
            f"the client waited {wait_us:,.0f} us for a core before each read, and without kernel "
            f"times that is in every time: more than {TYPICAL:.0%} of tpot p50 ({gap / 1e3:.2f} ms)"
        )


def _clock_set(facts: CollectorFacts) -> Iterator[str]:
    if abs(facts.clock_shift_ns) > STEP_NS + SLEW * facts.wall_s * 1e9:
        yield (
            f"the host's clock was set during the load, by {facts.clock_shift_ns / 1e6:+.1f} ms, "
            "and the arrival times are by that clock"
        )


def _figure_us(measurement: Measurement, metric: str, name: str) -> float | None:
    """Give a percentile in microseconds; where the sample is too small for a median, the mean."""
    figure = measurement.figures.get(f"{metric}_{name}_ms")
    distribution = measurement.distributions.get(metric)
    if figure is None and distribution is not None:
        percentile = distribution.percentiles.get(name)
        figure = percentile.value if percentile is not None else None
        if figure is None and name == "p50":
            figure = distribution.mean
    return None if figure is None else figure * 1e3


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
