"""The plot of what became of the figures: the worst first, and nothing left out without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_vllm.domain.metric_change import Effect, MetricChange
from pytest_vllm.domain.record import from_json
from pytest_vllm.reports.change_plot import changes_plot
from pytest_vllm.reports.html import report_html

H100 = Path("tests/data/records/h100.json")


def change(number: int, ratio: float | None, effect: Effect = Effect.NO_CHANGE) -> MetricChange:
    low, high = (None, None) if ratio is None else (ratio - 0.01, ratio + 0.01)
    return MetricChange(
        metric=f"m{number}_ms", effect=effect, tolerance=0.1, ratio=ratio, low=low, high=high
    )


def test_the_worst_of_many_are_drawn_and_the_table_has_all() -> None:
    """Eight, of which the eighth alone is worse; the seventh grew by more and cannot be told."""
    some = [change(number, 1 + number / 100) for number in range(1, 7)]
    noisy, worse = change(7, 1.9, Effect.CANNOT_TELL), change(8, 1.5, Effect.WORSE)
    plot = changes_plot([*some, noisy, worse, change(9, None)])
    assert plot is not None
    assert "the 6 worst of 8 are drawn, the table has all" in plot.text
    assert "1 without an estimate are left out" in plot.text
    assert [row[0] for row in plot.rows] == [f"m{n}_ms" for n in (8, 7, 6, 5, 4, 3, 2, 1)]
    assert plot.rows[0] == ("m8_ms", "50", "49", "51", "worse")
    assert "m8_ms: +50.0 %, worse" in plot.svg
    assert "m3_ms" in plot.svg
    assert "m2_ms" not in plot.svg


def test_a_rate_that_falls_is_worse_by_the_time_that_work_takes() -> None:
    """By hand: 0.8 of a rate are 25 % worse; its bounds of 0.5 and nothing: 100 % and open."""
    fell = replace(change(1, 0.8), bigger_is_better=True, low=0.5, high=None)
    plot = changes_plot([fell])
    assert plot is not None
    assert list(plot.rows) == [("m1_ms", "25", "open", "100", "no change")]
    assert "left out" not in plot.text
    assert "drawn" not in plot.text


def test_no_known_change_is_no_plot() -> None:
    assert changes_plot([change(1, None)]) is None


def test_the_page_heads_its_figures_as_what_they_are() -> None:
    """Of an H100: 3,976 and 3,743 beside -3.0 %, which is no change between these two."""
    page = " ".join(report_html(from_json(H100.read_text("utf-8"), where=H100.name)).split())
    assert '<th scope="col">Base (median)</th><th scope="col">Candidate (median)</th>' in page
    assert "it need not be the change between the two medians" in page
