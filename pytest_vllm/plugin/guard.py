"""What is made before there is a server, and how it goes when this process is killed meanwhile."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.container import OWNER_LABEL
from pytest_vllm.adapters.backends.engine import find_endpoint, variables
from pytest_vllm.adapters.backends.owner import OWNER_VARIABLE, owner_text
from pytest_vllm.adapters.backends.reaper import Reaper
from pytest_vllm.adapters.backends.removal import EngineApi
from pytest_vllm.adapters.backends.scratch import Scratch
from pytest_vllm.adapters.backends.session import Session
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_vllm.domain.target import Target

_LOG = "reaper.log"
_MARKER = "PYTEST_VLLM_LAUNCH"


def start_reaper(target: Target, folder: Path) -> Reaper | None:
    """Start the reaper of a run; a server that is attached to needs none.

    Args:
        target: What the run is about.
        folder: Folder of the run.

    Raises:
        HostError: No process can be started.
    """
    if target.backend == "attach":
        return None
    try:
        return Reaper(folder / _LOG)
    except OSError as error:
        raise HostError(
            f"no process can be started: {error.strerror}",
            advice="look at the limits of this user: ulimit -u",
        ) from None


@contextmanager
def guarded(target: Target, reaper: Reaper | None) -> Iterator[None]:
    """Let the reaper and later runs find what is made within a block, and where it is made.

    Commands carry a mark and their owner, temporary files have a folder of their own. Containers
    and networks carry this process as their owner by themselves.
    """
    if reaper is None:
        yield
        return
    mark = f"look-{os.getpid()}"
    marker = f"{_MARKER}={mark}"
    reaper.session(Session(sid=0, marker=marker))
    if target.backend == "docker":
        _name_engine(reaper, marker)
    scratch = Scratch.plan(os.environ)
    reaper.folder(scratch.folder)
    scratch.make()
    before, tempfile.tempdir = tempfile.tempdir, str(scratch.folder)
    try:
        with variables({_MARKER: mark, OWNER_VARIABLE: owner_text()}):
            yield
    finally:
        tempfile.tempdir = before
        scratch.remove()


def _name_engine(reaper: Reaper, marker: str) -> None:
    try:
        endpoint = find_endpoint(os.environ)
    except HostError:
        return  # the look tells of it
    reaper.engine(EngineApi(url=endpoint.url), [f"{OWNER_LABEL}={owner_text()}"], marker=marker)
