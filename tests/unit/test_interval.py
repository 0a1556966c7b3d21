"""Scores with their uncertainty, and the number that a reply ends in."""

from __future__ import annotations

import pytest

from pytest_vllm.domain.interval import Score, final_number, is_below, is_worse, task_share


def test_wilson_interval_is_the_published_one() -> None:
    # R: prop.test(81, 263, correct = FALSE), the example of Newcombe, Stat. Med. 17 (1998).
    low, high = Score(right=81, total=263).interval
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert Score(right=0, total=10).interval[0] == pytest.approx(0.0)
    assert Score(right=0, total=0).interval == (0.0, 1.0)


def test_a_score_is_below_a_floor_only_beyond_chance() -> None:
    assert not is_below(Score(right=50, total=72), 0.75)
    assert is_below(Score(right=30, total=72), 0.75)
    assert is_worse(Score(right=10, total=72), Score(right=60, total=72))
    assert not is_worse(Score(right=55, total=72), Score(right=60, total=72))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5 * 12 = 60 and 60 - 17 = 43. The answer is 43.", 43.0),
        ("The answer is 1,250 dollars. Check: 3", 1250.0),
        ("The answer is: **$7.50**", 7.5),
        ("so we get 12 eggs", 12.0),
        ("The answer is not here, but 3 or 4", 3.0),
        ("The answer is -4", -4.0),
        ("nothing", None),
    ],
)
def test_the_final_number(text: str, number: float | None) -> None:
    assert final_number(text) == number


def test_the_harness_results_are_read_by_metric() -> None:
    document = {
        "results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.25}},
        "n-samples": {"gsm8k": {"original": 1319, "effective": 100}},
    }
    assert task_share(document, "gsm8k") == ("exact_match,strict-match", 0.25, 100)
    with pytest.raises(ValueError, match="no exact_match"):
        task_share(document, "mmlu")
