"""`pytest-vllm compare`: says what became of checks and figures from one run to another."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from pytest_vllm.adapters.comparand import read_comparand
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.figure_names import figure_name
from pytest_vllm.domain.run_comparison import compare_runs
from pytest_vllm.domain.text import one_line
from pytest_vllm.evidence.choosing import add_artifacts, root_of
from pytest_vllm.evidence.output import add_output, put_out
from pytest_vllm.reports.compare_json import compare_json
from pytest_vllm.reports.compare_md import compare_md
from pytest_vllm.reports.compare_text import compare_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.run_comparison import RunComparison

_WIDTH, _WIDEST = 80, 110
_PERCENT = 100.0
_FORMS = {
    "html": "one self-contained page with the rounds of both sides",
    "md": "Markdown, as a comment or step summary takes it",
    "json": "JSON for programs, with a schema number",
}
_DESCRIPTION = """\
Says what became of the checks and of the figures from one run to another one. Figures that were
made at another time differ by what the host did in between, so this is the weak form; compare two
servers in turns with pytest-vllm ab for the strong form.
"""
_EPILOG = """\
  pytest-vllm compare .vllm/20261122-181930-3fa9c1 .vllm/20261123-090211-81c0de
  pytest-vllm compare latest~1 latest --html --output compare.html
  pytest-vllm compare latest:verdict=PROMOTE,model=Qwen3-8B 20261123-0902
  pytest-vllm compare loads-then/ loads-now/ --allow ttft_p50_ms=20%

GPUs (kind and count), their partition and driver, model, its revision, arguments and load must be
the same, else the difference is named and the figures are not comparable. It takes five rounds or
more on each side; files of pytest-vllm load --json in a folder are rounds.

exit code: 0 nothing is worse; 1 a check broke, a new MUST check fails, a metric is worse, or the
candidate ended in REJECT and the base in PROMOTE; 4 the command is wrong; 75 it cannot be told or
the two cannot be compared, also when a check has no answer any more (an error, or not run) or a
MUST check that passed was not shown again.
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
    allowed = _allowances(asked.allow)
    root = root_of(asked)
    base, candidate = (read_comparand(name, root=root) for name in (asked.base, asked.candidate))
    found = compare_runs(base, candidate, allowed=allowed, force=asked.force)
    put_out(_rendered(found, asked.form), path=asked.output, overwrite=asked.overwrite)
    return found.exit_code


def _parser() -> WordParser:
    parser = WordParser("compare", description=_DESCRIPTION, epilog=_EPILOG)
    what = (
        "a run (its run.json, its folder, its ID, latest, latest~1); a file of pytest-vllm load "
        "--json or a folder of them"
    )
    parser.add_argument("base", metavar="BASE", help=f"the earlier one: {what}")
    parser.add_argument("candidate", metavar="CANDIDATE", help="the later one: the same")
    add_artifacts(parser)
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="METRIC=PERCENT",
        help="by how much a metric may become worse, 10 %% at least; 50 %% of a rate allow 1/1.5 "
        "of it, which is -33.3 %%; it is then compared also if it is not by default, and where "
        "neither side has it nothing can be told; may be given again",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="compare figures also of other machines, models, arguments or work; every rendering "
        "says that it was forced",
    )
    forms = parser.add_mutually_exclusive_group()
    for form, about in _FORMS.items():
        forms.add_argument(
            f"--{form}", dest="form", action="store_const", const=form, default="text", help=about
        )
    add_output(parser)
    return parser


def _rendered(found: RunComparison, form: str) -> str:
    if form == "json":
        return compare_json(found)
    if form == "md":
        return compare_md(found)
    if form == "html":
        from pytest_vllm.reports.compare_html import compare_html  # noqa: PLC0415 - draws plots

        return compare_html(found)
    width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDEST)
    return compare_text(found, width=width)


def _allowances(texts: Sequence[str]) -> dict[str, float]:
    allowed: dict[str, float] = {}
    for text in texts:
        metric, share = _allowance(text)
        if metric in allowed:
            raise TargetError(f"--allow: {metric} is given twice", advice="give it once")
        allowed[metric] = share
    return allowed


def _allowance(text: str) -> tuple[str, float]:
    metric, _, percent = text.partition("=")
    try:
        share = float(percent.removesuffix("%")) / _PERCENT
    except ValueError:
        share = math.nan
    if not metric or not math.isfinite(share) or share <= 0:
        raise TargetError(
            f"--allow={one_line(text)} is not METRIC=PERCENT, of more than 0 %",
            advice="such as --allow ttft_p50_ms=20%",
        )
    return figure_name("--allow", metric), share
