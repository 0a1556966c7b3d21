"""What a download has brought into the Hub cache, since vLLM's log says nothing of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_vllm.adapters.hub_cache import hub_cache
from pytest_vllm.adapters.knowledge import known_weights
from pytest_vllm.domain.phases import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_vllm.adapters.startup import Startup
    from pytest_vllm.domain.target import Target

_LOOK_S = 1.0
_WEIGHTS_FROM = 16 * 2**20
"""Bytes after which it must be weights that come; a large tokenizer has a few MiB."""
_BEFORE = ("start", "config", "load", "download")
_BLOCK = 512


class CacheMeter:
    """Measures one repository of a Hub cache.

    Args:
        folder: The repository, `models--ORG--NAME`; it may not exist yet.
        total: Size of all weights in bytes, `None` when nobody knows.
    """

    def __init__(self, folder: Path, *, total: int | None = None) -> None:
        self._blobs = folder / "blobs"
        self._total = total

    def size(self) -> int:
        """Return the bytes on disk, those of files that are not whole yet included.

        A file that was allotted in advance counts by what was written.
        """
        size = 0
        try:
            with os.scandir(self._blobs) as entries:
                for entry in entries:
                    stat = entry.stat(follow_symlinks=False)
                    size += min(stat.st_size, stat.st_blocks * _BLOCK)
        except OSError:  # not there yet, or a file was renamed at this moment
            return size
        return size

    def progress(self, size: int) -> Progress:
        """Say how far a download of this size is."""
        total = self._total if self._total is not None and size <= self._total else None
        return Progress(done=size, total=total, unit="bytes")


class Transfer:
    """Follows a download and makes it a phase of the start.

    Args:
        meter: Where the bytes arrive.
        startup: The start.
    """

    def __init__(self, meter: CacheMeter, startup: Startup) -> None:
        self._meter = meter
        self._startup = startup
        self._first = self._size = meter.size()
        self._looked_s = startup.elapsed_s

    def look(self) -> bool:
        """Look, once a second; tell whether bytes have arrived since the last look."""
        startup = self._startup
        if startup.phase not in _BEFORE or startup.elapsed_s - self._looked_s < _LOOK_S:
            return False
        self._looked_s = startup.elapsed_s
        size, before = self._meter.size(), self._size
        self._size = size
        if size > before and size - self._first >= _WEIGHTS_FROM:
            if startup.phase != "download":
                startup.enter("download")
            startup.count(self._meter.progress(size))
        return size > before


def follow_download(
    target: Target, startup: Startup, environ: Mapping[str, str]
) -> Callable[[], bool]:
    """Return what looks after the download of a target's model; it tells whether bytes arrive."""
    if target.backend == "attach" or target.model is None or target.model_is_path:
        return lambda: False
    given = {v.name: v.value for v in target.env if v.value} if target.backend == "process" else {}
    cache = hub_cache({**environ, **given})
    folder = cache / f"models--{target.model.replace('/', '--')}"
    return Transfer(CacheMeter(folder, total=known_weights(target.model)), startup).look
