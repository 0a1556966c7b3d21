"""`pytest-vllm runs`: lists the runs that are over, or shows one of them."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from pytest_vllm.adapters.runs import list_runs, read_run
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import closest, one_line
from pytest_vllm.evidence.choosing import add_artifacts, add_choice, chosen, root_of
from pytest_vllm.evidence.output import put_out
from pytest_vllm.reports.run_list import RunRow, run_lines, runs_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vllm.adapters.runs import ListedRun
    from pytest_vllm.domain.run_choice import RunChoice

_WIDTH = 80
_HELP = """\
usage: pytest-vllm runs list [--image X] [--model X] [--gpu X] [--verdict V] [--since TIME] [--json]
       pytest-vllm runs show RUN

list  a line for each run below the folder of all runs, the newest first
      (see pytest-vllm runs list --help)
show  the screen that a run ended with
      (see pytest-vllm runs show --help)
"""
_LIST_EPILOG = """\
  pytest-vllm runs list --model Qwen3 --gpu MI300X --since 30d
  pytest-vllm runs list --image sha256:9f86 --verdict promote --json

A folder without a readable run.json is listed as unreadable, and left out where something is asked
of a run. The parts of a choice are looked for in any case of letters.

exit code: 0, also when there is none; 4 the command is wrong or there is no such folder.
"""
_SHOW_EPILOG = """\
  pytest-vllm runs show latest
  pytest-vllm runs show 20261122-1819

exit code: 0, whatever the verdict was; 4 there is no such run.
"""


@ends_clearly
def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    if not words or words[0] in ("-h", "--help"):
        print(_HELP, end="")  # noqa: T201 - the help
        return 0 if words else TargetError.exit_code
    if words[0] not in _PARTS:
        raise TargetError(
            f"runs: there is no {one_line(words[0], 60)!r}{closest(words[0], tuple(_PARTS))}",
            advice="pytest-vllm runs list, or pytest-vllm runs show RUN",
        )
    return _PARTS[words[0]](words[1:])


def rows_of(root: Path, choice: RunChoice, *, limit: int = 0) -> list[RunRow]:
    """Return the runs of a choice as rows of a list, the newest first.

    Args:
        root: Folder of all runs.
        choice: Which runs.
        limit: How many at most, 0 for all.

    Raises:
        TargetError: There is no such folder.
    """
    found = list_runs(root, choice)
    return [_row(run) for run in (found[:limit] if limit else found)]


def none_found(root: Path, choice: RunChoice) -> str:
    """Say that there is no run of a choice."""
    said = choice.words()
    return f"no run{f' of {said}' if said else ''} in {root}"


def limit_of(text: str) -> int:
    """Return a number of runs.

    Raises:
        TargetError: It is none.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > len("1000000"):
        raise TargetError(
            f"--limit: {one_line(text, 40)!r} is no number of runs",
            advice="write a whole number; 0 is all",
        )
    return int(text)


def _list(words: Sequence[str]) -> int:
    parser = WordParser(
        "runs list", description="Lists the runs that are over.", epilog=_LIST_EPILOG
    )
    add_choice(parser)
    parser.add_argument("--limit", metavar="N", default="0", help="the newest N only (0: all)")
    parser.add_argument("--json", action="store_true", help="JSON for programs")
    asked = parser.parse_args(list(words))
    root, choice = chosen(asked)
    rows = rows_of(root, choice, limit=limit_of(asked.limit))
    if not rows:
        print(none_found(root, choice), file=sys.stderr)  # noqa: T201 - for the terminal
    if asked.json:
        put_out(runs_json(rows), path=None)
    elif rows:
        put_out(run_lines(rows), path=None)
    return 0


def _show(words: Sequence[str]) -> int:
    parser = WordParser(
        "runs show", description="Shows the screen that a run ended with.", epilog=_SHOW_EPILOG
    )
    parser.add_argument("run", metavar="RUN", help="its run.json, its folder, its ID, latest")
    add_artifacts(parser)
    asked = parser.parse_args(list(words))
    run = read_run(asked.run, root=root_of(asked))
    from pytest_vllm.reports.terminal import summary  # noqa: PLC0415 - loads rich

    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    colour = sys.stdout.isatty()
    text = summary(run.record, width=width, color=colour, evidence=str(run.folder))
    put_out(text if text.endswith("\n") else f"{text}\n", path=None)
    return 0


def _row(run: ListedRun) -> RunRow:
    return RunRow(
        folder=str(run.folder),
        name=run.folder.name,
        began=run.began,
        brief=run.brief,
        problem=run.problem,
    )


_PARTS = {"list": _list, "show": _show}
