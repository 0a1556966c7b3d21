"""Files that a run locks while it uses something, and that vanish with their use."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def hold(file: Path, *, mode: int = 0o600) -> int | None:
    """Make and lock a file without waiting.

    Args:
        file: Its folder exists.
        mode: Permissions of a new file.

    Returns:
        The descriptor that holds the lock, also not passed on to other programs; `None` when
        somebody else holds it.

    Raises:
        OSError: The file cannot be made or opened.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # Without O_CREAT: the kernel refuses that for another user's file in a folder for all
        # (fs.protected_regular).
        descriptor = os.open(file, flags)
    except FileNotFoundError:
        descriptor = os.open(file, flags | os.O_CREAT, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == file.stat().st_ino:
            return descriptor  # not a file that its owner removed a moment ago
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def let_go(file: Path, descriptor: int) -> None:
    """Give a lock back and leave no file."""
    with contextlib.suppress(OSError):
        file.unlink()  # while it is still locked
    os.close(descriptor)


def remove_unheld(file: Path) -> bool:
    """Remove a lock file unless somebody holds it; tell whether it was removed."""
    try:
        if not file.is_file():
            return False
        descriptor = hold(file)
    except OSError:
        return False
    if descriptor is None:
        return False
    let_go(file, descriptor)
    return True
