"""The steady window: from the first to the last instant at 90 % of the aimed-at concurrency."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_vllm.domain.load.columns import Ending
from pytest_vllm.domain.load.failures import sort
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.steady import Window, steady_window
from tests.unit.load_columns import BEGIN_NS, MS, Row, load


def window(*rows: Row, concurrency: int = 1) -> tuple[float, float, Window]:
    plan, columns = load(*rows, concurrency=concurrency)
    found = steady_window(plan, columns, sort(plan, columns))
    return (found.begin_ns - BEGIN_NS) / MS, (found.end_ns - BEGIN_NS) / MS, found


def span(begin: float, end: float, **more: object) -> Row:
    return replace(Row(send=begin, events=(end,), end=end), **more)  # type: ignore[arg-type]


def test_between_ramp_and_tail() -> None:
    """Ten places, filled one every 10 ms and given back so: nine of ten from 80 to 1010 ms."""
    rows = [span(10 * n, 1000 + 10 * n) for n in range(10)]
    begin, end, found = window(*rows, concurrency=10)
    assert (begin, end) == (80, 1010)
    assert (found.target, found.most, found.reached) == (10, 10, True)


def test_a_dip_in_between_is_within() -> None:
    begin, end, _ = window(
        span(0, 100), span(0, 100), span(300, 500), span(300, 500), concurrency=2
    )
    assert (begin, end) == (0, 500)


def test_a_place_given_back_and_taken_at_once() -> None:
    begin, end, _ = window(span(0, 100), span(100, 200))
    assert (begin, end) == (0, 200)


def test_failed_requests_hold_their_place() -> None:
    begin, end, _ = window(span(0, 500, ending=Ending.TIMEOUT), span(0, 300), concurrency=2)
    assert (begin, end) == (0, 300)


def test_warm_up_holds_none() -> None:
    """It begins when measured requests have the places."""
    warm = span(0, 100, warm_up=True)
    begin, end, _ = window(warm, warm, span(90, 300), span(100, 290), concurrency=2)
    assert (begin, end) == (100, 290)


def test_a_conversation_holds_its_place_between_turns() -> None:
    """The user thinks from 100 to 400 ms; nobody else may take the place."""
    turn = span(400, 500, after=0)
    other = span(0, 500)
    begin, end, _ = window(span(0, 100), other, turn, concurrency=2)
    assert (begin, end) == (0, 500)
    begin, end, _ = window(span(0, 100), other, replace(turn, after=None), concurrency=2)
    assert (begin, end) == (0, 500)
    late = span(200, 500)
    begin, _, _ = window(span(0, 100), late, turn, concurrency=2)
    assert begin == 200
    begin, _, _ = window(span(0, 100), late, replace(turn, after=None), concurrency=2)
    assert begin == 400


def test_too_few_requests_for_the_places() -> None:
    """There is no steady state to speak of, and the rates say that they are of the whole load."""
    plan, columns = load(span(0, 100), span(10, 130), concurrency=8)
    measured = measure(plan, columns)
    assert not measured.steady
    assert measured.window_s == pytest.approx(0.13)
    assert any("at most 2 measured requests were in flight" in flag for flag in measured.flags)
    assert measured.figures["requests_per_s"] == measured.figures["requests_per_s_whole"]


def test_shorter_than_three_requests() -> None:
    rows = [span(100 * n, 100 * n + 100) for n in range(12)]
    assert measure(*load(*rows)).steady
    short = [span(0, 100) for _ in range(12)]
    measured = measure(*load(*short, concurrency=12))
    assert not measured.steady
    assert any("shorter than 3 times the median request" in flag for flag in measured.flags)


def test_open_loop_is_measured_at_its_usual_height() -> None:
    """One arrival every 100 ms, each for 350 ms: three or four in flight once it has risen."""
    rows = [span(100 * n, 100 * n + 350, due=100 * n, opened=True) for n in range(40)]
    begin, end, found = window(*rows, concurrency=0)
    assert found.target in (3, 4)
    assert begin in (200, 300)
    assert 3900 <= end <= 4250


def test_a_rare_open_loop_is_steady_from_first_to_last() -> None:
    """Mostly nobody is in flight; that is its height."""
    rows = [span(1000 * n, 1000 * n + 10, due=1000 * n, opened=True) for n in range(20)]
    begin, end, found = window(*rows, concurrency=0)
    assert (begin, end, found.target) == (0, 19_010, 1)
