"""A figure of several rounds has one interval, as wide as the rounds differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.load.measurement import Distribution, Percentile
from pytest_vllm.domain.load.over_rounds import (
    Ranged,
    over_rounds,
    percentile_of,
    rate_of,
    share_of,
)
from pytest_vllm.domain.record import from_json
from pytest_vllm.reports.load_plots import load_plots
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.openmetrics import metrics_prom
from pytest_vllm.reports.performance import (
    level_rows,
    performance_lines,
    performance_properties,
)

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

H100 = Path("tests/data/records/h100.json")
MEDIANS = (70.8, 69.9, 78.4, 71.5, 63.0, 72.3)
"""TTFT p50 of six rounds on an H100, ms; all requests together said 69.7 to 71.0."""


@pytest.fixture(scope="module")
def gpu_run() -> RunRecord:
    return from_json(H100.read_text("utf-8"), where=H100.name)


@pytest.fixture
def saturated(gpu_run: RunRecord) -> RunRecord:
    """The same run with its highest level as the compared one."""
    levels = [{**level, "gated": level["name"] == "c64"} for level in gpu_run.performance["levels"]]
    return replace(gpu_run, performance={**gpu_run.performance, "levels": levels})


def test_rounds_that_differ_widen_a_percentile() -> None:
    """By hand: mean 70.98, s 4.94, t(.975, 5) = 2.571, half = 5.19."""
    seen = percentile_of(70.3, 69.7, 71.0, MEDIANS)
    assert seen.value == 70.3
    assert seen.low == pytest.approx(65.8, abs=0.05)
    assert seen.high == pytest.approx(76.2, abs=0.05)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((70.3, 70.3, 70.3), "rounds that agree by chance know no more than their requests"),
        ((63.0,), "one round shows nothing of others"),
        ((63.0, None, 78.4), "rounds that have a p99 would be a selection"),
        ((), "no round"),
    ],
)
def test_an_interval_is_never_narrower_than_that_of_the_requests(
    values: tuple[float | None, ...], why: str
) -> None:
    assert percentile_of(70.3, 69.7, 71.0, values) == Ranged(value=70.3, low=69.7, high=71.0), why


def test_an_open_end_stays_open_and_no_figure_is_below_zero() -> None:
    seen = percentile_of(1.0, 0.9, None, (0.5, 3.0))
    assert (seen.low, seen.high) == (0.0, None)
    assert rate_of((1.0, 100.0)).low == 0.0
    assert rate_of((7.0,)) == Ranged(value=7.0)


def test_widening_twice_changes_nothing() -> None:
    """So a record that has the wide interval and one that has the narrow one read alike."""
    once = percentile_of(70.3, 69.7, 71.0, MEDIANS)
    assert percentile_of(once.value, once.low, once.high, MEDIANS) == once


def test_a_share_has_wilsons_interval_or_that_over_rounds_within_0_and_1() -> None:
    """By hand: 381 of 381 are Wilson's 0.99; three rounds of one size are its mean."""
    sure = share_of([(1.0, 127)] * 3)
    assert sure is not None
    assert (sure.value, sure.high) == (1.0, 1.0)
    assert sure.low == pytest.approx(0.99, abs=1e-4)
    apart = share_of([(0.055, 1280), (0.359, 1280), (0.251, 1280)])
    assert apart is not None
    assert apart.value == pytest.approx(0.2217, abs=1e-3)
    assert apart.low == 0.0
    assert apart.high == pytest.approx(0.604, abs=0.01)
    alike = share_of([(0.9, 100), (0.9, 100)])
    assert alike is not None
    assert (alike.low, alike.high) == pytest.approx((0.8506, 0.9343), abs=1e-4)  # Wilson, 180/200
    assert share_of([]) is None


def test_distributions_get_the_intervals_of_their_rounds() -> None:
    """What `[slo]` would judge: a p99 that no round has on its own stays as it is."""
    p50 = Percentile(value=70.3, low=69.7, high=71.0, needs=11)
    p99 = Percentile(value=136.6, low=134.3, high=None, needs=662)
    missing = Percentile(value=None, needs=6636)
    told = Distribution(count=6, requests=6, percentiles={"p50": p50, "p99": p99, "p99.9": missing})
    found = over_rounds({"ttft": told}, [{"ttft_p50_ms": value} for value in MEDIANS])
    wide = percentile_of(70.3, 69.7, 71.0, MEDIANS)
    assert found["ttft"].percentiles == {
        "p50": replace(p50, low=wide.low, high=wide.high),
        "p99": p99,
        "p99.9": missing,
    }


def test_one_figure_has_one_interval_on_every_report(saturated: RunRecord) -> None:
    """By the record of an H100: medians 169 to 179 ms of three rounds of 64 at a time."""
    asked = "174 (160 to 186) ms"
    assert f"TTFT p50 {asked}" in dict(performance_lines(saturated))["Load"]
    (row,) = [row for row in level_rows(saturated) if row[0] == "64"]
    assert row[5] == "174 ms (160 to 186)"
    assert "`174 ms (160 to 186)`" in report_md(saturated)
    assert dict(performance_properties(saturated))["performance.c64.ttft_p50_ms"] == "173.551"
    (plot,) = [
        one
        for one in load_plots(saturated)
        if one.title.startswith("Time to first token (TTFT) against")
    ]
    assert plot.rows[-1][1].startswith("174 ms (160 to 186)")
    low, high = (
        bound(saturated, "load_latency_seconds", end, 'metric="ttft"', 'quantile="0.5"')
        for end in ("low", "high")
    )
    assert (low, high) == pytest.approx((0.1598, 0.1857), abs=1e-4)


def test_goodput_is_a_share_on_every_report(saturated: RunRecord) -> None:
    asked = "22.2% (0.0% to 60.4%)"
    assert f"goodput {asked} of all" in dict(performance_lines(saturated))["Load"]
    assert [row[11] for row in level_rows(saturated)][-1] == asked
    (plot,) = [one for one in load_plots(saturated) if "goodput" in one.title]
    assert asked in plot.text
    ends = [bound(saturated, "load_goodput_ratio", end) for end in ("low", "estimate", "high")]
    assert ends == pytest.approx([0.0, 0.2219, 0.6044], abs=1e-4)


def bound(record: RunRecord, name: str, end: str, *labels: str) -> float:
    wanted = (f"vllm_acceptance_{name}{{", f'bound="{end}"', 'level="c64"', *labels)
    (line,) = [one for one in metrics_prom(record).splitlines() if all(w in one for w in wanted)]
    return float(line.rpartition(" ")[2])
