"""A small process that outlives pytest for a moment and takes away what pytest left behind.

It is started before the server, in a session of its own, and hears over a pipe what belongs to the
run. When the run has cleaned up itself it is told so and ends. When the pipe ends without that
word, pytest was killed: then it removes containers, networks, volumes, processes, folders and lock
files of the run, and ends. It needs the standard library only and none of pytest's imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.lockfile import remove_unheld
from pytest_vllm.adapters.backends.removal import EngineApi, Removal, remove_labelled
from pytest_vllm.adapters.backends.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROOT = Path(__file__).parents[3]
_START = "import sys; sys.path.insert(0, {root!r}); from {module} import main; sys.exit(main())"
_PASSED = ("PATH", "HOME", "TMPDIR", "SSH_AUTH_SOCK", "LD_LIBRARY_PATH")
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
_GOODBYE_S = 5.0
_LOOK_S = 1.0
_GRACE_S = 5.0
_KILL_S = 10.0
_QUIET_S = 3.0
_LIMIT_S = 120.0


class Reaper:
    """The end of the pipe that a run holds. Start it before anything else.

    Args:
        log: File that gets a line for each thing that had to be removed; made only then.

    Raises:
        OSError: No process can be started.
    """

    def __init__(self, log: Path) -> None:
        code = _START.format(root=str(_ROOT), module=__name__)
        # It is born deaf: what is blocked here stays blocked there.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, "-I", "-S", "-c", code, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in _PASSED if name in os.environ},
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        self._tell({"log": str(log.absolute())})

    @property
    def pid(self) -> int:
        """Process ID of the reaper."""
        return self._process.pid

    def engine(self, api: EngineApi, labels: Iterable[str], *, marker: str) -> None:
        """Name what is on an engine: its labels, and the mark of commands that may add to it.

        A run has one engine; labels add up.
        """
        address = {"url": api.url, "certificates": api.certificates}
        self._tell({"engine": address, "labels": list(labels), "marker": marker})

    def session(self, session: Session) -> None:
        """Name the processes of the run; may be told again when more is known."""
        self._tell({"sid": session.sid, "marker": session.marker})

    def log_pipe(self, reading: int) -> None:
        """Name the end of the pipe from which the server's log is read.

        The reaper holds it too: a server whose log can no longer be written may fail before it can
        be stopped, in the middle of making what then belongs to nobody.
        """
        self._tell({"pipe": f"/proc/{os.getpid()}/fd/{reading}"})

    def folder(self, path: Path) -> None:
        """Name a folder that is to be removed."""
        self._tell({"folder": str(path)})

    def lock(self, path: Path) -> None:
        """Name a lock file that is to be removed unless another run holds it by then."""
        self._tell({"lock": str(path)})

    def keep(self) -> None:
        """Say that the server stays when the run ends."""
        self._tell({"keep": True})
        self._leave()

    def done(self) -> None:
        """Say that nothing is left, and wait until the reaper has ended."""
        self._tell({"done": True})
        self._leave()

    def abandon(self) -> None:
        """End the pipe without the word: the reaper goes on trying what the run could not do."""
        self._leave(wait=False)

    def _tell(self, order: dict[str, Any]) -> None:
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            return
        # A reaper that somebody killed cannot be told; the next run's sweep is left then.
        with contextlib.suppress(OSError):
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.flush()

    def _leave(self, *, wait: bool = True) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if not wait:
            self._process.returncode = 0  # it is nobody's child to wait for any more
            return
        try:
            self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(slots=True, kw_only=True)
class Orders:
    """What the run has said so far.

    Attributes:
        engine: The engine and labels on it.
        labels: What carries one of these is the run's.
        sessions: Processes of the run, by their mark.
        folders: Folders of the run.
        locks: Lock files of the run.
        pipes: Descriptors that are held open, and never read.
        log: File that tells what was done.
        keep: Whether the server stays.
        done: Whether there is nothing to do.
    """

    engine: EngineApi | None = None
    labels: list[str] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    locks: list[Path] = field(default_factory=list)
    pipes: list[int] = field(default_factory=list)
    log: Path | None = None
    keep: bool = False
    done: bool = False

    def take(self, order: dict[str, Any]) -> None:
        """Take in one order."""
        if "engine" in order:
            self.engine = EngineApi(**order["engine"])
            self.labels += order["labels"]
        if "marker" in order:
            session = Session(sid=order.get("sid", 0), marker=order["marker"])
            self.sessions[session.marker] = session
        self.folders += [Path(order["folder"])] if "folder" in order else []
        self.locks += [Path(order["lock"])] if "lock" in order else []
        if "pipe" in order:
            with contextlib.suppress(OSError):  # who writes it has been killed meanwhile
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self.pipes.append(os.open(order["pipe"], flags))
        self.log = Path(order["log"]) if "log" in order else self.log
        self.keep = self.keep or bool(order.get("keep"))
        self.done = self.done or bool(order.get("done"))


def listen(pipe: IO[bytes], owner: int) -> Orders:
    """Take orders until the pipe ends or the owner is dead.

    A child that the owner forked without exec may hold the pipe open longer than the owner lives,
    so the parent is looked at as well.

    Args:
        pipe: Unbuffered.
        owner: Process ID of who writes.
    """
    orders, rest = Orders(), b""
    while not orders.done:
        ready, _, _ = select.select([pipe], [], [], _LOOK_S)
        if not ready:
            if os.getppid() != owner:
                break
            continue
        chunk = os.read(pipe.fileno(), 65536)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            orders.take(json.loads(line))
    return orders


def reap(orders: Orders) -> Removal:
    """Remove all that the orders name. Bounded in time; takes what is already gone as removed."""
    result = Removal()
    survivors: list[int] = []
    for session in orders.sessions.values():
        found = session.members()
        survivors += session.end(grace_s=_GRACE_S, limit_s=_KILL_S)
        result += Removal(removed=tuple(f"process {pid}" for pid in found))
    if orders.engine is not None:
        result += remove_labelled(
            orders.engine,
            orders.labels,
            quiet_s=_QUIET_S,
            limit_s=_LIMIT_S,
            before_each=lambda: [s.kill(limit_s=1.0) for s in orders.sessions.values()],
        )
    else:
        # One that was being started when pytest died may have shown itself only now.
        for session in orders.sessions.values():
            survivors += session.kill(limit_s=_KILL_S)
    for folder in orders.folders:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            result += Removal(removed=(f"folder {folder}",))
    result += Removal(
        removed=tuple(f"lock file {path}" for path in orders.locks if remove_unheld(path))
    )
    if survivors:
        result += Removal(problem=f"processes that survive SIGKILL: {sorted(set(survivors))}")
    return result


def main() -> int:
    """Run as the reaper: orders on stdin, the owner's process ID as argument."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        orders = listen(pipe, int(sys.argv[1]))
    if orders.done or orders.keep:
        return 0
    result = reap(orders)
    if orders.log is not None and orders.log.parent.is_dir():
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        words = [f"removed {thing}" for thing in result.removed]
        words += [f"left: {result.problem}"] if result.problem else []
        text = "".join(f"{when} {word}\n" for word in words or ["pytest ended; nothing was left"])
        with contextlib.suppress(OSError), orders.log.open("a", encoding="utf-8") as file:
            file.write(text)
    return 1 if result.problem else 0
