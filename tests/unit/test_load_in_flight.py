"""How many requests were in flight together."""

from __future__ import annotations

from array import array

from pytest_vllm.domain.load.columns import NEVER, Columns
from pytest_vllm.domain.load.in_flight import most_in_flight


def columns(*spans: tuple[int, int]) -> Columns:
    sent, ended = (array("q", times) for times in zip(*spans, strict=True))
    return Columns(send_ns=sent, end_ns=ended, finish_ns=100)


def test_requests_that_overlap_are_counted_together() -> None:
    assert most_in_flight(columns((1, 10), (2, 4), (3, 9), (5, 6))) == 3


def test_a_place_that_is_taken_over_is_one_place() -> None:
    assert most_in_flight(columns((1, 10), (10, 20), (20, 30))) == 1


def test_what_never_ended_is_in_flight_to_the_end_and_what_was_never_sent_is_not() -> None:
    assert most_in_flight(columns((1, NEVER), (50, 60), (NEVER, NEVER))) == 2
    assert most_in_flight(Columns()) == 0
