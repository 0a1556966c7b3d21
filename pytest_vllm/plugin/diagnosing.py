"""`pytest-vllm diagnose`: says of any log or container why the server did not come up."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.knowledge import signatures, wide_context
from pytest_vllm.domain.diagnosis import diagnose, holds_start, phase_of
from pytest_vllm.domain.errors import TargetError, VllmError
from pytest_vllm.domain.text import redact, secrets_in
from pytest_vllm.reports.diagnosis import diagnosis_json, diagnosis_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from pytest_vllm.domain.diagnosis import ServerEnd

_LONGEST = 64 * 2**20
"""Bytes of a log that are looked at: its end, since that is where a failure stands."""
_CHUNK = 2**20
_BAD_ARGUMENT = 4
_DESCRIPTION = """Says why a vLLM server did not come up, or ended: cause, way out, evidence.

Exit code: 0 the log could be read, whatever it says; 4 it could not.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """What there is to judge.

    Attributes:
        text: The log.
        first_line: Number of its first line.
        end: How the server ended, `None` when only a log is known.
        sent: What the container was started with.
        image: What its image would have started.
        warnings: What is unsafe about its start.
    """

    text: str
    first_line: int = 1
    end: ServerEnd | None = None
    sent: str = ""
    image: str = ""
    warnings: tuple[str, ...] = ()


def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="pytest-vllm diagnose",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        metavar="FILE|CONTAINER",
        help="a log file, - for standard input, or the name or ID of a container on the engine",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    try:
        asked = parser.parse_args(list(words))
    except SystemExit as end:
        return 0 if end.code in (0, None) else _BAD_ARGUMENT
    try:
        material = _read(asked.what)
    except VllmError as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
        return _BAD_ARGUMENT
    print(redact(_judged(material, as_json=asked.json), secrets_in(os.environ)))  # noqa: T201 - the output
    return 0


def _judged(material: _Material, *, as_json: bool) -> str:
    context = replace(wide_context(), sent=material.sent, image=material.image)
    found = diagnose(
        (material.text,),
        signatures(),
        end=material.end,
        context=context,
        first_line=material.first_line,
    )
    known = bool(found) or holds_start((material.text,))
    phase = found[0].phase if found else phase_of((material.text,)) if known else ""
    nothing = _nothing(material, phase)
    if as_json:
        plain = diagnosis_json(found, nothing=nothing, phase=phase, warnings=material.warnings)
        return json.dumps(plain, indent=2, ensure_ascii=False)
    lines = [*diagnosis_lines(found, nothing=nothing)]
    return "\n".join([*lines, *(f"warning: {text}" for text in material.warnings)])


def _nothing(material: _Material, phase: str) -> str:
    if not material.text.strip():
        return "the log is empty: nothing can be said"
    if not phase:
        return "no line of a vLLM start in it: nothing can be said"
    return f"no failure found: the log reaches phase {phase}"


def _read(what: str) -> _Material:
    """Read a file, standard input or a container.

    Raises:
        TargetError: There is nothing of that name, or it cannot be read.
        HostError: The engine that would know a container does not answer.
    """
    if what == "-":
        return _tail_of(sys.stdin.buffer)
    if not what:
        raise TargetError("no file and no container is named", advice="name a log file")
    file = Path(what)
    try:
        if file.is_dir():
            raise TargetError(f"{what} is a folder", advice="name the log file in it")
        with file.open("rb") as stream:
            return _tail_of(stream)
    except FileNotFoundError:
        if "/" in what:
            raise TargetError(f"there is no file {what!r}", advice="name a log file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TargetError(f"{what!r} cannot be read: {reason}", advice="name a log file") from None
    return _container(what)


def _container(name: str) -> _Material:
    from pytest_vllm.adapters.backends.autopsy import read_container  # noqa: PLC0415 - Docker's SDK

    remains = read_container(name, os.environ)
    return _Material(
        text=_decoded(remains.log),
        end=remains.end,
        sent=remains.sent,
        image=remains.image,
        warnings=remains.warnings,
    )


def _tail_of(stream: BinaryIO) -> _Material:
    """Read the end of a stream, counting the lines before it."""
    kept = bytearray()
    first_line = 1
    while chunk := stream.read(_CHUNK):
        kept += chunk
        if len(kept) > 2 * _LONGEST:
            cut = kept.find(b"\n", len(kept) - _LONGEST) + 1 or len(kept) - _LONGEST
            first_line += _breaks(kept[:cut])
            del kept[:cut]
    return _Material(text=_decoded(kept), first_line=first_line)


def _breaks(raw: bytes | bytearray) -> int:
    return raw.count(b"\n") + raw.count(b"\r") - raw.count(b"\r\n")


def _decoded(raw: bytes | bytearray) -> str:
    return raw.decode("utf-8-sig", "replace")
