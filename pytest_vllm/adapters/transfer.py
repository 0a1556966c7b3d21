"""What a download has brought into the Hub cache, since vLLM's log says nothing of it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from pytest_vllm.adapters.hub_cache import hub_cache, repository_folder
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
_INDEX = "model.safetensors.index.json"
_ASIDE = 1.05
"""Files besides the weights make a repository this much larger at most."""


class CacheMeter:
    """Measures one repository of a Hub cache.

    Args:
        folder: The repository, `models--ORG--NAME`; it may not exist yet.
        total: Size of all weights in bytes, `None` when nobody knows.
    """

    def __init__(self, folder: Path, *, total: int | None = None) -> None:
        self._folder = folder
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
        """Say how far a download of this size is.

        The total is that of the index, which vLLM fetches before the weights that it names. None is
        known when there is more than it says, since other revisions lie there, too.
        """
        if self._total is None:
            self._total = self._read_index()
        total = self._total
        if total is None or size > _ASIDE * total:
            return Progress(done=size, total=None, unit="bytes")
        return Progress(done=min(size, total), total=total, unit="bytes")

    def _read_index(self) -> int | None:
        for file in self._folder.glob(f"snapshots/*/{_INDEX}"):
            try:
                size = json.loads(file.read_text("utf-8"))["metadata"]["total_size"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not whole yet, or in a form of its own
            if isinstance(size, int | float) and size > 0:
                return int(size)
        return None


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
        self._seen = False

    def look(self) -> bool:
        """Look, once a second; tell whether bytes have arrived since the last look."""
        startup = self._startup
        if startup.phase not in _BEFORE or startup.elapsed_s - self._looked_s < _LOOK_S:
            return False
        self._looked_s = startup.elapsed_s
        size, before = self._meter.size(), self._size
        self._size = size
        if self._seen and startup.phase != "download":  # the log has told of its end
            self._seen, self._first = False, size
        if size > before and size - self._first >= _WEIGHTS_FROM:
            self._seen = True
            startup.enter("download", self._meter.progress(size))
        return size > before


def follow_download(
    target: Target, startup: Startup, environ: Mapping[str, str]
) -> Callable[[], bool]:
    """Return what looks after the download of a target's model; it tells whether bytes arrive."""
    if target.backend == "attach" or target.model is None or target.model_is_path:
        return lambda: False
    given = {v.name: v.value for v in target.env if v.value} if target.backend == "process" else {}
    cache = hub_cache({**environ, **given})
    folder = repository_folder(cache, target.model)
    return Transfer(CacheMeter(folder, total=known_weights(target.model)), startup).look
