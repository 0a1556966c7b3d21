"""What must be the same or sound for figures to be compared, each named."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.domain.comparable import Conditions, obstacles

FACTS = {"GPUs": "8x MI300X", "driver": "6.14", "model": "m", "workload": "chat", "tokenizer": ""}


def side(**changes: Any) -> Conditions:
    fields: dict[str, Any] = {
        "facts": FACTS,
        "requests": 2000,
        "failed": 0,
        "output_tokens": 256_000,
        "seconds": 60.0,
    }
    return Conditions(**{**fields, **changes})


def test_alike_sides_may_be_compared() -> None:
    assert obstacles(side(), side()) == ()
    assert obstacles(side(), side(failed=2, output_tokens=255_800)) == ()
    assert obstacles(Conditions(), Conditions()) == ()


@pytest.mark.parametrize(
    ("name", "now"), [("GPUs", "4x MI300X"), ("driver", "7.0"), ("model", "n")]
)
def test_another_fact_is_named_with_both_values(name: str, now: str) -> None:
    (found,) = obstacles(side(), side(facts={**FACTS, name: now}))
    assert found == f"other {name}: {FACTS[name]} of the base, {now} of the candidate"
    assert obstacles(side(), side(facts={**FACTS, name: now}), on_purpose={name}) == ()


def test_what_one_side_does_not_know_is_not_compared() -> None:
    assert obstacles(side(), side(facts={**FACTS, "tokenizer": "abc"})) == ()
    assert obstacles(side(), side(facts={})) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"failed": 3}, "3 of 2000 requests of this run failed, at most 0.1 % may"),
        (
            {"limits": ("its CPU was full",)},
            "the client was the limit of this run: its CPU was full",
        ),
        ({"clock_shift_s": -0.25}, "the clock was set during a run of this run, by -250.0 ms"),
        (
            {"output_tokens": 250_000},
            (
                "other output: 128 tokens a request of the baseline, 125 of this run, "
                "so they did not do the same work"
            ),
        ),
    ],
)
def test_what_is_unsound_on_one_side_is_named(changes: dict[str, Any], words: str) -> None:
    assert obstacles(side(), side(**changes), names=("the baseline", "this run")) == (words,)


def test_a_slewed_clock_is_no_step() -> None:
    """The kernel slews by 500 us a second at most: 30 ms in a minute is no step, 31 ms is one."""
    assert obstacles(side(), side(clock_shift_s=0.030)) == ()
    assert len(obstacles(side(), side(clock_shift_s=0.031))) == 1


def test_every_obstacle_is_named() -> None:
    bad = side(facts={**FACTS, "model": "n", "GPUs": "1x MI250"}, failed=200, limits=("slow",))
    assert len(obstacles(side(), bad)) == 4
