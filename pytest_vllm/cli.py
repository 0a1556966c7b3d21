"""The off-line verbs: `pytest-vllm VERB ...`."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

_USAGE_ERROR = 4
_INTERRUPTED = 128 + 2
"""What a shell reports of a program that Ctrl-C ended."""
_PIPE_CLOSED = 128 + 13
"""What a shell reports of a program that SIGPIPE ended."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_ROOM = 75
"""As for all else that is the host's fault."""
_HELP = """usage: pytest-vllm VERB [options]

verbs:
  ab        say whether one of two servers is slower, by runs of both in turns
            (see pytest-vllm ab --help)
  diagnose  say why a server did not come up, from its log or its container
            (see pytest-vllm diagnose --help)
  command   print the command that starts the same server by hand
            (takes the --vllm-* options of pytest, see pytest --help)
  compare   say what became of checks and figures from one run to another
            (see pytest-vllm compare --help)
  fit       say whether a model fits on GPUs, and what would, before anything is started
            (see pytest-vllm fit --help)
  load      load a server that runs, and say how fast it is and how exact that is
            (see pytest-vllm load --help)
  preflight look at engine, image, host, model and arguments, and start no server
            (takes the --vllm-* options of pytest; see pytest-vllm preflight --help)
  promote   give the image that a run accepted a new tag, with the same digest
            (see pytest-vllm promote --help)
  sign      sign what a run states about its image
            (see pytest-vllm sign --help)
  report    write the reports of a run again, from its run.json
            (see pytest-vllm report --help)
  runs      list the runs that are over, by image, model, GPU, verdict and time
            (see pytest-vllm runs --help)
  simulate  serve a simulated server, or stand in front of a real one, with defects
            (see pytest-vllm simulate --help)
  golden    record the numbers of an accepted server or a reference
            (see pytest-vllm golden record --help)
  trend     say what became of verdicts and figures over many runs
            (see pytest-vllm trend --help)
  verify    hold the statement and the signature of a run against its evidence
            (see pytest-vllm verify --help)

To run the acceptance: pytest --vllm-image=IMAGE --vllm-model=MODEL
"""


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Words after the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else argv
    _show_anything()
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
    module, function = _VERBS[words[0]]
    try:
        code = int(getattr(import_module(module), function)(words[1:]))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("ERROR: interrupted", file=sys.stderr)  # noqa: T201 - for the terminal
        return _INTERRUPTED
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        _drop_output()
        return _PIPE_CLOSED
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _drop_output()
        print(f"ERROR: the output cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201
        return _NO_ROOM
    return code


def _show_anything() -> None:
    """Have what the terminal's encoding lacks, or no encoding has, shown as its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _reader_is_gone() -> bool:
    """Tell whether it is our output that nobody reads any more, as after `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _drop_output() -> None:
    """Have what is still held back go nowhere when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


_VERBS: Mapping[str, tuple[str, str]] = {
    "ab": ("pytest_vllm.plugin.ab", "main"),
    "command": ("pytest_vllm.plugin.commanding", "main"),
    "compare": ("pytest_vllm.evidence.comparing", "main"),
    "diagnose": ("pytest_vllm.plugin.diagnosing", "main"),
    "fit": ("pytest_vllm.fitting", "main"),
    "golden": ("pytest_vllm.plugin.recording", "main"),
    "load": ("pytest_vllm.loading", "main"),
    "preflight": ("pytest_vllm.plugin.preflighting", "main"),
    "promote": ("pytest_vllm.evidence.promoting", "main"),
    "sign": ("pytest_vllm.evidence.signing", "main"),
    "report": ("pytest_vllm.evidence.reporting", "main"),
    "runs": ("pytest_vllm.evidence.listing", "main"),
    "simulate": ("pytest_vllm.simulator.command", "main"),
    "trend": ("pytest_vllm.evidence.trending", "main"),
    "verify": ("pytest_vllm.evidence.verifying", "main"),
}
"""Module and function of each verb: what one needs is no burden to the others."""
