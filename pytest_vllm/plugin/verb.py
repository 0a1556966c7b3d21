"""Runs a verb that takes pytest's own `--vllm-*` options, in place of a test run."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_vllm.domain.settings import OPTIONS
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAN = ("--disable-plugin-autoload", "-p", "pytest_vllm.plugin")
_QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
"""This package is imported before pytest, which a project with strict warnings would refuse."""


_UNKNOWN = re.compile(r"error: unrecognized arguments: (.+)")


class Verb(Protocol):
    """A plug-in that ends pytest after its options are known."""

    ran: bool
    """Whether it came to its turn."""

    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Do the work and return the exit code."""


def run_verb(words: Sequence[str], verb: Verb) -> int:
    """Have pytest read options, environment and ini file, then do the work of the verb.

    The plug-ins of other packages take longer to import than most verbs work, so they are left out
    unless the project's pytest settings name options of theirs.

    An option that nobody knows is told in one line, in place of pytest's own usage.

    Returns:
        The exit code.
    """
    code, told = _main([*_LEAN, *_QUIET, *words], verb)
    if not verb.ran:
        code, told = _main([*_QUIET, *words], verb)
        unknown = _unknown(told)
        if code == pytest.ExitCode.USAGE_ERROR and unknown:
            print(f"ERROR: {_refusal(unknown)}", file=sys.stderr)  # noqa: T201 - for the terminal
            return code
    print(told, end="", file=sys.stderr)  # noqa: T201 - what was held back
    return code


def _main(words: Sequence[str], verb: Verb) -> tuple[int, str]:
    """Run pytest; return its exit code and what it wrote to standard error."""
    held = io.StringIO()
    with contextlib.redirect_stderr(held):
        code = int(pytest.main([*words], plugins=[verb]))
    return code, held.getvalue()


def _unknown(told: str) -> tuple[str, ...]:
    """Return the options that pytest does not know, out of what it printed."""
    match = _UNKNOWN.search(told)
    return tuple(word for word in match[1].split() if word.startswith("-")) if match else ()


def _refusal(unknown: Sequence[str]) -> str:
    known = [option.flag for option in OPTIONS]
    names = [word.partition("=")[0] for word in unknown]
    return "; ".join(f"there is no option {name}{closest(name, known)}" for name in names) + (
        "\n  fix: pytest --help lists the --vllm-* options"
    )
