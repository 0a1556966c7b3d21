"""How an off-line verb ends when its words, its files or its host are wrong."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import VllmError
from pytest_vllm.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def ends_clearly(verb: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """Have a verb tell its errors on standard error and return their exit code.

    Args:
        verb: Takes the words that follow its name; returns the exit code, raises `VllmError`, or
            `SystemExit` where argparse has shown the help.
    """

    @functools.wraps(verb)
    def run(words: Sequence[str]) -> int:
        try:
            return verb(words)
        except SystemExit:  # --help
            return 0
        except VllmError as error:
            print(_shown(f"ERROR: {error}"), file=sys.stderr)  # noqa: T201 - for the terminal
            return error.exit_code

    return run


def _shown(text: str) -> str:
    """Return an error as a terminal and the log of a CI may show it.

    A line that begins with two colons is a command to GitHub's runner, and what is told may hold a
    line of somebody else.
    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    return "\n".join(
        f"| {line.lstrip()}" if line.lstrip().startswith("::") else line
        for line in printable(text).split("\n")
    )
