"""What the reports say of loads: intervals, refused percentiles, the client's own error."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest

from pytest_vllm.domain.metric_change import Effect, Form, Judgement, MetricChange
from pytest_vllm.domain.record import Comparison, RunRecord, from_json, to_json
from pytest_vllm.domain.run_brief import brief_record
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.junit import junit_xml
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.performance import performance_lines, performance_properties
from pytest_vllm.reports.terminal import summary
from tests.unit.records import make_record, make_result

CALIBRATION = {
    "ttft_error_p50_us": 7.4,
    "ttft_error_p99_us": 24.0,
    "itl_error_p99_us": 31.0,
    "cpu_share": 0.04,
    "streams": 8,
    "events_per_s": 1934.0,
    "clock": "kernel",
    "path": "epoll",
}
WORSE = MetricChange(
    metric="ttft_p50_ms",
    effect=Effect.WORSE,
    tolerance=0.1,
    base=40.0,
    candidate=60.0,
    ratio=1.5,
    low=1.4,
    high=1.6,
    detectable=0.05,
    repeats=5,
)


def level(concurrency: int, *throughput: float, failed: int = 0) -> dict[str, Any]:
    figures = [{"output_tokens_per_s": value, "ttft_p50_ms": 40.0} for value in throughput]
    return {
        "name": f"c{concurrency}",
        "concurrency": concurrency,
        "requests": 32,
        "gated": concurrency == 8,
        "calibration": CALIBRATION if concurrency == 8 else {},
        "rounds": [
            {"figures": one, "failed": failed, "flags": ["the window is short"], "limits": []}
            for one in figures
        ],
        "latencies": {
            "ttft": {
                "requests": 96,
                "percentiles": {
                    "p50": {"value": 40.5, "low": 39.0, "high": None, "needs": 11},
                    "p99": {"value": None, "low": None, "high": None, "needs": 662},
                },
            }
        },
    }


def record(*, judgement: Judgement | None = None) -> RunRecord:
    performance = {
        "profile": {"name": "standard"},
        "workload": {"name": "short", "prompt_tokens": 32, "output_tokens": 8},
        "calibration": CALIBRATION,
        "levels": [level(1, 100.0), level(8, 690.0, 700.0, 710.0)],
        "saturation": {"concurrency": 8, "output_tokens_per_s": 700.0, "reached": False},
        "notes": ["answers have 8 tokens instead of 32"],
    }
    comparison = None
    if judgement is not None:
        comparison = Comparison(run_id="before", decision=Decision.PROMOTE, metrics=judgement)
    results = (make_result("performance.load.answered"),)
    return replace(make_record(), results=results, performance=performance, comparison=comparison)


def test_the_screen_tells_figures_intervals_and_the_clients_error() -> None:
    """By hand: mean 700, s 10, t(.975, 2) = 4.303, half = 24.84; medians of rounds all 40 ms."""
    lines = dict(performance_lines(record()))
    assert lines["Load"] == (
        "8 at a time, 3 x 32 requests: output 700 (675 to 725) tokens/s, "
        "TTFT p50 40.5 (39.0 to open) ms"
    )
    assert lines["Client"].startswith("TTFT error p50 7 us, p99 24 us, ITL p99 31 us, 4% of a core")
    assert "4% of a core at 8 streams and 1,934 events/s (kernel clock" in lines["Client"]
    assert lines["Saturates"] == (
        "not up to 8 at a time (700 output tokens/s): throughput still grows"
    )
    assert "Figures" not in lines


def test_a_percentile_that_the_sample_cannot_support_is_refused_in_words() -> None:
    page = report_md(record())
    assert page.count("| `TTFT 24 us, gap 31 us` |") == 1  # the other level has none of its own
    assert page.count("| `not calibrated` |") == 1
    assert "`needs 662 requests, had 96`" in page
    assert "`40.5 ms (39.0 to open)`" in page
    assert "- `answers have 8 tokens instead of 32`" in page
    assert page.count("the window is short") == 2  # once a level, not once a round


def test_what_became_of_the_figures_is_on_every_report() -> None:
    judged = record(judgement=Judgement(form=Form.STORED, changes=(WORSE,), repeats=5))
    line = "worse: ttft_p50_ms +50.0 %; 5 rounds"
    screen = summary(judged, width=100, color=False, evidence=".vllm/x")
    assert line in " ".join(screen.split())
    assert "the weak form" in " ".join(screen.split())
    assert f"`since the baseline (stored baseline, the weak form): {line}`" in report_md(judged)
    assert "| `ttft_p50_ms` | 40.0 | 60.0 | `+50.0 %`" in report_md(judged)
    root = ET.fromstring(junit_xml(judged))  # noqa: S314 - our own
    (suite,) = root.findall("testsuite")
    told = {item.get("name"): item.get("value") for item in suite.iter("property")}
    assert told["performance.c8.output_tokens_per_s"] == "700"
    assert told["performance.regression"] == line


def test_a_record_with_a_judgement_is_read_back_as_it_was() -> None:
    judged = record(judgement=Judgement(form=Form.STORED, changes=(WORSE,), repeats=5))
    assert from_json(to_json(judged), where="run.json") == judged


def test_what_two_runs_cannot_be_compared_by_is_told() -> None:
    judged = record(judgement=Judgement(form=Form.STORED, obstacles=("other GPUs", "other model")))
    page = report_md(judged)
    assert "- `not comparable: other GPUs`" in page
    assert "- `not comparable: other model`" in page


@pytest.mark.parametrize("performance", [{}, {"profile": {"name": "smoke"}, "levels": []}])
def test_without_a_load_nothing_is_said(performance: dict[str, Any]) -> None:
    judged = replace(make_record(), performance=performance)
    assert performance_lines(judged) == []
    assert performance_properties(judged) == []
    assert "## Performance" not in report_md(judged)


def test_large_figures_are_numbers_that_a_person_reads() -> None:
    """By hand: 12345.6 twice, and a latency above ten seconds."""
    fast = level(8, 12345.6, 12345.6)
    for one in fast["rounds"]:
        one["figures"]["ttft_p50_ms"] = 12345.6
    fast["latencies"]["ttft"]["percentiles"]["p50"] = {"value": 12345.6, "low": 9999.6, "high": 2e4}
    judged = replace(record(), performance={"levels": [fast]})
    assert "output 12,346 (12,346 to 12,346) tokens/s" in dict(performance_lines(judged))["Load"]
    assert "`12,346 ms (10,000 to 20,000)`" in report_md(judged)


def test_a_level_that_does_not_say_otherwise_is_one_that_runs_are_compared_by() -> None:
    plain = {name: value for name, value in level(8, 690.0).items() if name != "gated"}
    judged = replace(record(), performance={"levels": [plain]})
    assert "Load" in dict(performance_lines(judged))
    assert brief_record(judged).compared is not None
