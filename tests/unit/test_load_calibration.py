"""When the client was the limit of a load, and when a busy host is no reason to say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_vllm.domain.load.calibration import (
    BEHIND,
    BUSY,
    LATE,
    LEAST_ERROR_TAIL_US,
    LEAST_ERROR_US,
    LEAST_LATE_TAIL_US,
    LEAST_LATE_US,
    NEAR_CAPACITY,
    RAN,
    SLEW,
    STEP_NS,
    TAIL,
    TYPICAL,
    Calibration,
    bottleneck,
    held_back,
)
from pytest_vllm.domain.load.columns import CollectorFacts
from pytest_vllm.domain.load.measurement import Distribution, Measurement

# 64 streams of a GPU: 20 ms a token, seen by the collector on an idle host.
FACTS = CollectorFacts(
    path="epoll",
    clock="kernel",
    cpu_s=1.6,
    wall_s=30.0,
    peak_rss_bytes=20_000_000,
    reads=96_000,
    coalesced_reads=300,
    events=96_000,
    lateness_ns=(40_000, 400_000, 6_000_000),
    clock_shift_ns=30_000,
    wait_s=0.4,
)
CALIBRATION = Calibration(
    path="epoll",
    clock="kernel",
    streams=64,
    asked_events_per_s=3200.0,
    events_per_s=3200.0,
    events=6400,
    ttft_error_p50_us=6.0,
    ttft_error_p99_us=48.0,
    itl_error_p50_us=3.0,
    itl_error_p99_us=40.0,
    cpu_share=0.06,
    cpu_us_per_event=18.0,
    wait_share=0.01,
    coalesced_share=0.001,
    lateness_p50_us=50.0,
    lateness_p99_us=400.0,
    capacity_events_per_s=190_000.0,
    flood_events_per_s=70_000.0,
    peak_rss_bytes=20_000_000,
    seconds=3.0,
    requests=704,
)
FIGURES = {
    "ttft_p50_ms": 150.0,
    "ttft_p99_ms": 260.0,
    "ttft_sched_p50_ms": 151.0,
    "ttft_sched_p99_ms": 262.0,
    "tpot_p50_ms": 20.0,
    "icl_p99_ms": 30.0,
    "e2el_p50_ms": 2700.0,
    "e2el_p99_ms": 2900.0,
}
EMPTY = Distribution(count=0, requests=0)


def measurement(*, open_loop: bool = False, **figures: float) -> Measurement:
    told = {"ttft_sched": EMPTY} if open_loop else {}
    return Measurement(distributions=told, figures=FIGURES | figures, requests=800)


def test_a_sound_run_is_not_blamed_on_the_client() -> None:
    assert bottleneck(FACTS, measurement(), CALIBRATION) == ()
    assert bottleneck(FACTS, measurement(open_loop=True), CALIBRATION) == ()
    assert bottleneck(FACTS, measurement(), None) == ()


def test_a_server_that_takes_every_core_is_no_fault_of_the_client() -> None:
    """Beside vLLM on the CPU the client waits at each wake-up, and some reads catch up."""
    beside = replace(
        FACTS,
        events=2_400,
        reads=2_300,
        cpu_s=0.3,
        wait_s=27.5,
        coalesced_reads=100,
        lateness_ns=(9_000_000, 19_000_000, 40_000_000),
    )
    assert bottleneck(beside, measurement(), CALIBRATION) == ()
    assert bottleneck(beside, measurement(open_loop=True), CALIBRATION) == ()


def test_a_server_that_writes_several_events_at_once_is_no_fault_of_the_client() -> None:
    bursts = replace(FACTS, reads=12_000, coalesced_reads=12_000)
    assert bottleneck(bursts, measurement(icl_p50_ms=0.004), CALIBRATION) == ()


def test_a_fast_server_is_not_held_to_the_write_of_another() -> None:
    """An error of some microseconds is that of the truth server's own write."""
    fast = measurement(tpot_p50_ms=0.05, icl_p99_ms=0.4, ttft_p50_ms=0.6, ttft_p99_ms=1.5)
    assert bottleneck(FACTS, fast, CALIBRATION) == ()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"cpu_s": 28.0}, "no idle moment: it ran for 93%"),
        ({"cpu_s": 16.0, "wait_s": 13.0}, "ran for 53% of the load and waited for a core for 43%"),
        (
            {"cpu_s": 9.0, "wait_s": 20.0, "reads": 30_000, "coalesced_reads": 20_000},
            "67% of its reads brought several events",
        ),
        ({"events": 4_800_000}, "160,000 events/s came in"),
        ({"lateness_ns": (300_000_000, 300_000_000, 10**9)}, "p50 300.0 ms after they were due"),
        ({"clock_shift_ns": -40_000_000}, "clock was set during the load, by -40.0 ms"),
    ],
)
def test_each_limit_of_the_client_is_told(facts: dict[str, object], words: str) -> None:
    """All but a clock that was set make the load less than what was asked for."""
    changed = replace(FACTS, **facts)  # type: ignore[arg-type]
    (reason,) = bottleneck(changed, measurement(), CALIBRATION)
    assert words in reason
    held = held_back(changed, measurement(), CALIBRATION)
    assert held == (() if "clock_shift_ns" in facts else (reason,))


