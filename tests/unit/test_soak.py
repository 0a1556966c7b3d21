"""A soak's requests are mixed and repeatable; growth is told from noise, steps and warm-up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.soak import growth, mixed_lengths, settled

MIB = 2**20


def test_requests_are_mixed_and_repeat_with_their_seed() -> None:
    """Short ones are many, long ones few, some are streams, and some of those are given up."""
    pieces = mixed_lengths(2000, seed=3, context=2048)
    assert pieces == mixed_lengths(2000, seed=3, context=2048)
    assert pieces != mixed_lengths(2000, seed=4, context=2048)
    words = sorted(piece.words for piece in pieces)
    assert words[0] == 1
    assert words[1000] < 30
    assert words[-1] > 200
    assert {piece.streamed for piece in pieces} == {True, False}
    assert all(piece.streamed for piece in pieces if piece.given_up)
    assert 50 < sum(piece.given_up for piece in pieces) < 150


@given(context=st.one_of(st.none(), st.integers(16, 200_000)), seed=st.integers(0, 2**31))
def test_requests_fit_the_context(context: int | None, seed: int) -> None:
    """A word is two tokens at most, and prompt and answer stay below half of the context."""
    for piece in mixed_lengths(50, seed=seed, context=context):
        assert piece.words >= 1
        assert piece.max_tokens >= 1
        assert 2 * piece.words + piece.max_tokens <= max(3, (context or 2048) // 2)


def looks(rise_mib: float, *, noise_mib: float = 0.0, count: int = 2000) -> list[tuple[int, float]]:
    rng = random.Random(1)  # noqa: S311 - noise
    return [
        (at, (3000 + rise_mib * at / 1000 + rng.uniform(-noise_mib, noise_mib)) * MIB)
        for at in range(0, count + 1, 20)
    ]


@pytest.mark.parametrize("rise", [0.0, 100.0, 1024.0])
def test_a_steady_rise_is_told_within_its_noise(rise: float) -> None:
    """MiB per 1,000 requests come out, and the interval holds the truth."""
    found = growth(looks(rise, noise_mib=20))
    assert found is not None
    assert found.slope / MIB == pytest.approx(rise, abs=8)
    assert found.low / MIB <= rise <= found.high / MIB
    assert found.rise / MIB == pytest.approx(2 * rise, abs=16)


def test_outliers_and_one_step_are_no_growth() -> None:
    """Neither a tenth of wild looks nor one pool that is allocated once bends the line."""
    wild = [(at, use + (2048 * MIB if at % 200 == 0 else 0)) for at, use in looks(0, noise_mib=2)]
    found = growth(wild)
    assert found is not None
    assert abs(found.slope) < MIB * 5
    stepped = [(at, use + (512 * MIB if at >= 1000 else 0)) for at, use in looks(0)]
    found = growth(stepped)
    assert found is not None
    assert found.low == 0


def test_the_first_part_is_left_out() -> None:
    """What fills at the begin does not count, in a soak that began at any count."""
    cold = [(at, float(min(at, 600))) for at in range(0, 2001, 100)]
    found = growth(settled(cold, warm_up=0.34))
    assert found is not None
    assert (found.slope, found.rise) == (0, 0)
    assert settled([], warm_up=0.5) == ()


@pytest.mark.parametrize("count", [0, 1, 7])
def test_few_looks_tell_nothing(count: int) -> None:
    """Below eight looks there is no growth to tell, rather than none."""
    assert growth([(float(at), 1.0) for at in range(count)]) is None


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 2**40)), max_size=300))
def test_any_looks_give_an_ordered_interval(seen: list[tuple[int, int]]) -> None:
    """The slope lies in its interval, whatever was seen; equal counts divide by nothing."""
    found = growth(sorted(seen))
    if found is not None:
        assert found.low <= found.slope <= found.high
