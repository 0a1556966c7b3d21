"""One load from end to end: made, the client calibrated for it, sent, measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.calibrate import calibrate
from pytest_vllm.adapters.load.prompts import build_plan
from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.adapters.load.server_truth import ServerWatch
from pytest_vllm.domain.load.calibration import bottleneck
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.traffic import Pattern

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.adapters.load.connection import LoadServer
    from pytest_vllm.domain.load.calibration import Calibration
    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.measurement import Measurement, Slo
    from pytest_vllm.domain.load.plan import Limits, LoadPlan
    from pytest_vllm.domain.load.progress import Progress
    from pytest_vllm.domain.load.traffic import Traffic
    from pytest_vllm.domain.load.workload import Workload

    Watcher = Callable[[Progress], None]

_PROBE_S = 15.0
"""Seconds of the look at how fast the server is; what is in flight then is cut."""
_MOST_PROBES, _OPEN_PROBES = 64, 8
_PROBE_SEED = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A load that is over.

    Attributes:
        plan: What was sent.
        columns: What came back.
        measurement: Its figures.
        calibration: The client's own error at this load, `None` when nobody wanted to know.
        limited_by: Why the client was the limit, so that the figures are not the server's.
    """

    plan: LoadPlan
    columns: Columns
    measurement: Measurement
    calibration: Calibration | None
    limited_by: tuple[str, ...]


def run_level(  # noqa: PLR0913 - the parts of a load
    server: LoadServer,
    workload: Workload,
    traffic: Traffic,
    *,
    limits: Limits,
    slo: Slo | None = None,
    calibrates: bool = True,
    progress: Watcher | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Level:
    """Make a load, calibrate the client for it, send it and measure it.

    A few requests are sent first to see how fast the server is, because the client is calibrated at
    the rate of events that is to come. They also warm the server up.

    Args:
        server: Whom to load.
        workload: What the requests hold.
        traffic: When they are sent.
        limits: What bounds the load.
        slo: What a good request keeps.
        calibrates: Whether the client measures itself first.
        progress: Told how far the load is.
        tell: Told what is done, in a few words, before it is.

    Raises:
        TargetError: The load cannot be made for this server.
        HostError: This host cannot send it.
    """
    plan = build_plan(server, workload, traffic, limits=limits)
    calibration = _calibrated(server, workload, traffic, limits, tell) if calibrates else None
    tell("loads")
    with ServerWatch(server.url, api_key=server.api_key) as watch:
        columns = run_load(plan, progress=progress)
    measurement = measure(plan, columns, slo=slo, server=watch.looks)
    limited = () if columns.facts is None else bottleneck(columns.facts, measurement, calibration)
    return Level(
        plan=plan,
        columns=columns,
        measurement=measurement,
        calibration=calibration,
        limited_by=limited,
    )


def _calibrated(
    server: LoadServer,
    workload: Workload,
    traffic: Traffic,
    limits: Limits,
    tell: Callable[[str], None],
) -> Calibration:
    tell("looks how fast the server is")
    streams, events_per_s, path = _expected(server, workload, traffic, limits)
    tell(f"calibrates the client for {streams} streams, {events_per_s:,.0f} events/s")
    return calibrate(
        streams=streams,
        events_per_s=events_per_s,
        requests_per_s=traffic.rate_per_s,
        path=path,
    )


def _expected(
    server: LoadServer, workload: Workload, traffic: Traffic, limits: Limits
) -> tuple[int, float, str]:
    """Return how many streams there will be, their events a second, and the path that is taken.

    The events are 0 where nobody knows. In an open loop there are as many streams as arrive while
    one is served (Little's law).
    """
    usual = _OPEN_PROBES if traffic.is_open else _MOST_PROBES
    places = min(traffic.concurrency or usual, usual)
    trial = replace(
        traffic,
        pattern=Pattern.CLOSED,
        concurrency=places,
        requests=min(places, traffic.requests),
        warm_up=0,
        ramp_s=0.0,
        rate_per_s=0.0,
        burstiness=1.0,
        normalized=False,
        seed=traffic.seed + _PROBE_SEED,
    )
    if workload.file:  # its prompts are few enough to be needed, and have a seed of their own
        trial = replace(trial, seed=traffic.seed)
    short = replace(limits, run_s=min(limits.run_s, _PROBE_S))
    plan = build_plan(server, workload, trial, limits=short)
    columns = run_load(plan)
    path = "epoll" if columns.facts is None else columns.facts.path
    wanted = traffic.concurrency or places
    if not len(columns.event_ns):
        return wanted, 0.0, path
    seconds = max(columns.finish_ns - columns.begin_ns, 1) / 1e9
    rate = len(columns.event_ns) / seconds
    if not traffic.is_open or not traffic.rate_per_s:
        return wanted, rate * wanted / places, path
    ended = [end - sent for end, sent in zip(columns.end_ns, columns.send_ns, strict=True) if sent]
    held_s = sum(ended) / max(1, len(ended)) / 1e9
    streams = max(1, round(traffic.rate_per_s * held_s))
    each = len(columns.event_ns) / max(1, len(ended))
    bound = traffic.concurrency or streams
    return min(streams, bound), traffic.rate_per_s * each, path
