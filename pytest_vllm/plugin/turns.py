"""Lets one xdist worker have the server for itself while a check needs it idle."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import pytest

from pytest_vllm.plugin.outcomes import CHECK, uses_server

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


class TurnsPlugin:
    """Shares the server between workers: any number of checks, or one that runs alone.

    Args:
        path: File that all workers of a run lock; the lock ends with its process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Hold the lock while a test talks to the server."""
        if not uses_server(item):
            return (yield)
        check = item.stash.get(CHECK, None)
        with self._locked(alone=check is not None and check.alone):
            return (yield)

    @contextmanager
    def _locked(self, *, alone: bool) -> Iterator[None]:
        with self._path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield


def turns_path(file: IO[bytes]) -> str:
    """Return a path by which a worker on this host opens an unnamed file of this process.

    A file without a name is gone when its last user is, whatever ends that.
    """
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"
