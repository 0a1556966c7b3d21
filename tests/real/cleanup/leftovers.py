"""What a run may leave on a host, and how to find it without trusting the run's own books."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from docker.errors import NotFound

from pytest_vllm.adapters.backends.container import OWNER_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable

    import docker

_PROC = Path("/proc")
_SHM = Path("/dev/shm")  # noqa: S108 - where vLLM's shared memory is
_LISTEN = "0A"
_SHARED = ("pytest-vllm-ports-", "pytest-vllm-gpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What belonged to a run at one moment.

    Attributes:
        processes: All processes with the mark, and all that descend from them.
        sockets: Inodes of the sockets on which they, or the engine for them, listened.
    """

    processes: tuple[psutil.Process, ...] = ()
    sockets: frozenset[str] = frozenset()


def marked(mark: str) -> list[int]:
    """Return the processes that carry a mark in their environment or in their title."""
    wanted = mark.encode()
    found = []
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def titles(mark: str) -> list[str]:
    """Return the command lines of the processes that carry a mark, and of their descendants."""
    found = []
    for process in _members(mark):
        with suppress(psutil.NoSuchProcess):
            found.append(" ".join(filter(None, process.cmdline())))
    return found


def family(mark: str, client: docker.DockerClient) -> Family:
    """Note who belongs to a run now, to look for the same ones later."""
    processes = _members(mark)
    ports = set()
    for container in containers(mark, client):
        for bound in (container.ports or {}).values():
            ports |= {int(binding["HostPort"]) for binding in bound or ()}
    held = {inode for process in processes for inode in _sockets(process.pid)}
    sockets = {inode for port, inode in _listeners() if inode in held or port in ports}
    return Family(processes=tuple(processes), sockets=frozenset(sockets))


def containers(mark: str, client: docker.DockerClient) -> list[docker.models.containers.Container]:
    """Return the containers, in any state, that were given a mark as a variable."""
    every = client.containers.list(all=True, ignore_removed=True)
    return [c for c in every if any(mark in word for word in c.attrs["Config"]["Env"] or ())]


def owned(pid: int, client: docker.DockerClient) -> list[docker.models.containers.Container]:
    """Return the containers that say that a process of this host owns them."""
    labelled = {"label": OWNER_LABEL}
    every = client.containers.list(all=True, filters=labelled, ignore_removed=True)
    return [c for c in every if json.loads(c.labels[OWNER_LABEL]).get("pid") == pid]


def find(
    mark: str,
    *,
    pid: int,
    runs: Iterable[str],
    known: Family,
    tmp: Path,
    client: docker.DockerClient,
) -> list[str]:
    """Describe all that a run has left.

    Args:
        mark: Text that its processes, containers and segments carry.
        pid: Process ID of its pytest, after which preflight names what it makes.
        runs: IDs of the run; its networks and volumes are named after them.
        known: Who belonged to it while it ran.
        tmp: Temporary folder that nobody else uses.
        client: The engine that it used.
    """
    left = [f"process {_describe(pid)}" for pid in marked(mark) if _runs(pid)]
    left += [f"process {_describe(p.pid)}" for p in known.processes if _lives(p)]
    left += [f"container {c.name} ({c.status})" for c in containers(mark, client)]
    left += [f"container {c.name} ({c.status})" for c in owned(pid, client)]
    left += [f"network {n.name}" for n in client.networks.list(names=[f"-preflight-{pid}-"])]
    for run in runs:
        mine = {"label": f"com.docker.compose.project=pv-{run}"}
        named = client.containers.list(all=True, filters=mine, ignore_removed=True)
        left += [f"container {c.name} ({c.status})" for c in named]
        left += [f"network {n.name}" for n in client.networks.list(names=[f"pv-{run}"])]
        left += [f"volume {v.name}" for v in client.volumes.list(filters=mine)]
    left += [f"file {_describe_file(path, tmp)}" for path in _below(tmp) if not _shared(path)]
    left += [f"segment {path.name}" for path in _SHM.glob(f"*{mark}*")]
    left += [f"port {port}" for port, inode in _listeners() if inode in known.sockets]
    return sorted(set(left))


def remove(
    mark: str, *, pid: int, runs: Iterable[str], known: Family, client: docker.DockerClient
) -> None:
    """Remove what a failed test has shown to be left, so that the next one starts clean."""
    for process in known.processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for member in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    for container in (*containers(mark, client), *owned(pid, client)):
        with suppress(NotFound):
            container.remove(force=True, v=True)
    for run in runs:
        for network in client.networks.list(names=[f"pv-{run}"]):
            network.remove()
    for segment in _SHM.glob(f"*{mark}*"):
        segment.unlink(missing_ok=True)


def _members(mark: str) -> list[psutil.Process]:
    """Return the processes that carry a mark, and their descendants.

    Real vLLM writes titles over the environment of its engine and workers.
    """
    found: dict[int, psutil.Process] = {}
    for pid in marked(mark):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for member in (process, *process.children(recursive=True)):
                found[member.pid] = member
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    """Return all below a folder; what vanishes meanwhile is no error, as it is with `rglob`."""
    walked = os.walk(folder)
    return [Path(where, name) for where, folders, files in walked for name in folders + files]


def _shared(path: Path) -> bool:
    """Tell whether a path is a folder that all runs of a user share, and that is empty or gone."""
    if not path.name.startswith(_SHARED):
        return False
    try:
        return not any(path.iterdir())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def _describe_file(path: Path, tmp: Path) -> str:
    return str(path.relative_to(tmp))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _describe(pid: int) -> str:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return f"{pid} {' '.join(process.cmdline())[:120]}"
    return f"{pid} (gone meanwhile)"


def _listeners() -> list[tuple[int, str]]:
    """Return port and inode of listening sockets (proc_pid_net(5))."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in (_PROC / "net" / table).read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                found.append((int(fields[1].rpartition(":")[2], 16), fields[9]))
    return found


def _sockets(pid: int) -> list[str]:
    found = []
    with suppress(OSError):
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                link = str(descriptor.readlink())
                if link.startswith("socket:["):
                    found.append(link[8:-1])
    return found
