"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

from tests.unit.fuzz import EVERYTHING


def test_what_is_tried_is_the_same_in_each_run_but_at_night() -> None:
    assert settings().derandomize is not EVERYTHING
    assert settings(max_examples=5).derandomize is not EVERYTHING
