"""The order of the runs of a comparison."""

from __future__ import annotations

from collections import Counter

import pytest

from pytest_vllm.domain.pair_order import Side, abba

LETTER = {Side.BASE: "A", Side.CANDIDATE: "B"}


def letters(pairs: int, seed: int | None = None) -> str:
    return "".join(LETTER[side] for side in abba(pairs, seed=seed))


def test_plain_order_is_abba() -> None:
    assert letters(6) == "ABBAABBAABBA"
    assert letters(3) == "ABBAAB"
    assert letters(0) == ""


@pytest.mark.parametrize("seed", range(20))
def test_every_pair_has_both_sides_and_every_block_cancels_a_steady_drift(seed: int) -> None:
    """In each block both sides stand at the same mean place."""
    order = abba(12, seed=seed)
    assert order == abba(12, seed=seed)
    for place in range(0, 24, 2):
        assert set(order[place : place + 2]) == set(Side)
    for block in range(0, 24, 4):
        places = [i for i in range(4) if order[block + i] is Side.BASE]
        assert sum(places) == 3


def test_a_seed_begins_blocks_with_either_side_and_a_longer_order_goes_on_alike() -> None:
    first = Counter(letters(2, seed)[0] for seed in range(200))
    assert min(first["A"], first["B"]) > 60
    assert letters(12, 5).startswith(letters(6, 5))
