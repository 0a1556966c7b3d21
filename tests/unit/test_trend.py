"""Whether rounds take longer and longer: what is a trend, and what is noise."""

from __future__ import annotations

import math
import random

import pytest

from pytest_vllm.domain.rounds import slows_down, still_slows_down, trend_by_chance

FACTOR, SUSPECTED, SURE = 1.5, 0.05, 0.001
"""As the suite `performance` has them."""


@pytest.mark.parametrize(
    ("seconds", "slower"),
    [
        ([1.0, 1.1, 1.3, 1.7, 1.9], True),
        ([1.0, 1.1, 1.2, 1.3, 1.4], False),
        ([1.0, 1.1, 1.05, 1.7, 1.9], True),
        ([1.1, 1.0, 1.05, 1.7, 1.9], False),
        ([1.0, 1.3, 1.6, 2.0], False),
        ([1.0, 1.1, 1.3, 1.2, 1.8, 2.0], True),
        ([1.0, 1.1, 1.3, 1.4, 1.6, 9.0], False),
    ],
)
def test_only_a_steady_growth_of_half_slows_down(seconds: list[float], *, slower: bool) -> None:
    assert slows_down(seconds, factor=FACTOR, chance=SUSPECTED) is slower


@pytest.mark.parametrize(("rounds", "noise"), [(6, 0.02), (8, 0.05), (60, 0.02), (60, 0.1)])
def test_noise_does_not_hide_that_rounds_get_slower(rounds: int, noise: float) -> None:
    """A minute that becomes three is found among 60 rounds, where no two neighbours are sure."""
    chance = random.Random(f"{rounds} {noise}")  # noqa: S311 - noise
    for _ in range(100):
        grows = [60 * (1 + 2 * n / (rounds - 1)) for n in range(rounds)]
        took = [s * (1 + chance.gauss(0, noise)) for s in grows]
        assert slows_down(took, factor=FACTOR, chance=SUSPECTED)
        assert still_slows_down(took, (190.0, 195.0, 192.0), factor=FACTOR, chance=SURE)


@pytest.mark.parametrize("rounds", [5, 6, 8, 10, 60])
def test_a_host_whose_noise_lasts_does_not_slow_down(rounds: int) -> None:
    """AR(1) of 10 % with 0.8 from round to round, and a round that takes five times as long."""
    chance = random.Random(rounds)  # noqa: S311 - noise
    suspected = rejected = 0
    for _ in range(1000):
        off, seconds = chance.gauss(0, 0.1), []
        for _ in range(rounds + 3):
            off = 0.8 * off + chance.gauss(0, 0.1 * math.sqrt(1 - 0.8**2))
            seconds.append(60 * math.exp(off))
        spoiled = list(seconds)
        spoiled[chance.randrange(rounds)] *= 5
        for took in (seconds, spoiled):
            first, again = took[:rounds], took[rounds:]
            suspected += slows_down(first, factor=FACTOR, chance=SUSPECTED)
            rejected += still_slows_down(first, again, factor=FACTOR, chance=SURE)
    assert suspected <= 5  # of 2,000
    assert rejected == 0


def test_the_chance_of_a_trend_is_that_of_kendalls_tables() -> None:
    """N = 6: 1, 6 and 20 of 720 orders have 0, up to 1 and up to 2 pairs out of order."""
    assert trend_by_chance([1, 2, 3, 4, 5, 6]) == pytest.approx(1 / 720)
    assert trend_by_chance([1, 2, 3, 4, 6, 5]) == pytest.approx(6 / 720)
    assert trend_by_chance([2, 1, 3, 4, 6, 5]) == pytest.approx(20 / 720)
    assert trend_by_chance([6, 5, 4, 3, 2, 1]) == pytest.approx(1.0)
    order = list(range(33))
    random.Random(3).shuffle(order)  # noqa: S311 - any order
    near = [*sorted(order)[:12], *order[:20]]  # 32 values are exact, 33 are not
    assert trend_by_chance([*near, 99]) == pytest.approx(trend_by_chance(near), abs=0.05)
