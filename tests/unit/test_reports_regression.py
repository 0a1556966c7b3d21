"""How a judgement reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.gated import flatten, rules_for
from pytest_vllm.domain.metric_change import Effect, Form, Judgement, MetricChange
from pytest_vllm.domain.regression import judge_pairs, judge_stored
from pytest_vllm.reports.regression import (
    cannot_tell,
    change_cells,
    figure,
    judgement_text,
    share,
    verdict_line,
)
from tests.unit.performances import performance
from tests.unit.records import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable


def rounds(factor: float, noise: float = 0.01) -> list[dict[str, float]]:
    (level,) = performance(factor, noise=noise)["levels"]
    runs = [run["figures"] for run in level["rounds"]]
    return flatten({"c8": [*runs, *runs[:3]]})


def stored(factor: float, noise: float = 0.01) -> Judgement:
    base, candidate = rounds(1.0), rounds(factor, noise)
    return judge_stored(base, candidate, rules_for(base, at_least=0.1))


def paired(factor: float, noise: float = 0.01) -> Judgement:
    base, candidate = rounds(1.0), rounds(factor, noise)
    return judge_pairs(base, candidate, rules_for(base))


def test_a_table_has_each_metric_its_change_and_its_result() -> None:
    text = judgement_text(stored(1.4), names=("then", "now"))
    assert text.startswith("worse: output_tokens_per_s -")
    assert "weak form: a stored baseline" in text
    row = next(line for line in text.splitlines() if line.startswith("tpot_p50_ms"))
    assert row.endswith("worse")
    assert "+10 %" in row
    assert "base: then" in text
    assert "candidate: now" in text


@pytest.mark.parametrize(
    ("judge", "how"), [(stored, "between the geometric means of the rounds"), (paired, "all pairs")]
)
def test_a_change_that_is_none_of_its_two_columns_says_so(
    judge: Callable[[float], Judgement], how: str
) -> None:
    """Both columns are medians, and the change is estimated over all rounds."""
    text = " ".join(judgement_text(judge(1.4)).split())
    assert "base (median)" in text
    assert "candidate (median)" in text
    assert how in text
    assert "it need not be the change between the two medians" in text


def test_the_form_is_named() -> None:
    assert "strong form: whole runs in turns on one host" in judgement_text(paired(1.0))
    assert "pytest-vllm ab" in judgement_text(stored(1.0))
    assert "pytest-vllm ab" not in judgement_text(paired(1.0))


@pytest.mark.parametrize(
    ("judgement", "line"),
    [
        (paired(1.0), "no change in 3 metrics; 8 pairs"),
        (Judgement(form=Form.PAIRS), "cannot tell: there is no figure to compare"),
        (
            Judgement(form=Form.STORED, obstacles=("other GPUs: a of x, b of y",)),
            "not comparable: other GPUs: a of x, b of y",
        ),
    ],
)
def test_the_outcome_stands_on_one_line(judgement: Judgement, line: str) -> None:
    assert verdict_line(judgement) == line


def test_what_cannot_be_told_says_what_would_tell() -> None:
    noisy = paired(1.0, noise=0.08)
    assert noisy.effect is Effect.CANNOT_TELL
    for change in noisy.changes:
        if change.effect is Effect.CANNOT_TELL:
            words = cannot_tell(change, Form.PAIRS)
            assert words == f"about {change.repeats_wanted} pairs would tell"
            assert f"{change.metric}: {words}" in judgement_text(noisy)
    untold = MetricChange(metric="x", effect=Effect.CANNOT_TELL, tolerance=0.1)
    assert "no number of repeats would tell" in cannot_tell(untold, Form.PAIRS)
    assert "pytest-vllm ab may" in cannot_tell(untold, Form.STORED)


def test_obstacles_stand_instead_of_a_table() -> None:
    blocked = Judgement(form=Form.STORED, obstacles=("other driver: 6 of a, 7 of b", HOSTILE))
    text = judgement_text(blocked)
    assert text.startswith("not comparable\nweak form")
    assert "- other driver: 6 of a, 7 of b" in text
    assert "tpot" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (None, ""),
        (1.0, "+0.0 %"),
        (0.99999, "+0.0 %"),
        (0.95, "-5.0 %"),
        (1.5, "+50.0 %"),
        (1e6, "1e+06x"),
    ],
)
def test_a_ratio_reads_as_a_change(ratio: float | None, text: str) -> None:
    assert share(ratio) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (12345.6, "12,346"),
        (20.04, "20.0"),
        (1.234, "1.23"),
        (0.01234, "0.0123"),
        (0.0, "0"),
        (99.96, "100"),
        (99.6, "99.6"),
        (9.996, "10.0"),
        (999.7, "1,000"),
        (0.9999, "1.00"),
        (-12345.6, "-12,346"),
    ],
)
def test_a_figure_has_three_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("tolerance", "bigger_is_better", "text"),
    [
        (0.1, False, "+10 %"),
        (0.1, True, "-9.09 %"),
        (0.5, True, "-33.3 %"),
        (0.03, True, "-2.91 %"),
        (2.0, True, "-66.7 %"),
        (0.005, False, "+0.5 %"),
    ],
)
def test_what_is_allowed_is_what_the_gate_holds(
    tolerance: float,
    bigger_is_better: bool,  # noqa: FBT001 - drawn from the table
    text: str,
) -> None:
    change = MetricChange(
        metric="x",
        effect=Effect.NO_CHANGE,
        tolerance=tolerance,
        bigger_is_better=bigger_is_better,
    )
    assert change_cells(change)[5] == text
