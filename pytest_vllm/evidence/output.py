"""Where an off-line verb writes: to the terminal, or to a file that it does not destroy."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.text import one_line
from pytest_vllm.evidence.guard import refuse_evidence

if TYPE_CHECKING:
    from pytest_vllm.domain.command_words import WordParser

_MODE = 0o666
"""Of a new file, less what the umask takes away."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def add_output(parser: WordParser) -> None:
    """Add `--output` and `--overwrite`."""
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write it into this file instead of to the terminal; one that is there stays as it "
        "is without --overwrite",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the file of --output if it is there; evidence of a run is never replaced",
    )


def put_out(
    text: str, *, path: str | None, overwrite: bool = False, own: Path | None = None
) -> None:
    """Print a text, or write it into a file, whole or not at all.

    Evidence is never replaced, see `refuse_evidence`.

    Args:
        text: What is written.
        path: File, `None` for the terminal.
        overwrite: Whether a file that is there is replaced.
        own: A file of an evidence folder that may be replaced all the same, because it is made
            again of the `run.json` beside it.

    Raises:
        TargetError: The file is there already, is evidence, or its name makes no sense.
        HostError: It cannot be written.
    """
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(_data(text))  # UTF-8, whatever the locale says
        sys.stdout.buffer.flush()
        return
    shown = one_line(path, 200)
    try:
        file = Path(path).expanduser()
        if not path or file.is_dir():
            raise TargetError(f"--output: {shown or 'an empty name'} is no file", advice=_ADVICE)
        if overwrite:
            refuse_evidence(file, own=own)
        elif os.path.lexists(file):
            raise _taken(shown)
        if not file.parent.is_dir():
            raise TargetError(
                f"--output: there is no folder {one_line(str(file.parent), 200)}", advice=_ADVICE
            )
        _write(file, text, overwrite=overwrite)
    except FileExistsError:
        raise _taken(shown) from None
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise HostError(f"--output: cannot write {shown}: {why}", advice=_ADVICE) from None
    print(f"wrote {shown}", file=sys.stderr)  # noqa: T201 - for the terminal


_ADVICE = "name a file in a folder that can be written"


def _taken(shown: str) -> TargetError:
    return TargetError(
        f"--output: there is a file {shown} already",
        advice="name another one, or replace it with --overwrite",
    )


def _write(file: Path, text: str, *, overwrite: bool) -> None:
    """Write a file whole, with the mode of the one that it replaces, else by the umask.

    Raises:
        FileExistsError: It is there, maybe only since a moment, and is not to be replaced.
    """
    mode = _mode(file) if overwrite else None
    temporary = file.parent / f".writing-{uuid.uuid4().hex}"
    handle = os.open(temporary, _NEW, _MODE if mode is None else mode)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(_data(text))
        if mode is not None:
            temporary.chmod(mode)
        if overwrite:
            temporary.replace(file)
        else:
            _add(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _mode(file: Path) -> int | None:
    """Return who may do what with a file, `None` where there is none."""
    try:
        return file.stat().st_mode & 0o777
    except FileNotFoundError:
        return None


def _add(temporary: Path, file: Path) -> None:
    """Give a file its name if nothing has it."""
    try:
        file.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: an empty file keeps the name until it is there
        os.close(os.open(file, _NEW, _MODE))
        temporary.replace(file)


def _data(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
