"""A trend over many runs as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from pytest_vllm.domain.record import to_plain
from pytest_vllm.domain.trend_lines import mean_in
from pytest_vllm.reports import trend_words as words
from pytest_vllm.reports.compare_md import coded_table
from pytest_vllm.reports.markdown_text import code

if TYPE_CHECKING:
    from pytest_vllm.reports.trend_words import Trend

SCHEMA = 1
_MOST_ROWS = 200


def trend_md(trend: Trend) -> str:
    """Write a trend as Markdown, the newest runs first."""
    newest = list(reversed(trend.runs))
    left = len(newest) - _MOST_ROWS
    rows = [words.cells(run, trend) for run in newest[:_MOST_ROWS]]
    parts = [
        "# Runs",
        code(words.summary_line(trend)),
        code(f"chosen: {trend.choice}") if trend.choice else "",
        code(words.unreadable_line(trend)) if trend.unreadable else "",
        coded_table(words.head(trend), rows),
        f"and {left} older runs; `--json` has all" if left > 0 else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def trend_json(trend: Trend) -> str:
    """Write a trend as JSON; `schema` is raised when a key changes its meaning or goes."""
    runs = [
        {
            "name": run.name,
            "link": run.link,
            "began": run.brief.started.isoformat(timespec="seconds"),
            "decision": run.brief.decision.value,
            "reason": run.brief.reason,
            "image": run.brief.image,
            "digest": run.brief.digest,
            "is_id": run.brief.is_id,
            "model": run.brief.model,
            "gpus": run.brief.gpus,
            "outcomes": dict(run.brief.outcomes),
            "figures": {
                metric: asdict(mean)
                for metric in trend.metrics
                if (mean := mean_in(run.brief, metric)) is not None
            },
        }
        for run in trend.runs
    ]
    document = {
        "schema": SCHEMA,
        "kind": "trend",
        "choice": trend.choice,
        "unreadable": list(trend.unreadable),
        "runs": runs,
        "subjects": [to_plain(subject) for subject in trend.subjects()],
    }
    return json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
