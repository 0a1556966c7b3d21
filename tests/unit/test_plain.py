"""Looking into plain data that may hold anything."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.domain.plain import LARGEST, count, items, mapping, mappings, measured, number


@pytest.mark.parametrize(
    ("value", "found"),
    [
        *((3, 3.0), (2.5, 2.5), (True, None), ("3", None), (None, None), ([3], None)),
        *((float("nan"), None), (float("inf"), None), (10**400, None)),
    ],
)
def test_a_number_is_finite_and_no_truth(value: object, found: float | None) -> None:
    assert number(value) == found
    assert count(value) == int(found or 0)


@pytest.mark.parametrize("value", [None, 3, "ab", True])
def test_what_is_no_collection_has_nothing_in_it(value: Any) -> None:
    assert mapping(value) == {}
    assert items(value) == []
    assert mappings(value) == []


def test_of_a_list_only_mappings_are_taken() -> None:
    assert mappings([{"a": 1}, None, [], {"b": 2}]) == [{"a": 1}, {"b": 2}]
    assert items((1, 2)) == [1, 2]
    assert mapping({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "found"),
    [(3, 3.0), (-LARGEST, -LARGEST), (1.1e15, None), (-1e308, None), (10**400, None), ("3", None)],
)
def test_what_nobody_can_measure_is_no_figure(value: object, found: float | None) -> None:
    assert measured(value) == found
