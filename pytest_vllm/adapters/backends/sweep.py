"""Takes away what earlier runs left whose owner is dead: the last layer of the clean-up.

A run cleans up itself, and its reaper does when it is killed. What is found here was left because
the reaper was killed as well, the engine was down, or the host was rebooted. Only what names a dead
owner of this host is touched; a kept server, and one that was started by hand, names none.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.container import OWNER_LABEL
from pytest_vllm.adapters.backends.lease import GPU_FOLDER
from pytest_vllm.adapters.backends.lockfile import remove_unheld
from pytest_vllm.adapters.backends.owner import OWNER_VARIABLE, Owner, read_owner
from pytest_vllm.adapters.backends.port import lock_folder
from pytest_vllm.adapters.backends.removal import EngineApi, Removal
from pytest_vllm.adapters.backends.scratch import abandoned_folders
from pytest_vllm.adapters.backends.session import Session, all_pids, environment_of
from pytest_vllm.domain.finding import Fault, Finding, Severity

if TYPE_CHECKING:
    from pathlib import Path

_GRACE_S = 5.0
_KILL_S = 5.0
_SHOWN = 5


def sweep_host(*, gpu_folder: Path = GPU_FOLDER) -> Removal:
    """Remove processes, folders and lock files of dead owners from this host."""
    result = Removal()
    for marker in sorted(_orphaned_markers()):
        session = Session(sid=0, marker=marker)
        found = session.members()
        left = session.end(grace_s=_GRACE_S, limit_s=_KILL_S)
        result += Removal(removed=tuple(f"process {pid}" for pid in found if pid not in left))
        if left:
            result += Removal(problem=f"processes that survive SIGKILL: {left}")
    for folder, owner in abandoned_folders():
        if owner.is_dead(running=False):
            shutil.rmtree(folder, ignore_errors=True)
            result += Removal(removed=(f"folder {folder}",))
    for locks in (lock_folder(), gpu_folder):
        files = sorted(locks.iterdir()) if locks.is_dir() else []
        gone = tuple(f"lock file {file}" for file in files if remove_unheld(file))
        result += Removal(removed=gone)
    return result


def sweep_engine(api: EngineApi) -> Removal:
    """Remove containers, networks and volumes of dead owners from an engine.

    An engine that does not answer is told of by who needs it, so nothing is said here.
    """
    try:
        things = api.find(OWNER_LABEL)
    except OSError:
        return Removal()
    # Another host's engine may hold what a host of our name has left, so only there a reboot tells.
    local = api.url.startswith("unix://")
    result = Removal()
    for thing in things:
        owner = _owner(thing.labels[OWNER_LABEL])
        if owner is None or not owner.is_dead(running=thing.running or not local):
            continue
        try:
            api.remove(thing)
        except OSError as error:
            result += Removal(problem=str(error))
        else:
            result += Removal(removed=(f"{thing.kind} {thing.name}",))
    return result


def tell(swept: Removal) -> tuple[Finding, ...]:
    """Say what was swept, in findings; none when nothing was."""
    findings = []
    if swept.removed:
        shown = ", ".join(swept.removed[:_SHOWN])
        more = len(swept.removed) - _SHOWN
        seen = f"runs that were killed had left {shown}" + (f" and {more} more" if more > 0 else "")
        findings.append(
            Finding(
                id="cleanup.swept",
                severity=Severity.NOTE,
                fault=Fault.HOST,
                seen=f"{seen}; removed",
            )
        )
    if swept.problem:
        findings.append(
            Finding(
                id="cleanup.not-swept",
                severity=Severity.WARNING,
                fault=Fault.HOST,
                seen=f"what a killed run has left could not be removed: {swept.problem}",
                cure="docker ps -a --filter label=pytest-vllm.owner",
            )
        )
    return tuple(findings)


def _orphaned_markers() -> set[str]:
    """Return the marks of launches whose owner is dead."""
    markers = set()
    for pid in all_pids():
        values = dict(
            entry.decode("utf-8", "replace").partition("=")[::2] for entry in environment_of(pid)
        )
        owner, marker = _owner(values.get(OWNER_VARIABLE, "")), values.get("PYTEST_VLLM_LAUNCH")
        if owner is not None and marker and owner.is_dead():
            markers.add(f"PYTEST_VLLM_LAUNCH={marker}")
    return markers


def _owner(text: str) -> Owner | None:
    try:
        return read_owner(json.loads(text))
    except ValueError:
        return None
