"""The off-line verbs: `pytest-vllm VERB ...`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.backends import command_line
from pytest_vllm.domain.errors import VllmError
from pytest_vllm.domain.text import closest, redact
from pytest_vllm.plugin.options import read_target
from pytest_vllm.plugin.preflighting import main as preflight
from pytest_vllm.plugin.recording import main as golden
from pytest_vllm.simulator.command import main as simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_USAGE_ERROR = 4
_HELP = """usage: pytest-vllm VERB [options]

verbs:
  command   print the command that starts the same server by hand
            (takes the --vllm-* options of pytest, see pytest --help)
  preflight look at engine, image, host, model and arguments, and start nothing
            (takes the --vllm-* options of pytest; see pytest-vllm preflight --help)
  simulate  serve a simulated server, or stand in front of a real one, with defects
            (see pytest-vllm simulate --help)
  golden    record the numbers of an accepted server or a reference
            (see pytest-vllm golden record --help)

To run the acceptance: pytest --vllm-image=IMAGE --vllm-model=MODEL
"""


class CommandVerb:
    """Prints the command line of a target in place of a test run."""

    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Resolve the target as a run would, print and end."""
        try:
            target, _ = read_target(config)
            print(redact(command_line(target).rstrip(), target.secrets(os.environ)))  # noqa: T201 - the verb's output
        except VllmError as error:
            print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
            return error.exit_code
        return 0


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Words after the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(_HELP, end="")  # noqa: T201 - the help
        return 0 if words else _USAGE_ERROR
    if words[0] not in _VERBS:
        known = tuple(_VERBS)
        print(  # noqa: T201 - for the terminal
            f"ERROR: there is no verb {words[0]!r}{closest(words[0], known)}\n\n{_HELP}",
            end="",
            file=sys.stderr,
        )
        return _USAGE_ERROR
    return _VERBS[words[0]](words[1:])


def _command(words: list[str]) -> int:
    return int(pytest.main(words, plugins=[CommandVerb()]))


_VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "command": _command,
    "golden": golden,
    "preflight": preflight,
    "simulate": simulate,
}
