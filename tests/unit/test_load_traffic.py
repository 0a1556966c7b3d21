"""When requests are due: sources of the formulas, the same times for the same seed, bad figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.measurement import Distribution, Measurement, Percentile
from pytest_vllm.domain.load.orders import (
    hold,
    level_name,
    read_slo,
    read_traffic_levels,
    traffic_words,
)
from pytest_vllm.domain.load.traffic import Pattern, Traffic, arrivals, describe, read_traffic
from pytest_vllm.domain.objective import Held

NS = 1_000_000_000
OPEN = Traffic(pattern=Pattern.POISSON, rate_per_s=50, requests=2000)
UNSAID = dict.fromkeys(
    ("concurrency", "rate", "pattern", "burstiness", "speed", "requests", "warm_up", "ramp")
) | {"sweep": None, "seed": 0, "normalized": False}


def gaps(traffic: Traffic) -> list[float]:
    times = arrivals(traffic)
    return [(after - before) / NS for before, after in pairwise(times)]


def test_a_closed_loop_has_no_times() -> None:
    assert arrivals(Traffic(concurrency=4)) == ()


def test_a_constant_rate_is_exact_and_begins_at_once() -> None:
    traffic = Traffic(pattern=Pattern.CONSTANT, rate_per_s=4, requests=3, warm_up=2)
    assert arrivals(traffic) == (0, NS // 4, NS // 2, 3 * NS // 4, NS)


def test_poisson_gaps_have_their_mean_as_deviation_and_no_memory() -> None:
    found = gaps(OPEN)
    assert fmean(found) == pytest.approx(1 / 50, rel=0.1)
    assert pstdev(found) == pytest.approx(1 / 50, rel=0.1)
    share = sum(gap > 1 / 50 for gap in found) / len(found)
    assert share == pytest.approx(math.exp(-1), abs=0.04)  # of an exponential distribution


@pytest.mark.parametrize("shape", [0.25, 4.0])
def test_gamma_gaps_vary_by_the_burstiness(shape: float) -> None:
    """Their coefficient of variation is 1 / sqrt(shape)."""
    traffic = replace(OPEN, pattern=Pattern.GAMMA, burstiness=shape)
    found = gaps(traffic)
    assert fmean(found) == pytest.approx(1 / 50, rel=0.15)
    assert pstdev(found) / fmean(found) == pytest.approx(1 / math.sqrt(shape), rel=0.15)


def test_normalized_arrivals_end_when_the_rate_says() -> None:
    times = arrivals(replace(OPEN, normalized=True))
    assert times[-1] == 2000 * NS // 50
    plain = arrivals(OPEN)
    assert times[0] / times[-1] == pytest.approx(plain[0] / plain[-1])  # stretched, nothing else


def test_a_ramp_rises_as_a_straight_line_to_the_rate() -> None:
    """By t it has had rate t^2 / (2 ramp) requests, and the whole rate after it."""
    traffic = Traffic(pattern=Pattern.CONSTANT, rate_per_s=10, ramp_s=4, requests=61)
    times = [time / NS for time in arrivals(traffic)]
    assert times[5] == pytest.approx(2.0)  # 10 * 2^2 / 8 = 5 gaps
    assert times[20] == pytest.approx(4.0)  # 10 * 4^2 / 8 = 20 gaps: the end of the ramp
    assert times[30] == pytest.approx(5.0)  # ten a second from then on
    assert times[60] == pytest.approx(8.0)


def test_a_trace_is_sent_as_recorded_from_its_first_row_on() -> None:
    traffic = Traffic(pattern=Pattern.TRACE, requests=2, warm_up=1, speed=2)
    assert arrivals(traffic, recorded_ns=[5 * NS, 6 * NS, 9 * NS]) == (0, NS // 2, 2 * NS)


@pytest.mark.parametrize(
    ("recorded", "said"), [([0, NS], "has 2 requests, and 3"), ([0, NS, 5], "row 3 of the trace")]
)
def test_a_trace_that_is_short_or_unsorted_is_refused(recorded: list[int], said: str) -> None:
    traffic = Traffic(pattern=Pattern.TRACE, requests=3)
    with pytest.raises(TargetError, match=said):
        arrivals(traffic, recorded_ns=recorded)


@given(
    pattern=st.sampled_from([Pattern.CONSTANT, Pattern.POISSON, Pattern.GAMMA]),
    rate=st.floats(0.01, 1e4),
    requests=st.integers(1, 50),
    ramp_s=st.floats(0, 100),
    seed=st.integers(),
)
def test_times_never_go_back_and_come_again_from_the_record(
    pattern: Pattern, rate: float, requests: int, ramp_s: float, seed: int
) -> None:
    traffic = Traffic(pattern=pattern, rate_per_s=rate, requests=requests, ramp_s=ramp_s, seed=seed)
    times = arrivals(traffic)
    assert len(times) == requests
    assert all(0 <= before <= after for before, after in pairwise(times))
    recorded = json.loads(json.dumps(describe(traffic)))
    assert arrivals(read_traffic(recorded)) == times


def test_another_seed_gives_other_times() -> None:
    assert arrivals(OPEN) != arrivals(replace(OPEN, seed=1))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"patern": "closed"}, "no key 'patern'; did you mean pattern"),
        ({"pattern": "poison"}, "no pattern 'poison'; did you mean poisson"),
        ({"pattern": "poisson"}, "poisson has no rate"),
        ({"concurrency": 0}, "no places"),
        ({"concurrency": 2, "rate_per_s": 1}, "closed takes no rate"),
        ({"concurrency": 2, "requests": 0}, "at least one request"),
        ({"concurrency": 2, "warm_up": -1}, "negative"),
        ({"concurrency": 2, "requests": 1.5}, "wrong type"),
        ({"concurrency": True}, "wrong type"),
        ({"concurrency": 2, "burstiness": 0.5}, "does nothing"),
        ({"concurrency": 2, "normalized": True}, "does nothing"),
        ({"pattern": "gamma", "rate_per_s": 1, "burstiness": 0}, "no gamma"),
        ({"pattern": "poisson", "rate_per_s": math.inf}, "not finite"),
        ({"pattern": "trace", "ramp_s": 1}, "no ramp"),
    ],
)
def test_bad_figures_are_named(table: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        read_traffic(table)


# --- options of the verb --------------------------------------------------------------------------


def levels(**options: Any) -> tuple[Traffic, ...]:
    return read_traffic_levels(UNSAID | options)


def test_what_nobody_says_is_a_closed_loop_of_eight() -> None:
    (level,) = levels()
    assert (level.pattern, level.concurrency, level.requests) == (Pattern.CLOSED, 8, 80)
    assert level.warm_up == 8


def test_a_rate_alone_is_poisson_and_its_requests_follow_from_it() -> None:
    (level,) = levels(rate=4.0, concurrency=100)
    assert (level.pattern, level.requests, level.concurrency) == (Pattern.POISSON, 120, 100)
    assert traffic_words(level) == "4 a second, poisson, at most 100 in flight"


def test_a_sweep_has_a_level_each_with_requests_of_its_size() -> None:
    found = levels(sweep="1,16")
    assert [(level.concurrency, level.requests) for level in found] == [(1, 64), (16, 160)]
    assert [level_name(level) for level in found] == ["1", "16"]
    rates = levels(sweep="0.5,2", pattern="constant", requests=7)
    assert [(level.rate_per_s, level.requests) for level in rates] == [(0.5, 7), (2.0, 7)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sweep": "1,x"}, "--sweep: cannot read"),
        ({"sweep": "1,1"}, "twice"),
        ({"sweep": "1.5"}, "1.5 requests at a time"),
        ({"sweep": "2", "concurrency": 4}, "--concurrency another"),
        ({"sweep": "2", "pattern": "poisson", "rate": 4.0}, "--rate another"),
        ({"sweep": "2", "pattern": "trace"}, "no levels"),
        ({"pattern": "posson"}, "did you mean poisson"),
        ({"burstiness": 0.5}, "gamma has no rate"),
        ({"concurrency": 0}, "no places"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        levels(**options)


def measured(values: dict[str, Percentile], good: float) -> Measurement:
    ttft = Distribution(count=100, requests=100, percentiles=values)
    return Measurement(distributions={"ttft": ttft}, figures={"goodput_share": good}, requests=100)


@pytest.mark.parametrize(
    ("text", "good", "held"),
    [
        ("ttft=200ms", 1.0, Held.CANNOT_TELL),  # of 100 requests
        ("ttft=200ms,goodput=90%", 1.0, Held.KEPT),
        ("ttft=200ms,goodput=90%", 0.5, Held.MISSED),
        ("ttft=200ms", 0.99, Held.CANNOT_TELL),
        ("ttft-p50=100ms", 0.0, Held.KEPT),
        ("ttft-p50=50ms", 0.0, Held.CANNOT_TELL),
        ("ttft-p50=30ms", 0.0, Held.MISSED),
        ("ttft-p99=9s", 0.0, Held.CANNOT_TELL),
        ("tpot-p50=9s", 0.0, Held.CANNOT_TELL),
    ],
)
def test_objectives_are_kept_missed_or_untold(text: str, good: float, held: Held) -> None:
    measurement = measured(
        {"p50": Percentile(value=50, low=40, high=60), "p99": Percentile(value=None, needs=662)},
        good,
    )
    assert [finding.held for finding in hold(read_slo(text), measurement)] == [held]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttft", "cannot read 'ttft'"),
        ("", "asks for nothing"),
        ("tttft=1s", "'tttft'; did you mean ttft"),
        ("concurrency=5", "no 'concurrency'"),
        ("ttft=20", "not a time"),
        ("goodput=95%", "what a good one is"),
        ("output-tokens-per-s=5", "one load cannot tell"),
    ],
)
def test_bad_objectives_are_named(text: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        read_slo(text)


def test_nothing_is_asked_when_nothing_is_said() -> None:
    assert hold(read_slo(None), measured({}, 0.0)) == ()
