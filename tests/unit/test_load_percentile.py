"""Percentiles: exact ranks, exact intervals, and none that the sample cannot support."""

from __future__ import annotations

import random
from array import array
from fractions import Fraction
from math import comb, isqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vllm.domain.load.percentile import (
    PERMILLES,
    distribute,
    interval_ranks,
    needed,
    order,
    percentile,
    rank,
)

MS = 1_000_000


@pytest.mark.parametrize(
    ("permille", "requests"), [(500, 11), (900, 64), (950, 130), (990, 662), (999, 6636)]
)
def test_floors_are_those_of_mlperf(permille: int, requests: int) -> None:
    """MLPerf's table, and the exact probability by which it is made."""
    assert needed(permille) == requests

    def at_most_one_slower(count: int) -> Fraction:
        p = Fraction(permille, 1000)
        return p**count + count * (1 - p) * p ** (count - 1)

    assert at_most_one_slower(requests) <= Fraction(1, 100) < at_most_one_slower(requests - 1)


@pytest.mark.parametrize(
    ("permille", "count", "expected"),
    [
        *((500, 1, 1), (500, 2, 1), (500, 11, 6), (900, 100, 90), (950, 20, 19), (700, 10, 7)),
        *((990, 100, 99), (990, 1000, 990), (999, 1000, 999), (999, 1001, 1000)),
    ],
)
def test_nearest_rank(permille: int, count: int, expected: int) -> None:
    """No interpolation, and no rounding error: 0.7 * 10 is 7."""
    assert rank(permille, count) == expected


@pytest.mark.parametrize(
    ("count", "ranks"), [(10, (2, 9)), (20, (6, 15)), (50, (18, 33)), (100, (40, 61))]
)
def test_interval_of_the_median_is_that_of_the_tables(count: int, ranks: tuple[int, int]) -> None:
    """The usual table of the 95 % interval of a median (sign test)."""
    assert interval_ranks(500, count) == ranks


@pytest.mark.parametrize("permille", list(PERMILLES.values()))
@pytest.mark.parametrize("count", [1, 5, 6, 37, 64, 130, 201])
def test_interval_is_exact(permille: int, count: int) -> None:
    """Each side leaves out at most 2.5 %, and one rank further in would leave out more."""
    p, tail = Fraction(permille, 1000), Fraction(25, 1000)
    chances = [comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(count + 1)]
    low, high = interval_ranks(permille, count)
    if low is not None:
        assert sum(chances[:low]) <= tail
    inner = 1 if low is None else low + 1
    assert inner > count or sum(chances[:inner]) > tail
    if high is not None:
        assert sum(chances[high:]) <= tail
    outer = count if high is None else high - 1
    assert sum(chances[outer:]) > tail


def test_interval_covers_what_it_says() -> None:
    """Of intervals of the p90 of 200 skewed values, at least 95 % hold the true one."""
    rng = random.Random(7)  # noqa: S311 - not for secrets
    true = 2.302585092994046  # of the exponential distribution
    low, high = interval_ranks(900, 200)
    assert low is not None
    assert high is not None
    held = 0
    for _ in range(1000):
        values = sorted(rng.expovariate(1.0) for _ in range(200))
        held += values[low - 1] <= true <= values[high - 1]
    assert held >= 950 - 2 * isqrt(50)


def test_refused_below_the_floor() -> None:
    ordered = [float(n) for n in range(661)]
    assert percentile(ordered, 990, count=661, requests=661).value is None
    told = percentile([*ordered, 661.0], 990, count=662, requests=662)
    assert (told.value, told.needs) == (655.0, 662)
    assert told.low is not None
    assert told.low < 655.0


def test_many_values_of_few_requests_support_nothing() -> None:
    """100,000 gaps of ten requests are ten requests."""
    told = distribute(list(range(100_000)), requests=10)
    assert {name: one.value for name, one in told.percentiles.items()} == dict.fromkeys(PERMILLES)
    assert told.adjusted == {}


def test_interval_of_pooled_values_is_that_of_the_requests() -> None:
    """The ranks 40 and 61 of 100 requests, laid outwards over 10 gaps each."""
    told = percentile([float(n) for n in range(1, 1001)], 500, count=1000, requests=100)
    assert (told.low, told.value, told.high) == (391.0, 500.0, 610.0)


def test_adjusted_takes_a_failed_request_as_infinite() -> None:
    values = [n * MS for n in range(1, 101)]
    told = distribute(values, requests=100, failed=20)
    assert told.percentiles["p50"].value == 50.0
    assert told.adjusted["p50"] == 60.0
    assert told.adjusted["p90"] is None
    assert "p95" not in told.adjusted


def test_failures_weigh_as_much_as_a_request_among_pooled_values() -> None:
    told = distribute([n * MS for n in range(1, 1001)], requests=100, failed=20)
    assert told.adjusted["p50"] == 600.0


def test_nothing_says_what_it_would_need() -> None:
    told = distribute([], requests=0, failed=3)
    assert told.mean is None
    assert told.percentiles["p99"].needs == 662


@settings(max_examples=30)
@given(st.lists(st.integers(0, 10**12), min_size=11, max_size=150), st.randoms())
def test_order_does_not_matter_and_percentiles_rise(
    values: list[int], shuffler: random.Random
) -> None:
    told = distribute(values, requests=len(values))
    shuffled = list(values)
    shuffler.shuffle(shuffled)
    assert distribute(shuffled, requests=len(values)) == told
    known = [one.value for one in told.percentiles.values() if one.value is not None]
    assert known == sorted(known)
    assert told.least is not None
    assert told.most is not None
    assert all(told.least <= value <= told.most for value in known)
    for one in told.percentiles.values():
        if one.value is not None:
            assert one.value * MS == pytest.approx(round(one.value * MS))  # a value of the sample
            assert one.low is None or one.low <= one.value
            assert one.high is None or one.value <= one.high


@settings(max_examples=30)
@given(st.lists(st.integers(0, 10**9), min_size=11, max_size=150), st.integers(1, 50))
def test_more_failures_never_lower_an_adjusted_percentile(values: list[int], failed: int) -> None:
    """`None` is infinite."""
    few = distribute(values, requests=len(values), failed=failed)
    more = distribute(values, requests=len(values), failed=failed + 1)
    for name, value in few.adjusted.items():
        plain = few.percentiles[name].value
        if plain is not None:
            assert value is None or value >= plain
        after = more.adjusted[name]
        assert after is None or (value is not None and after >= value)


MANY = 100_001
"""More values than are sorted at once."""


@pytest.mark.parametrize(
    "values",
    [
        array("q", (n * 7919 % 1_000_003 for n in range(MANY))),
        array("q", [5] * MANY),
        array("q", [*range(MANY - 1), 10**15]),
        array("d", (n * 7919 % 1_000_003 / 7 for n in range(MANY))),
        array("q", (-n for n in range(MANY))),
    ],
    ids=["spread", "all the same", "one far off", "fractions", "below zero"],
)
def test_many_values_are_not_sorted_and_yet_exact(values: array[int] | array[float]) -> None:
    places = {0, 1, 50_000, 99_000, 99_001, MANY - 1}
    found, ordered = order(values, places), sorted(values)
    assert {place: found[place] for place in places} == {p: ordered[p] for p in places}
