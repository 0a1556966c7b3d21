"""`pytest-vllm trend`: says what became of verdicts and figures over many runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pytest_vllm.adapters.runs import list_runs
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.figure_names import figure_name
from pytest_vllm.domain.trend_lines import METRICS, TrendRun
from pytest_vllm.evidence.choosing import add_choice, chosen
from pytest_vllm.evidence.listing import limit_of, none_found
from pytest_vllm.evidence.output import add_output, put_out
from pytest_vllm.reports.trend_md import trend_json, trend_md
from pytest_vllm.reports.trend_words import Trend

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_REPORT = "report.html"
_DESCRIPTION = """\
Says what became of verdicts and figures over many runs: a page with the verdicts in the order of
time, and each figure with its interval; only runs of the same machine, model, arguments and load
are joined by a line.
"""
_EPILOG = """\
  pytest-vllm trend --output trend.html
  pytest-vllm trend --model Qwen3-8B --gpu MI300X --since 90d --metric ttft-p99 --output trend.html
  pytest-vllm trend --verdict promote --md

exit code: 0, also when there is no run; 4 the command is wrong or there is no folder of runs, 75
the file cannot be written.
"""


@ends_clearly
def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    asked = _parser().parse_args(list(words))
    put_out(_rendered(_trend(asked), asked.form), path=asked.output, overwrite=asked.overwrite)
    return 0


def _parser() -> WordParser:
    parser = WordParser("trend", description=_DESCRIPTION, epilog=_EPILOG)
    add_choice(parser)
    parser.add_argument("--limit", metavar="N", default="0", help="the newest N only (0: all)")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help=f"figure, such as ttft-p99; may be given again (default: {', '.join(METRICS)})",
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--html",
        dest="form",
        action="store_const",
        const="html",
        default="html",
        help="one self-contained page (the default)",
    )
    forms.add_argument(
        "--md", dest="form", action="store_const", const="md", help="Markdown: a table of the runs"
    )
    forms.add_argument(
        "--json", dest="form", action="store_const", const="json", help="JSON for programs"
    )
    add_output(parser)
    return parser


def _trend(asked: argparse.Namespace) -> Trend:
    root, choice = chosen(asked)
    metrics = tuple(dict.fromkeys(figure_name("--metric", name) for name in asked.metric))
    found = list_runs(root, choice)
    limit = limit_of(asked.limit)
    shown = list(reversed(found[:limit] if limit else found))
    if not shown:
        print(none_found(root, choice), file=sys.stderr)  # noqa: T201 - for the terminal
    beside = Path(asked.output).expanduser().parent if asked.output else Path()
    return Trend(
        runs=[
            TrendRun(name=run.folder.name, brief=run.brief, link=_link(run.folder, beside))
            for run in shown
            if run.brief is not None
        ],
        metrics=metrics or METRICS,
        choice=choice.words(),
        unreadable=[run.folder.name for run in shown if run.brief is None],
    )


def _link(folder: Path, beside: Path) -> str:
    """Return the address of a run's report as the page is to name it, empty without a report."""
    report = folder / _REPORT
    try:
        return quote(Path(os.path.relpath(report, beside)).as_posix()) if report.is_file() else ""
    except (OSError, ValueError) as error:
        raise TargetError(
            f"--output: no way leads from it to {folder}: {error}",
            advice="name a file in a folder that can be written",
        ) from None


def _rendered(trend: Trend, form: str) -> str:
    if form == "json":
        return trend_json(trend)
    if form == "md":
        return trend_md(trend)
    from pytest_vllm.reports.trend_html import trend_html  # noqa: PLC0415 - draws plots

    return trend_html(trend)