def test_late_sends_count_against_what_they_are_part_of() -> None:
    """18 ms are nothing beside a reply of seconds, but much of a TTFT from the schedule."""
    late = replace(FACTS, lateness_ns=(18_000_000, 90_000_000, 100_000_000))
    assert bottleneck(late, measurement(), CALIBRATION) == ()
    (reason,) = bottleneck(late, measurement(open_loop=True), CALIBRATION)
    assert "10% of ttft_sched p50 (151.0 ms)" in reason
    tail = replace(FACTS, lateness_ns=(40_000, 90_000_000, 100_000_000))
    (reason,) = bottleneck(tail, measurement(open_loop=True), CALIBRATION)
    assert "p99 90.0 ms after they were due" in reason


def test_a_clock_without_the_kernel_is_held_to_its_error() -> None:
    """On the asyncio path each wait for a core is in the times."""
    calibration = replace(
        CALIBRATION,
        path="asyncio",
        clock="user",
        ttft_error_p50_us=9_000.0,
        itl_error_p50_us=2_500.0,
        itl_error_p99_us=17_000.0,
    )
    user = replace(FACTS, path="asyncio", clock="user", wait_s=0.1)
    reasons = bottleneck(user, measurement(), calibration)
    assert ["ttft p50" in reasons[0], "tpot p50" in reasons[1], "icl p99" in reasons[2]] == [
        True
    ] * 3
    waiting = replace(FACTS, clock="user", wait_s=20.0, reads=9_600, events=9_600)
    (reason,) = bottleneck(waiting, measurement(), replace(CALIBRATION, clock="user"))
    assert "waited 2,083 us for a core before each read" in reason


def test_one_bad_moment_of_a_calibration_decides_nothing() -> None:
    """The p99 of 32 first tokens is the latest of them, and a busy host makes one late."""
    rough = {"ttft_error_p99_us": 90_000.0, "itl_error_p99_us": 20_000.0}
    (ttft, icl) = bottleneck(FACTS, measurement(), replace(CALIBRATION, **rough))  # type: ignore[arg-type]
    assert ("ttft p99" in ttft, "icl p99" in icl) == (True, True)
    assert held_back(FACTS, measurement(), replace(CALIBRATION, **rough)) == ()  # type: ignore[arg-type]
    few = replace(CALIBRATION, requests=32, **rough)  # type: ignore[arg-type]
    assert bottleneck(FACTS, measurement(), few) == ()
    typical = replace(few, ttft_error_p50_us=9_000.0)
    assert len(bottleneck(FACTS, measurement(), typical)) == 1
    assert bottleneck(FACTS, measurement(), replace(typical, requests=10)) == ()


def test_a_calibration_that_failed_is_none() -> None:
    (reason,) = bottleneck(FACTS, measurement(), replace(CALIBRATION, failed=3))
    assert "3 of its requests to the truth server of this host failed" in reason


def test_a_calibration_of_another_path_says_nothing() -> None:
    https = replace(FACTS, path="asyncio", clock="user")
    (reason,) = bottleneck(https, measurement(), CALIBRATION)
    assert "calibrated on the epoll path with the kernel clock" in reason
    assert "its own error is unknown" in reason


def test_a_sample_too_small_for_a_median_is_held_by_its_mean() -> None:
    small = Measurement(
        distributions={"ttft": replace(EMPTY, count=3, requests=3, mean=0.8)},
        figures={},
        requests=3,
    )
    rough = replace(CALIBRATION, ttft_error_p50_us=300.0)
    (reason,) = bottleneck(FACTS, small, rough)
    assert "ttft p50 (0.80 ms)" in reason


def test_the_page_has_the_limits_of_the_code() -> None:
    """Whoever changes a limit changes what users read of it."""
    page = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")
    rows = dict(line.strip("| ").split(" | ", 1) for line in page.splitlines() if " | " in line)
    limits = {
        "no idle moment": [f"for {BUSY:.0%}", f"ran for {RAN:.0%}", f"with {BEHIND:.0%}"],
        "near its capacity": [f"{NEAR_CAPACITY:.0%}"],
        "late sends, open loop": [
            f"p50 over {LATE:.0%}",
            f"{LEAST_LATE_US / 1e3:.0f} ms",
            f"p99 over {TAIL:.0%}",
            f"{LEAST_LATE_TAIL_US / 1e3:.0f} ms",
        ],
        "late sends, closed loop": [f"p50 over {LATE:.0%}", f"{LEAST_LATE_US / 1e3:.0f} ms"],
        "error of its clock": [
            f"p50 over {TYPICAL:.0%}",
            f"{LEAST_ERROR_US:.0f} us",
            f"p99 over {TAIL:.0%}",
            f"{LEAST_ERROR_TAIL_US:.0f} us",
        ],
        "no kernel times, and short of CPU": [f"{TYPICAL:.0%}", f"{LEAST_ERROR_US:.0f} us"],
        "clock was set": [f"{SLEW * 1e6:.0f} ppm", f"{STEP_NS / 1e6:.0f} ms"],
    }
    missing = {row: one for row, told in limits.items() for one in told if one not in rows[row]}
    assert missing == {}
