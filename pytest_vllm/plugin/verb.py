"""Runs a verb that takes pytest's own `--vllm-*` options, in place of a test run."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAN = ("--disable-plugin-autoload", "-p", "pytest_vllm.plugin")
_QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
"""This package is imported before pytest, which a project with strict warnings would refuse."""


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

    Returns:
        The exit code.
    """
    held = io.StringIO()
    with contextlib.redirect_stderr(held):
        code = int(pytest.main([*_LEAN, *_QUIET, *words], plugins=[verb]))
    if not verb.ran:
        return int(pytest.main([*_QUIET, *words], plugins=[verb]))
    print(held.getvalue(), end="", file=sys.stderr)  # noqa: T201 - what was held back
    return code
