"""Objectives that a sample must be large enough for, and those that it can never show."""

from __future__ import annotations

import pytest

from pytest_vllm.domain.objective import Held, hold_goodput, hold_latency, requests_to_tell
from pytest_vllm.domain.slo import Bound


@pytest.mark.parametrize(
    ("least", "share"), [(0.99, 1.0), (0.9, 1.0), (0.9, 0.95), (0.9, 0.85), (0.5, 0.6)]
)
def test_so_many_requests_tell_and_no_fewer(least: float, share: float) -> None:
    """381 that are all good show 99 %; a dozen do not."""
    needs = requests_to_tell(least, share=share)
    few = hold_goodput(least, good=round(share * 20), issued=20)
    assert few.held is Held.CANNOT_TELL
    assert f"{needs:,} requests with this share would tell" in few.text
    # Whole numbers of good requests are not quite the share, so a few more or fewer are looked at.
    slack = 0 if share == 1 else round(needs * 0.2)
    more, fewer = needs + slack, needs - slack - 1
    assert hold_goodput(least, good=round(share * more), issued=more).held is (
        Held.KEPT if share > least else Held.MISSED
    )
    assert hold_goodput(least, good=round(share * fewer), issued=fewer).held is Held.CANNOT_TELL


def test_a_goodput_of_all_is_kept_by_all_and_missed_by_one_fewer() -> None:
    assert hold_goodput(1.0, good=5, issued=5).held is Held.KEPT
    assert hold_goodput(1.0, good=4, issued=5).held is Held.MISSED


def test_a_share_that_is_just_the_bound_is_told_by_no_number() -> None:
    assert requests_to_tell(0.9, share=0.9) == 0
    assert "it is just that share" in hold_goodput(0.9, good=90, issued=100).text


def test_a_latency_from_the_schedule_needs_a_rate() -> None:
    found = hold_latency(Bound(metric="ttft_sched", percentile="p99", most_ms=1.0), None)
    assert found.held is Held.CANNOT_TELL
    assert "use ttft-p99, or a load with a rate" in found.text


def test_goodput_is_decided_no_surer_than_rounds_differ() -> None:
    """Shares of three rounds of an H100: 22 % of 3840 requests, and half of them may be good."""
    shares = (0.055, 0.359, 0.251)
    assert hold_goodput(0.5, good=852, issued=3840).held is Held.MISSED
    found = hold_goodput(0.5, good=852, issued=3840, rounds=shares)
    assert found.held is Held.CANNOT_TELL
    assert found.text.endswith("(95 %: 0.0% to 60.4%): more rounds would tell")
    assert hold_goodput(0.7, good=852, issued=3840, rounds=shares).held is Held.MISSED
    assert hold_goodput(0.99, good=381, issued=381, rounds=(1.0, 1.0, 1.0)).held is Held.KEPT
