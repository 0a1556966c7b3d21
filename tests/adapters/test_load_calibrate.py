"""The client measures itself before a load, and says when it was the limit of one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.load.asyncio_path import run_asyncio
from pytest_vllm.adapters.load.calibrate import calibrate
from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.adapters.load.truth import Schedule, TruthServer
from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.load.calibration import Calibration, bottleneck
from pytest_vllm.domain.load.columns import CollectorFacts, Columns, Ending
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.plan import Limits, LoadPlan, Request

if TYPE_CHECKING:
    from collections.abc import Callable


FLOODS = 4


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Of the collector, for four streams of 200 events a second in all."""
    return calibrate(streams=4, events_per_s=200, seconds=0.8)


def test_every_event_is_held_against_its_write(calibration: Calibration) -> None:
    """8 waves of 4 streams with 4 events each; the client knows no event before its write."""
    assert (calibration.streams, calibration.events, calibration.failed) == (4, 8 * 4 * 4, 0)
    assert calibration.asked_events_per_s == 200
    assert calibration.path == "epoll"
    assert 0 < calibration.ttft_error_p50_us <= calibration.ttft_error_p99_us
    assert 0 < calibration.itl_error_p50_us <= calibration.itl_error_p99_us
    assert 0 <= calibration.lateness_p50_us <= calibration.lateness_p99_us
    assert 0 < calibration.cpu_share < 1
    assert 0 < calibration.events_per_s < calibration.flood_events_per_s
    assert calibration.cpu_us_per_event > 1e6 / calibration.capacity_events_per_s
    assert calibration.peak_rss_bytes < 120e6
    assert json.loads(json.dumps(asdict(calibration)))["clock"] == calibration.clock


def test_an_open_loop_is_calibrated_at_its_rate() -> None:
    """The sends that come at the rate are timed, not the burst that brings the streams."""
    plans: list[tuple[LoadPlan, Columns]] = []

    def watched(plan: LoadPlan) -> Columns:
        columns = run_load(plan)
        plans.append((plan, columns))
        return columns

    seen = calibrate(streams=3, requests_per_s=20, seconds=0.5, client=watched)
    paced, columns = plans[0]
    assert paced.concurrency == 0
    assert [request.due_ns for request in paced.requests[:3]] == [0, 0, 0]
    due = [request.due_ns for request in paced.requests[3:]]
    assert due == [number * 50_000_000 for number in range(10)]
    assert list(columns.ending) == [Ending.DONE] * 13
    latest = max(columns.send_ns[row] - columns.due_ns[row] for row in range(3, 13))
    assert seen.lateness_p99_us == latest / 1e3
    facts = columns.facts
    assert facts is not None
    assert (seen.path, seen.clock) == (facts.path, facts.clock)
    assert seen.failed == 0


def test_the_path_of_a_load_is_the_one_that_is_calibrated() -> None:
    seen = calibrate(streams=2, seconds=0.1, path="asyncio")
    assert (seen.path, seen.clock, seen.failed) == ("asyncio", "user", 0)


def test_a_client_that_reaches_nothing_is_the_fault_of_the_host() -> None:
    def lost(plan: LoadPlan) -> Columns:
        return run_load(replace(plan, url="http://127.0.0.1:9"))

    with pytest.raises(HostError, match="none of its 32 requests to the truth server") as caught:
        calibrate(streams=4, seconds=0.2, client=lost)
    assert "ulimit -n" in caught.value.advice


def load(
    schedule: Schedule,
    *,
    streams: int,
    tokens: int,
    client: Callable[[LoadPlan], Columns] = run_load,
) -> tuple[LoadPlan, Columns]:
    body = {"prompt": [0] * 8, "max_tokens": tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    request = Request(body=json.dumps(body).encode(), want_tokens=tokens)
    with TruthServer(schedule) as server:
        plan = LoadPlan(
            url=server.url,
            requests=(request,) * (2 * streams),
            concurrency=streams,
            limits=Limits(request_s=60, stall_s=30, run_s=90),
        )
        return plan, client(plan)


def facts_of(columns: Columns) -> CollectorFacts:
    assert columns.facts is not None
    return columns.facts


def test_a_paced_load_is_not_blamed_on_the_client(calibration: Calibration) -> None:
    plan, columns = load(Schedule(ttft_us=50_000, itl_us=20_000, grid=True), streams=8, tokens=20)
    measured = measure(plan, columns, slo=Slo())
    assert measured.failures == {}
    assert bottleneck(facts_of(columns), measured, calibration) == ()


@pytest.mark.parametrize(
    ("client", "tokens"), [(run_load, 8_000), (run_asyncio, 1_000)], ids=["epoll", "asyncio"]
)
def test_a_flood_that_the_client_cannot_take_is_blamed_on_it(
    calibration: Calibration, client: Callable[[LoadPlan], Columns], tokens: int
) -> None:
    """32 events a write cost the server so little that the client has no idle moment.

    Unless others take the server's core: then the client waits for it, and a further flood tells.
    """
    flood = Schedule(ttft_us=0, itl_us=0, events_per_write=32)
    told: list[tuple[str, ...]] = []
    for _ in range(FLOODS):
        plan, columns = load(flood, streams=8, tokens=tokens, client=client)
        assert set(columns.ending) == {Ending.DONE}
        told.append(bottleneck(facts_of(columns), measure(plan, columns, slo=Slo()), calibration))
        if any("no idle moment" in one or "events/s came in" in one for one in told[-1]):
            return
    pytest.fail(f"none of {FLOODS} floods was the client's limit: {told}")
