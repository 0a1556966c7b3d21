"""Objectives of a profile: what may be written, and how a measurement is held against them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.measurement import Distribution, Percentile, Slo
from pytest_vllm.domain.objective import Held, hold_goodput, hold_latency, hold_rate
from pytest_vllm.domain.profile import build_profile
from pytest_vllm.domain.rounds import Mean, find_saturation, mean_of
from pytest_vllm.domain.slo import Bound, read_objectives

BOUND = Bound(metric="ttft", percentile="p50", most_ms=200.0)


def seen(value: float | None, low: float | None, high: float | None) -> Distribution:
    told = Percentile(value=value, low=low, high=high, needs=662)
    return Distribution(count=100, requests=100, percentiles={"p50": told})


def test_a_full_table_is_read() -> None:
    slo = build_profile(
        "mine.toml",
        {
            "schema": 1,
            "slo": {
                "ttft-p50": "200ms",
                "e2el-p99": "1.5min",
                "ttft-sched-p99.9": "2s",
                "output-tokens-per-s": 1000,
                "goodput": "99.5%",
                "concurrency": 16,
                "request": {"ttft": "500ms", "tpot": "900us"},
                "change": {"ttft-p50": "7%", "output-tokens-per-s": "2%"},
            },
        },
    ).slo
    assert [(bound.key, bound.most_ms) for bound in slo.latencies] == [
        ("ttft-p50", 200.0),
        ("e2el-p99", 90_000.0),
        ("ttft-sched-p99.9", 2_000.0),
    ]
    assert slo.latencies[2].metric == "ttft_sched"
    assert slo.rates == {"output_tokens_per_s": 1000.0}
    assert slo.goodput == pytest.approx(0.995)
    assert slo.request == Slo(ttft_ms=500.0, tpot_ms=0.9)
    assert slo.concurrency == 16
    assert slo.changes == {"ttft_p50_ms": 0.07, "output_tokens_per_s": 0.02}
    assert slo.declared


def test_nothing_is_asked_by_default() -> None:
    assert not build_profile("mine.toml", {"schema": 1}).slo.declared


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"tfft-p50": "1s"}, ("unknown key 'tfft-p50'", "did you mean ttft-p50?")),
        ({"ttft-p50": 200}, ("key ttft-p50 is 200", 'ttft-p50 = "200ms"')),
        ({"ttft-p50": "200"}, ("key ttft-p50 is '200'", "unit")),
        ({"ttft-p50": "-1ms"}, ("not a time above 0",)),
        ({"ttft-p50": "0s"}, ("not a time above 0",)),
        ({"output-tokens-per-s": "many"}, ("output-tokens-per-s is 'many'",)),
        ({"output-tokens-per-s": -1}, ("not a number above 0",)),
        ({"output-tokens-per-s": True}, ("not a number above 0",)),
        ({"goodput": "99%"}, ("key goodput", "[slo.request]")),
        ({"goodput": 0.9, "request": {"ttft": "1s"}}, ("not a share",)),
        ({"goodput": "101%", "request": {"ttft": "1s"}}, ("not a share",)),
        ({"concurrency": 2.5}, ("concurrency is 2.5",)),
        ({"request": {"itl": "1s"}}, ("[slo.request]", "unknown key 'itl'")),
        ({"request": []}, ("not a table",)),
        ({"change": {"ttft-p50": "200ms"}}, ("[slo.change]", "not a share")),
        ({"change": {"ttft": "5%"}}, ("[slo.change]", "unknown key 'ttft'")),
    ],
)
def test_a_wrong_table_names_file_and_key(table: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(TargetError) as caught:
        read_objectives("profile mine.toml", table)
    for word in ("profile mine.toml", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("distribution", "held", "words"),
    [
        (seen(150.0, 140.0, 160.0), Held.KEPT, "saw 150 ms (95 %: 140 ms to 160 ms)"),
        (seen(150.0, 140.0, 200.0), Held.KEPT, "at most 200 ms"),
        (seen(250.0, 240.0, 260.0), Held.MISSED, "saw 250 ms"),
        (seen(195.0, 180.0, 210.0), Held.CANNOT_TELL, "more rounds would tell"),
        (seen(150.0, 140.0, None), Held.CANNOT_TELL, "140 ms to open"),
        (seen(None, None, None), Held.CANNOT_TELL, "p50 needs 662 requests, there are 100"),
        (None, Held.CANNOT_TELL, "the load has no ttft"),
    ],
)
def test_a_percentile_is_held_with_its_whole_interval(
    distribution: Distribution | None, held: Held, words: str
) -> None:
    found = hold_latency(BOUND, distribution)
    assert found.held is held
    assert words in found.text


@given(
    low=st.floats(1, 1e6), width=st.floats(0, 1e6), bound=st.floats(1, 1e6), more=st.floats(1, 9)
)
def test_a_looser_bound_is_never_missed_where_a_tighter_one_is_kept(
    low: float, width: float, bound: float, more: float
) -> None:
    distribution = seen(low + width / 2, low, low + width)
    tight = hold_latency(Bound(metric="ttft", percentile="p50", most_ms=bound), distribution)
    loose = hold_latency(Bound(metric="ttft", percentile="p50", most_ms=bound * more), distribution)
    order = [Held.MISSED, Held.CANNOT_TELL, Held.KEPT]
    assert order.index(loose.held) >= order.index(tight.held)


@pytest.mark.parametrize(
    ("mean", "held"),
    [
        (Mean(value=110.0, low=101.0, high=119.0, rounds=5), Held.KEPT),
        (Mean(value=90.0, low=85.0, high=99.0, rounds=5), Held.MISSED),
        (Mean(value=110.0, low=95.0, high=125.0, rounds=5), Held.CANNOT_TELL),
        (Mean(value=110.0, low=None, high=None, rounds=1), Held.CANNOT_TELL),
        (None, Held.CANNOT_TELL),
    ],
)
def test_a_rate_is_held_with_its_interval_over_rounds(mean: Mean | None, held: Held) -> None:
    assert hold_rate("output_tokens_per_s", 100.0, mean).held is held


@pytest.mark.parametrize(
    ("good", "held"),
    [
        (200, Held.KEPT),
        (199, Held.KEPT),
        (181, Held.CANNOT_TELL),
        (150, Held.MISSED),
        (0, Held.MISSED),
    ],
)
def test_goodput_is_a_share_of_all_requests(good: int, held: Held) -> None:
    assert hold_goodput(0.9, good=good, issued=200).held is held


def test_the_mean_of_rounds_has_students_interval() -> None:
    """By hand: mean 10, s 1, t(.975, 4) = 2.776, half = 2.776 / sqrt(5) = 1.2415."""
    mean = mean_of([9.0, 9.0, 10.0, 11.0, 11.0])
    assert mean.value == pytest.approx(10.0)
    assert mean.low == pytest.approx(10 - 1.2415, abs=2e-3)
    assert mean.high == pytest.approx(10 + 1.2415, abs=2e-3)
    assert mean_of([3.0]).low is None
    assert mean_of([1.0, 100.0]).low == 0.0  # no figure of a load is below it


@pytest.mark.parametrize(
    ("throughput", "level", "reached"),
    [
        ({1: [10.0], 2: [20.0], 4: [39.0], 8: [40.0], 16: [40.5]}, 4, True),
        ({1: [10.0], 2: [20.0], 4: [40.0]}, 4, False),
        ({1: [10.0], 2: [9.0], 4: [8.0]}, 1, True),
    ],
)
def test_throughput_saturates_where_the_best_is_nearly_reached(
    throughput: dict[int, list[float]], level: int, *, reached: bool
) -> None:
    found = find_saturation(throughput)
    assert found is not None
    assert (found.concurrency, found.reached) == (level, reached)


def test_one_level_has_no_saturation() -> None:
    assert find_saturation({8: [1.0, 2.0]}) is None
