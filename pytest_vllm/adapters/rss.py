"""The memory of a server's processes as Linux's /proc shows it (proc_pid_status(5))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.session import all_pids, holder_of, parents

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC = Path("/proc")
_HELD = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_INTERPRETER = re.compile(r"^(python|pypy)[\d.]*$")
_KIB = 1024


def family(root: int) -> tuple[int, ...]:
    """Return a process and all that descend from it, none when it has ended."""
    of = parents()
    if root not in of:
        return ()
    ours, before = {root}, 0
    while len(ours) != before:
        before = len(ours)
        ours |= {pid for pid, parent in of.items() if parent in ours}
    return tuple(sorted(ours))


def held_bytes(pids: Iterable[int]) -> int:
    """Return what processes hold: their own and their shared memory, without mapped files.

    Pages of files (libraries, weights that are mapped) are the kernel's cache, which it takes back.
    A shared segment counts once for each process that has it.
    """
    total = 0
    for pid in pids:
        try:
            text = (_PROC / str(pid) / "status").read_text("utf-8", "replace")
        except OSError:  # it has just ended
            continue
        total += sum(int(size) for size in _HELD.findall(text)) * _KIB
    return total


def is_in_container(pid: int, container: str) -> bool:
    """Tell whether a process that this host shows is that of a container.

    The engine may run elsewhere, or count processes in a namespace of its own.
    """
    try:
        return container in (_PROC / str(pid) / "cgroup").read_text("utf-8", "replace")
    except OSError:
        return False


def server_behind(port: int) -> tuple[int | None, str]:
    """Find the vLLM server that listens on a port of this host.

    What merely forwards (Docker's proxy, ssh, nginx, ...) is not taken for the server.

    Returns:
        Its process ID and an empty text, or `None` and why none was found.
    """
    pid = holder_of(port)
    if pid is None:
        return None, f"no process that this user may see listens on port {port}"
    try:
        program = (_PROC / str(pid) / "exe").readlink().name
        words = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None, f"process {pid}, which listens on port {port}, cannot be looked at"
    if not _INTERPRETER.match(program) or b"vllm" not in words:
        return None, f"port {port} is held by {program} (process {pid}), which is no vLLM server"
    return pid, ""


def living(pids: Iterable[int]) -> tuple[int, ...]:
    """Return those of some processes that have not ended."""
    present = set(all_pids())
    return tuple(pid for pid in pids if pid in present and pid in parents())
