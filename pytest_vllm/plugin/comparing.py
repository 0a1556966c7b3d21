"""`pytest-vllm compare`: says what became of checks and figures from one run to another."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from typing import TYPE_CHECKING, NoReturn

from pytest_vllm.adapters.comparand import read_comparand
from pytest_vllm.domain.check_changes import compare_checks
from pytest_vllm.domain.errors import TargetError, VllmError
from pytest_vllm.domain.figure_names import figure_name
from pytest_vllm.domain.metric_change import Effect
from pytest_vllm.domain.stored import compare_performance
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.regression import judgement_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.adapters.comparand import Comparand
    from pytest_vllm.domain.metric_change import Judgement
    from pytest_vllm.domain.record import Change

_WORSE, _OPEN = 1, 75
_WIDTH, _WIDEST = 80, 110
_PERCENT = 100.0
_DESCRIPTION = """\
Says what became of the checks and of the figures from one run to another one. Figures that were
made at another time differ by what the host did in between, so this is the weak form; compare two
servers in turns with pytest-vllm ab for the strong form.
"""
_EPILOG = """\
  pytest-vllm compare .vllm/20261122-181930-3fa9c1 .vllm/20261123-090211-81c0de
  pytest-vllm compare loads-then/ loads-now/ --allow ttft_p50_ms=20%

It takes five rounds or more on each side; files of pytest-vllm load --json in a folder are rounds.

exit code: 0 nothing is worse, 1 a check broke or a metric is worse, 4 the command is wrong, 75 it
cannot be told or the two cannot be compared.
"""


class _Parser(argparse.ArgumentParser):
    """An argparse whose complaints look like all others of this program."""

    def error(self, message: str) -> NoReturn:
        """Raise what would be printed."""
        raise TargetError(message, advice="see pytest-vllm compare --help")


def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    try:
        asked = _parser().parse_args(list(words))
        allowed = _allowances(asked.allow)
        base, candidate = read_comparand(asked.base), read_comparand(asked.candidate)
    except SystemExit:  # --help
        return 0
    except VllmError as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
        return error.exit_code
    checks = _changes(base, candidate)
    judgement = compare_performance(
        base.performance,
        candidate.performance,
        facts=(base.facts, candidate.facts),
        allowed=allowed,
        names=("the base", "the candidate"),
    )
    lines = [*_check_lines(checks), *_performance_lines(base, candidate, judgement)]
    print("\n".join(lines))  # noqa: T201 - the output
    return _exit_code(checks, judgement)


def _parser() -> _Parser:
    parser = _Parser(
        prog="pytest-vllm compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = "a run.json or its folder; a file of pytest-vllm load --json or a folder of them"
    parser.add_argument("base", metavar="BASE", help=f"the earlier one: {what}")
    parser.add_argument("candidate", metavar="CANDIDATE", help="the later one: the same")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="METRIC=PERCENT",
        help="by how much a metric may become worse, 10 %% at least; it is then compared also if "
        "it is not by default, and where neither side has it nothing can be told; may be given "
        "again",
    )
    return parser


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


def _changes(base: Comparand, candidate: Comparand) -> tuple[Change, ...] | None:
    """Return what became of the checks, `None` when one side has none."""
    if base.record is None or candidate.record is None:
        return None
    return compare_checks(base.record, candidate.record.results).changes


def _check_lines(changes: tuple[Change, ...] | None) -> Iterator[str]:
    if changes is None:
        return
    yield "checks: no change" if not changes else "checks:"
    for change in changes:
        outcomes = f"{change.before or '-'} -> {change.after or '-'}"
        yield f"  {change.kind:<6}  {one_line(change.name)}  ({outcomes})"
    yield ""


def _performance_lines(
    base: Comparand, candidate: Comparand, judgement: Judgement | None
) -> Iterator[str]:
    if judgement is None:
        yield "performance: neither side has a load in it, so no figure was compared"
        return
    width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDEST)
    yield judgement_text(judgement, names=(base.name, candidate.name), width=width)


def _exit_code(changes: tuple[Change, ...] | None, judgement: Judgement | None) -> int:
    effect = None if judgement is None else judgement.effect
    if effect is Effect.WORSE or any(change.kind == "broken" for change in changes or ()):
        return _WORSE
    if effect is Effect.CANNOT_TELL or (effect is None and changes is None):
        return _OPEN
    return 0
