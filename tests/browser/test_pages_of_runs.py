"""The pages of a comparison and of many runs in a real browser: clean, alone, open to all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.run_comparison import compare_runs
from pytest_vllm.domain.trend_lines import METRICS
from pytest_vllm.reports.compare_html import compare_html
from pytest_vllm.reports.trend_html import trend_html
from pytest_vllm.reports.trend_words import Trend
from tests.unit.records import HOSTILE, hostile_record
from tests.unit.test_run_comparison import run, side
from tests.unit.test_trend_lines import trend_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import Finding, Opened


def forced() -> str:
    return compare_html(compare_runs(side(run()), side(run(1.4, count=4)), force=True))


def hostile() -> str:
    record = replace(hostile_record(), performance=run().performance)
    return compare_html(compare_runs(side(run(), HOSTILE), side(record, HOSTILE), force=True))


def trend() -> str:
    runs = [trend_run(number) for number in range(30)]
    return trend_html(Trend(runs=runs, metrics=METRICS))


def hostile_trend() -> str:
    seen = trend_run(0)
    brief = replace(seen.brief, model=HOSTILE, gpus=HOSTILE, image=HOSTILE, reason=HOSTILE)
    runs = [replace(seen, name=HOSTILE, brief=brief), trend_run(1)]
    return trend_html(Trend(runs=runs, metrics=METRICS, choice=HOSTILE))


@pytest.mark.parametrize(
    ("made", "width", "theme"),
    [
        (forced, 1280, "light"),
        (forced, 390, "dark"),
        (hostile, 1280, "dark"),
        (trend, 1280, "light"),
        (trend, 390, "dark"),
        (hostile_trend, 390, "light"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_page_opens_clean_and_keeps_nobody_out(
    made: Callable[[], str],
    width: int,
    theme: str,
    tmp_path: Path,
    page_of: Callable[..., Opened],
    axe: Callable[..., list[Finding]],
) -> None:
    file = tmp_path / "page.html"
    file.write_text(made(), encoding="utf-8")
    seen = page_of(file, width=width, theme=theme)
    seen.page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true })")
    seen.settle()
    assert [*seen.console, *seen.errors, *seen.violations, *seen.dialogs] == []
    assert seen.requests == [seen.file.resolve().as_uri()]
    assert seen.scroll_overflow_px == 0
    assert axe(seen.page) == []
