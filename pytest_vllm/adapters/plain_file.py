"""Reads files of a folder that somebody else may have filled: nothing that hangs or never ends."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, TypeVar

from pytest_vllm.domain.errors import VllmError
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from pathlib import Path

_Taken = TypeVar("_Taken")


class UnreadableFileError(VllmError):
    """A file that is there cannot be read, or is none that holds content of its own."""


def read_plain(path: Path, *, largest: int) -> bytes | None:
    """Return the content of a file, `None` where there is none.

    Args:
        path: The file.
        largest: How many bytes it may have.

    Raises:
        UnreadableFileError: It cannot be read, is too large, or is a pipe, a device or a folder.
    """
    return _take(path, largest, lambda file: file.read(largest))


def sha256_plain(path: Path, *, largest: int) -> str | None:
    """Return the digest of a file in hexadecimal, `None` where there is none; see `read_plain`."""
    return _take(path, largest, lambda file: hashlib.file_digest(file, "sha256").hexdigest())


def _take(path: Path, largest: int, take: Callable[[BufferedReader], _Taken]) -> _Taken | None:
    shown = one_line(path.name, 60)
    try:
        with open(path, "rb", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFileError(f"{shown} cannot be read: it is no plain file")
            if status.st_size > largest:
                raise UnreadableFileError(f"{shown} has more than {largest:,} bytes")
            return take(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UnreadableFileError(f"{shown} cannot be read: {why}") from None


def _at_once(path: str, flags: int) -> int:
    """Open a file; one that is a pipe without waiting for whoever writes into it."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
