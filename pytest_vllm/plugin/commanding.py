"""`pytest-vllm command`: the command line that starts the same server by hand."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends import command_line
from pytest_vllm.domain.errors import VllmError
from pytest_vllm.domain.text import redact
from pytest_vllm.plugin.options import read_target
from pytest_vllm.plugin.verb import run_verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


class CommandVerb:
    """Prints the command line of a target in place of a test run."""

    def __init__(self) -> None:
        self.ran = False

    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Resolve the target as a run would, print and end."""
        self.ran = True
        try:
            target, _ = read_target(config)
            print(redact(command_line(target).rstrip(), target.secrets(os.environ)))  # noqa: T201 - the verb's output
        except VllmError as error:
            print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
            return error.exit_code
        return 0


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    return run_verb(words, CommandVerb())
