"""Leases of GPUs: two runs on one host do not share a GPU unnoticed.

A run locks one file for each render node that it hands to its server. The lock ends with the
process that holds it, whatever ends that; the file says who it is.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.lockfile import hold, let_go
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GPU_FOLDER = Path("/tmp/pytest-vllm-gpus")  # noqa: S108 - for all users, whatever their TMPDIR is
_POLL_S = 0.5
_EVERYBODY = 0o1777
_SHARED_FILE = 0o666


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLease:
    """GPUs held for one run.

    Attributes:
        files: Lock file and its descriptor, one each.
    """

    files: tuple[tuple[Path, int], ...] = ()

    def release(self) -> None:
        """Give the GPUs back and leave no file."""
        for file, descriptor in self.files:
            let_go(file, descriptor)


def lease_gpus(  # noqa: PLR0913 - who, what, and how long
    nodes: Sequence[str],
    *,
    run_id: str,
    limit_s: float,
    on_wait: Callable[[str], None],
    folder: Path = GPU_FOLDER,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> GpuLease:
    """Lease GPUs, all or none, waiting until their holders have ended.

    Args:
        nodes: Render nodes such as `/dev/dri/renderD128`.
        run_id: Told to whoever waits for us.
        limit_s: Longest wait, 0 for none (`--vllm-gpu-busy=fail`).
        on_wait: Told who holds what, at each look.
        folder: Where the lock files are.
        clock: Seconds that only grow.
        sleep: Waits for some seconds.

    Raises:
        HostError: Another run held one of them to the end of the wait.
    """
    names = sorted(Path(node).name for node in nodes)
    if not names:
        return GpuLease()
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(_EVERYBODY)
    end = clock() + limit_s
    while True:
        busy, lease = _try_all([folder / name for name in names], run_id)
        if lease is not None:
            return lease
        holder = f"{busy.name} is leased by {_holder(busy)}"
        if clock() >= end:
            waited = f" after {limit_s:g} s (--vllm-timeout)" if limit_s else ""
            raise HostError(
                f"GPU {holder}{waited}",
                advice="wait for that run, choose other GPUs with --vllm-gpus=INDEXES"
                + ("" if limit_s else ", or use --vllm-gpu-busy=wait"),
            )
        on_wait(f"waiting: GPU {holder}")
        sleep(_POLL_S)


def _try_all(files: Sequence[Path], run_id: str) -> tuple[Path, GpuLease | None]:
    """Lock all files, or none and say which is busy: two runs never wait for each other's half."""
    held: list[tuple[Path, int]] = []
    for file in files:
        try:
            descriptor = hold(file, mode=_SHARED_FILE)
        except OSError as error:
            GpuLease(files=tuple(held)).release()
            raise HostError(
                f"the lock file {file} of a GPU cannot be used: {error.strerror}",
                advice=f"remove it if no run holds it (fuser {file})",
            ) from None
        if descriptor is None:
            GpuLease(files=tuple(held)).release()
            return file, None
        held.append((file, descriptor))
        with contextlib.suppress(PermissionError):  # made by another user, who has let others in
            os.fchmod(descriptor, _SHARED_FILE)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        note = json.dumps({"pid": os.getpid(), "run": run_id, "since": now})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note.encode(), 0)
    return files[0], GpuLease(files=tuple(held))


def _holder(file: Path) -> str:
    try:
        note = json.loads(file.read_text("utf-8"))
        return f"run {note['run']} (PID {note['pid']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
