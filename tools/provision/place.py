"""Where provisioned things live, and how a half-made one never counts as made."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MB = 1_000_000
STARTED = time.monotonic()
HELD_LOCKS: set[int] = set()
"""File descriptors of the locks held now. Children inherit them, so that a step whose parent was
killed keeps its lock until the orphan has ended."""

_VOICE = threading.Lock()


class ProvisionError(Exception):
    """A step cannot be done; the message says what was asked, what was seen and what to do."""


def say(step: str, text: str) -> None:
    """Print one line of progress on standard error: seconds since the start, step, text."""
    with _VOICE:
        print(f"[{time.monotonic() - STARTED:5.0f} s] {step}: {text}", file=sys.stderr, flush=True)


def in_mb(size_bytes: int) -> str:
    """Write a size as megabytes (10**6 bytes), with a decimal only where it says something.

    >>> in_mb(192_000_000), in_mb(1_340_000), in_mb(20_000)
    ('192 MB', '1.3 MB', '0.02 MB')
    """
    size = size_bytes / MB
    digits = 0 if size >= 10 else 1 if size >= 1 else 2  # noqa: PLR2004 - where a digit is read
    return f"{size:.{digits}f} MB"


def cache_root() -> Path:
    """Return the folder of everything provisioned (`PYTEST_VLLM_CACHE`); make it if needed."""
    chosen = os.environ.get("PYTEST_VLLM_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(chosen).expanduser() if chosen else Path(home) / "pytest-vllm"
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of one thing to make; tell and wait if another process makes it."""
    folder = cache_root() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(name, f"being made already; waiting for it ({file.name})")
            fcntl.flock(file, fcntl.LOCK_EX)
        HELD_LOCKS.add(file.fileno())
        try:
            yield
        finally:
            HELD_LOCKS.discard(file.fileno())
            # closing would not do: a child of another step may have inherited this lock
            fcntl.flock(file, fcntl.LOCK_UN)


def make_once(final: Path, build: Callable[[Path], None]) -> Path:
    """Return `final`, made by `build` in a folder beside it that is renamed when complete."""
    if final.exists():
        return final
    with locked(final.name):
        if final.exists():
            return final
        partial = final.with_name(f"{final.name}.partial")
        remove_tree(partial)
        partial.mkdir(parents=True, mode=0o755)
        build(partial)
        partial.rename(final)
    say(final.name, f"ready, {in_mb(disk_bytes(final))} in {final}")
    return final


def remove_tree(folder: Path) -> None:
    """Delete a folder, never through something mounted inside it."""
    if not folder.exists():
        return
    for mount in _mounts_below(folder):
        subprocess.run(["umount", "--lazy", mount], check=False)
    left = _mounts_below(folder)
    if left:
        raise ProvisionError(
            f"{folder} was left half-made and {left[0]} is still mounted in it. "
            f"Unmount it as root (umount {left[0]}), then try again."
        )
    shutil.rmtree(folder)


def _mounts_below(folder: Path) -> list[str]:
    """Return the mount points below a folder, deepest first (Linux; elsewhere none)."""
    table = Path("/proc/self/mountinfo")
    if not table.exists():
        return []
    points = [line.split()[4] for line in table.read_text().splitlines()]
    return sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True)


def disk_bytes(folder: Path) -> int:
    """Add up the sizes of the files below a folder, in bytes."""
    return sum(
        (Path(at) / name).lstat().st_size for at, _, names in os.walk(folder) for name in names
    )


def demand_space(step: str, needed_bytes: int) -> None:
    """Raise before a long download if the cache folder's disk cannot hold the result."""
    free = shutil.disk_usage(cache_root()).free
    if free < needed_bytes:
        raise ProvisionError(
            f"{step} needs about {in_mb(needed_bytes)} on the disk of {cache_root()}, and "
            f"{in_mb(free)} are free. Make room, or set PYTEST_VLLM_CACHE to another disk."
        )
