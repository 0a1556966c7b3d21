"""Statistics of a few pairs, against published tables and against counting every case."""

from __future__ import annotations

import math
from itertools import product
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain import paired
from pytest_vllm.domain.students_t import t_quantile

SHIFTS = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=9)


def test_critical_values_are_the_published_ones() -> None:
    """Wilcoxon's table as printed in Hollander and Wolfe and in Siegel: n = 5 to 25."""
    at_025 = [-1, 0, 2, 3, 5, 8, 10, 13, 17, 21, 25, 29, 34, 40, 46, 52, 58, 65, 73, 81, 89]
    at_05 = [0, 2, 3, 5, 8, 10, 13, 17, 21, 25, 30, 35, 41, 47, 53, 60, 67, 75, 83, 91, 100]
    at_005 = [-1, -1, -1, 0, 1, 3, 5, 7, 9, 12, 15, 19, 23, 27, 32, 37, 42, 48, 54, 61, 68]
    for alpha, values in ((0.025, at_025), (0.05, at_05), (0.005, at_005)):
        found = [paired.critical_value(pairs, alpha=alpha) for pairs in range(5, 26)]
        assert found == values


@pytest.mark.parametrize(("pairs", "least"), [(3, 0.125), (5, 0.03125), (6, 0.015625)])
def test_few_pairs_have_a_least_p(pairs: int, least: float) -> None:
    """Three repeats can never be significant."""
    assert paired.signed_rank_p([1.0] * pairs) == least


def test_p_is_that_of_scipy() -> None:
    """`scipy.stats.wilcoxon(d, alternative="greater", method="exact")` of SciPy 1.16."""
    shifts = [1.1, -0.4, 2.3, 0.7, -0.2, 3.1, 1.9, 0.05]
    assert paired.signed_rank_p(shifts) == 0.0390625


@given(SHIFTS)
def test_p_counts_every_assignment_of_signs_with_ties_and_zeros(shifts: list[float]) -> None:
    """Mean ranks of the sizes, zeros among them; then every way that signs could have fallen."""
    sizes = sorted(abs(d) for d in shifts)
    ranks = [
        sum(place for place, size in enumerate(sizes, 1) if size == abs(d)) / sizes.count(abs(d))
        for d in shifts
    ]
    seen = sum(rank for rank, d in zip(ranks, shifts, strict=True) if d > 0)
    signed = [rank for rank, d in zip(ranks, shifts, strict=True) if d]
    sums = [
        sum(rank for rank, plus in zip(signed, signs, strict=True) if plus)
        for signs in product((0, 1), repeat=len(signed))
    ]
    assert paired.signed_rank_p(shifts) == pytest.approx(
        sum(total >= seen for total in sums) / len(sums)
    )


@given(SHIFTS)
def test_a_shift_and_its_mirror_image_are_told_alike(shifts: list[float]) -> None:
    mirrored = [-d for d in shifts]
    assert paired.hodges_lehmann(mirrored) == -paired.hodges_lehmann(shifts)
    low, high = paired.bounds(shifts, alpha=0.05)
    assert paired.bounds(mirrored, alpha=0.05) == (-high, -low)
    assert paired.signed_rank_p(shifts) + paired.signed_rank_p(mirrored) >= 1 - 1e-12


@given(SHIFTS, st.integers(1, 8).map(float))
def test_scale_changes_no_p_and_scales_the_rest(shifts: list[float], scale: float) -> None:
    scaled = [scale * d for d in shifts]
    assert paired.signed_rank_p(scaled) == paired.signed_rank_p(shifts)
    assert paired.hodges_lehmann(scaled) == pytest.approx(scale * paired.hodges_lehmann(shifts))
    assert paired.spread(scaled) == pytest.approx(scale * paired.spread(shifts))


@given(SHIFTS, st.data())
def test_a_larger_difference_never_lowers_estimate_or_raises_p(
    shifts: list[float], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(shifts) - 1))
    larger = [d + 3 * (number == place) for number, d in enumerate(shifts)]
    assert paired.hodges_lehmann(larger) >= paired.hodges_lehmann(shifts)
    assert paired.bounds(larger, alpha=0.05)[1] >= paired.bounds(shifts, alpha=0.05)[1]


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=10))
def test_bounds_hold_the_estimate_and_narrow_with_less_confidence(shifts: list[float]) -> None:
    low, high = paired.bounds(shifts, alpha=0.025)
    inner_low, inner_high = paired.bounds(shifts, alpha=0.05)
    assert low <= inner_low <= paired.hodges_lehmann(shifts) <= inner_high <= high


def test_bounds_of_six_are_the_third_walsh_averages_from_the_ends() -> None:
    """Of 21 averages; P(W <= 2) is 3/64."""
    shifts = [1.1, -0.4, 2.3, 0.7, -0.2, 3.1]
    averages = paired.walsh_averages(shifts)
    assert len(averages) == 21
    assert paired.bounds(shifts, alpha=0.05) == (averages[2], averages[-3])
    assert paired.hodges_lehmann(shifts) == median(averages) == pytest.approx(1.05)


def test_too_few_for_a_confidence_have_no_bounds() -> None:
    assert paired.bounds([1.0, 2.0, 3.0, 4.0], alpha=0.05) == (-math.inf, math.inf)


def test_holm_steps_down() -> None:
    """Adjusted by the number left, and never below the one before (Holm 1979)."""
    assert paired.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert paired.holm([0.5, 0.9]) == [1.0, 1.0]
    assert paired.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = paired.holm(p_values)
    assert all(after >= before for before, after in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_an_outlier_hardly_counts_but_noise_is_never_taken_for_none() -> None:
    steady = [0.01, -0.01, 0.02, -0.02, 0.01, -0.01]
    assert paired.spread([*steady, 5.0]) < 0.05
    assert paired.spread([*steady, 5.0], outliers=True) > 1
    assert paired.spread([0.0, 0.0, 0.0, 0.0, 0.3]) == pytest.approx(0.1342, abs=1e-4)
    assert paired.spread([0.1, 0.1]) == 0.0


def test_what_can_be_detected_shrinks_with_the_root_of_the_pairs() -> None:
    """2.8 standard errors: 1.96 of the test and 0.84 of 80 % power."""
    assert paired.detectable(0.01, 8) == pytest.approx(0.0099, abs=1e-5)
    assert paired.pairs_to_tell(0.03, 0.03) == 8
    assert paired.detectable(0.03, paired.pairs_to_tell(0.03, 0.02)) <= 0.02


@pytest.mark.parametrize(
    ("freedom", "at_025", "at_20"),
    [
        (1, 12.706204736174694, 1.3763819204711738),
        (2, 4.302652729749462, 1.0606601717798214),
        (4, 2.7764451051977934, 0.9409645772351816),
        (7.3, 2.345066736547703, 0.8936713571802273),
        (30, 2.0422724563012378, 0.8537672614712979),
    ],
)
def test_quantiles_of_student_are_those_of_scipy(
    freedom: float, at_025: float, at_20: float
) -> None:
    """`scipy.stats.t.ppf` of SciPy 1.16."""
    assert t_quantile(0.025, freedom) == pytest.approx(at_025, rel=1e-8)
    assert t_quantile(0.2, freedom) == pytest.approx(at_20, rel=1e-8)
