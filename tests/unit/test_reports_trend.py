"""The page of many runs, its table and its JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from pytest_vllm.domain.trend_lines import METRICS
from pytest_vllm.reports.trend_html import trend_html
from pytest_vllm.reports.trend_md import trend_json, trend_md
from pytest_vllm.reports.trend_words import Trend
from tests.unit.records import HOSTILE
from tests.unit.test_trend_lines import trend_run


def trend(count: int, **changes: object) -> Trend:
    runs = [trend_run(number) for number in range(count)]
    return replace(Trend(runs=runs, metrics=METRICS), **changes)  # type: ignore[arg-type]


def test_the_page_links_to_each_report_and_shows_each_verdict() -> None:
    page = trend_html(trend(3))
    for number in range(3):
        assert page.count(f'href="run-{number}/report.html"') == 2  # the verdict, and the table
    assert page.count('<li class="good">') == 3
    assert page.count("<svg") == len(METRICS)
    assert "3 runs from 2026-11-01 to 2026-11-03: 3 PROMOTE" in page
    assert "9f86d081884c" in page


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_any_number_of_runs_is_a_page(count: int) -> None:
    page = trend_html(trend(count))
    assert page.count("<tr>") >= count
    assert ("one point is no trend yet" in page) is (count == 1)
    assert len(re.findall(r"<circle|class=\"dot", page)) or count in (0, 300)
    assert trend_md(trend(count)).startswith("# Runs")


def test_a_report_that_is_not_there_is_no_link() -> None:
    runs = [replace(trend_run(0), link="")]
    page = trend_html(trend(0, runs=runs))
    assert 'report.html"' not in page
    assert "run-0" in page


def test_hostile_names_are_text() -> None:
    seen = trend_run(0)
    brief = replace(
        seen.brief, model=HOSTILE, gpus=HOSTILE, image=HOSTILE, digest=HOSTILE, reason=HOSTILE
    )
    hostile = trend(0, runs=[replace(seen, name=HOSTILE, brief=brief)], choice=HOSTILE)
    page = trend_html(hostile)
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    for text in (page, trend_md(hostile)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert json.loads(trend_json(hostile))["kind"] == "trend"


def test_what_could_not_be_read_is_named() -> None:
    broken = [f"broken-{number}" for number in range(7)]
    for text in (trend_html(trend(1, unreadable=broken)), trend_md(trend(1, unreadable=broken))):
        assert "7 unreadable: broken-0, broken-1, broken-2, broken-3, broken-4 and 2 more" in text


def test_programs_get_the_lines_and_the_runs() -> None:
    document = json.loads(trend_json(trend(3)))
    assert document["schema"] == 1
    assert [run["name"] for run in document["runs"]] == ["run-0", "run-1", "run-2"]
    assert set(document["runs"][0]["figures"]) == set(METRICS)
    (subject,) = document["subjects"]
    (line,) = subject["metrics"]["ttft_p50_ms"]
    assert [point["place"] for point in line["points"]] == [0, 1, 2]
    assert line["conditions"]["driver"] == "6.16.6"


def test_long_tables_end_and_say_so() -> None:
    text = trend_md(trend(230))
    assert "and 30 older runs" in text
    assert "run-229" in text
    assert "run-29`" not in text


@pytest.mark.parametrize("long", [False, True])
def test_names_that_the_legend_cuts_stand_below_the_plot(long: bool) -> None:  # noqa: FBT001 - drawn
    common = "--compilation-config " + ("x" * 60 if long else "x")
    runs = [
        trend_run(number, arguments=(f"{common}{number}", f"--max-num-seqs {64 + number}"))
        for number in range(2)
    ]
    page = trend_html(trend(0, runs=runs))
    legends = re.findall(r"<g class=\"lg[^>]*>.*?<text[^>]*>([^<]*)<", page)
    assert len(set(legends)) == 2
    for number in range(2):
        whole = f"{number + 1}: arguments {common}{number} --max-num-seqs {64 + number}"
        assert whole in page
        assert legends[number].startswith(f"{number + 1}: arguments ")
