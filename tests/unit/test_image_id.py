"""An image that was built here has an ID and no digest: no report may show one for the other."""

from __future__ import annotations

import json
from dataclasses import replace

from pytest_vllm.domain.record import Rules
from pytest_vllm.domain.run_brief import brief_record
from pytest_vllm.domain.run_comparison import compare_runs
from pytest_vllm.domain.trend_lines import TrendRun
from pytest_vllm.reports.compare_html import compare_html
from pytest_vllm.reports.compare_text import compare_text
from pytest_vllm.reports.ctrf import ctrf_json
from pytest_vllm.reports.html import report_html
from pytest_vllm.reports.junit import junit_xml
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.run_list import RunRow, run_lines
from pytest_vllm.reports.trend_html import trend_html
from pytest_vllm.reports.trend_md import trend_md
from pytest_vllm.reports.trend_words import Trend
from tests.unit.records import DIGEST, make_record
from tests.unit.test_run_comparison import run, side

SHORT = DIGEST.removeprefix("sha256:")[:12]
RULES = Rules(profile="promote", complete=True, pinned_image=True)
BUILT = replace(run(), launch={"image": {"asked": "mine:1", "runs": DIGEST}}, rules=RULES)


def test_an_image_id_is_called_one_wherever_it_is_shown() -> None:
    brief = brief_record(BUILT)
    trend = Trend(runs=[TrendRun(name="a", brief=brief)], metrics=("ttft_p50_ms",))
    row = RunRow(folder="a", name="a", began=brief.started, brief=brief)
    other = compare_runs(side(make_record()), side(BUILT))
    texts = [trend_html(trend), trend_md(trend), run_lines([row]), compare_text(other)]
    texts += [compare_html(other), report_html(BUILT), report_md(BUILT), junit_xml(BUILT)]
    texts.append(ctrf_json(BUILT))
    for text in texts:
        assert f"image ID {SHORT}" in text.replace("sha256:", "")
        assert f"@{SHORT}" not in text.replace("sha256:", "")
    assert json.loads(ctrf_json(BUILT))["results"]["environment"]["appVersion"] == (
        f"image ID {DIGEST}"
    )
    assert 'name="image.digest"' not in junit_xml(BUILT)
    assert "This image may be promoted" not in report_html(BUILT)
