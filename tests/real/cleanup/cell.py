"""One run of the matrix: pytest is started, one thing happens to it, and what is left is listed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import psutil

from tests.real.cleanup import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.real.cleanup.server import Server

NUMBERS = {
    "int": signal.SIGINT,
    "int-twice": signal.SIGINT,
    "term": signal.SIGTERM,
    "hup": signal.SIGHUP,
    "kill": signal.SIGKILL,
}
MOMENTS = {
    "end": ("passes", "fails", "stubborn"),
    **dict.fromkeys(
        NUMBERS,
        ("preflight", "launching", "starting", "running", "ahead", "xdist", "stopping"),
    ),
    "engine": ("starting", "running", "ahead", "xdist", "stopping", "server"),
    "set-up": ("exits", "refused"),
}
"""Way to die -> when or how."""
TRAITS = {
    "stubborn": "stubborn",
    "launching": "slow-start",
    "starting": "slow-start",
    "stopping": "slow-stop",
    "exits": "broken",
}
_MOMENT_S = 300.0
_END_S = 120.0
_CLEAN_S = 60.0
_SETTLED_S = 5.0
_POLL_S = 0.05
_LOOK_S = 0.25
_LONG = ("running", "ahead", "xdist", "server")
_CHECKS = """\
import pathlib
from pytest_vllm import check, suite
pytestmark = suite("own"{concurrent})
@check("own.quick")
def test_quick(vllm):
    '''The server MUST answer.'''
    assert vllm.complete("Hello", max_tokens=1).text is not None
    assert {passes}
@check("own.long")
def test_long(vllm):
    '''The server MUST answer at length.'''
    pathlib.Path("underway").touch()
    vllm.complete("Hello", max_tokens={tokens}, ignore_eos=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of the matrix.

    Attributes:
        way: How the run ends, a key of `MOMENTS`.
        backend: `docker` or `process`.
        moment: When, or how exactly.
        repetition: Counts the runs of a way.
        real: Whether real vLLM is run.
    """

    way: str
    backend: str
    moment: str
    repetition: int = 0
    real: bool = False

    def __str__(self) -> str:
        return f"{self.way}-{self.backend}-{self.moment}-{self.repetition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a cell.

    Attributes:
        code: Exit code of pytest; negative for a signal.
        left: What was left a while after its end.
        clean_s: Seconds from its end until nothing was left.
        output: What it printed.
        seen: How many processes there were at the moment.
    """

    code: int
    left: tuple[str, ...]
    clean_s: float
    output: str
    seen: int


@dataclass(slots=True, kw_only=True)
class Run:
    """A pytest that accepts the stand-in, with a temporary folder and a mark of its own.

    Args:
        folder: Where it is started.
        server: What it accepts.
    """

    folder: Path
    server: Server
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    # Short, since the names of sockets are.
    tmp: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="cell-", dir="/tmp")))
    client: Any = field(default_factory=docker.from_env)
    known: leftovers.Family = field(default_factory=leftovers.Family)
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, backend: str, *arguments: str, traits: str = "") -> None:
        """Start pytest as a user does, in a session of its own as under a terminal."""
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "test_own.py"]
        words += ["-p", "no:hypothesispytest", "-p", "no:syrupy"]  # ours, and slow to load
        words.append(f"--basetemp={self.folder / 'pytest'}")  # what pytest keeps is no leftover
        words += [*self.server.arguments(backend), f"--vllm-env=STAND_IN_MARK={self.mark}"]
        words += [f"--vllm-env=STAND_IN={traits}"] if traits else []
        paths = (self.server.path, os.environ.get("PYTHONPATH"))
        ours = {
            "PV_TEST_MARK": self.mark,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.tmp),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "torch"),  # a cache, which is to stay
            "XDG_RUNTIME_DIR": str(self.tmp),
        }
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*words, *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **ours, **self.variables},
                start_new_session=True,
            )

    @property
    def pytest(self) -> subprocess.Popen[bytes]:
        """The process that was started."""
        assert self.process is not None
        return self.process

    @property
    def runs(self) -> list[str]:
        """IDs of the runs, by the names of the evidence folders."""
        return [path.name for path in self.folder.glob(".vllm/*")]

    @property
    def output(self) -> str:
        """What pytest has printed."""
        return (self.folder / "output").read_text("utf-8", "replace")

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until something is so while pytest runs, and note who is there."""
        end = time.monotonic() + _MOMENT_S
        pause = threading.Event()
        while not condition():
            assert self.pytest.poll() is None, f"ended before {what}:\n{self.output}"
            assert time.monotonic() < end, f"never {what}:\n{self.output}"
            pause.wait(_POLL_S)
        self.known = leftovers.family(self.mark, self.client)

    def title(self, pattern: str) -> bool:
        """Tell whether a process of the run has a title like that."""
        return any(re.search(pattern, title) for title in leftovers.titles(self.mark))

    def kill_titled(self, pattern: str) -> None:
        """Send SIGKILL to the processes of the run with a title like that."""
        for process in self.known.processes:
            with suppress(psutil.NoSuchProcess):
                if re.search(pattern, " ".join(process.cmdline())):
                    process.kill()

    def left(self) -> list[str]:
        """List what there is of the run now."""
        return leftovers.find(
            self.mark,
            pid=self.pytest.pid,
            runs=self.runs,
            known=self.known,
            tmp=self.tmp,
            client=self.client,
        )

    def finish(self) -> Outcome:
        """Wait for the end of pytest, then until nothing is left, then clean up what still is."""
        try:
            code = self.pytest.wait(_END_S)
            ended = time.monotonic()
            left = self.await_nothing()
            return Outcome(
                code=code,
                left=tuple(left),
                clean_s=time.monotonic() - ended,
                output=self.output,
                seen=len(self.known.processes),
            )
        finally:
            self.close()

    def await_nothing(self) -> list[str]:
        """Return what is left when nothing is, or when nobody is there who might remove it."""
        pause = threading.Event()
        begun = changed = time.monotonic()
        left = self.left()
        while left and time.monotonic() < begun + _CLEAN_S:
            somebody = any(what.startswith("process ") for what in left)
            if not somebody and time.monotonic() > changed + _SETTLED_S:
                break
            pause.wait(_LOOK_S)
            before, left = left, self.left()
            changed = changed if left == before else time.monotonic()
        return left

    def close(self) -> None:
        """Leave nothing, whatever happened."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            leftovers.remove(
                self.mark,
                pid=self.process.pid,
                runs=self.runs,
                known=self.known,
                client=self.client,
            )
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.client.close()


def run_to_end(run: Run, backend: str, *arguments: str) -> Outcome:
    """Run a pytest whose checks pass, and take it to its end; what it keeps is not cleaned up."""
    write_checks(run.folder, "passes")
    run.start(backend, *arguments)
    code = run.pytest.wait(_END_S)
    return Outcome(code=code, left=tuple(run.left()), clean_s=0.0, output=run.output, seen=0)


def run_cell(cell: Cell, *, folder: Path, server: Server) -> Outcome:
    """Run one cell of the matrix."""
    folder.mkdir()
    run = Run(folder=folder, server=server)
    write_checks(folder, cell.moment)
    with ExitStack() as held:
        arguments: tuple[str, ...] = ("-n", "2") if cell.moment == "xdist" else ()
        if cell.moment == "preflight":
            run.variables["STAND_IN_HELP"] = "slow"
            # Only a flag makes the preflight ask which there are.
            arguments = ("--vllm-serve-arg=--seed=0",)
            if cell.backend == "docker":
                arguments += (f"--vllm-image={server.slow_image}",)
        if cell.moment == "refused" and cell.backend == "docker":
            arguments = (f"--vllm-image={server.broken_image}",)
        elif cell.moment == "refused":
            taken = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            arguments = (f"--vllm-serve-arg=--port={taken.getsockname()[1]}",)
        run.start(cell.backend, *arguments, traits=TRAITS.get(cell.moment, ""))
        try:
            _die(cell, run)
        except BaseException:
            run.close()
            raise
        return run.finish()


def write_checks(folder: Path, moment: str) -> None:
    """Write the checks that a cell runs."""
    text = _CHECKS.format(
        concurrent=", concurrent=True" if moment == "ahead" else "",
        passes=moment != "fails",
        tokens=1900 if moment in _LONG else 1,
    )
    (folder / "test_own.py").write_text(text)


def _die(cell: Cell, run: Run) -> None:
    """Wait for the moment of a cell, and let happen what is to happen."""
    if cell.way in ("end", "set-up"):
        return
    await_moment(run, cell)
    if cell.way == "engine":
        run.kill_titled(r"api_server|bin/vllm" if cell.moment == "server" else "::EngineCore")
        return
    number = NUMBERS[cell.way]
    # A terminal signals the whole foreground group; `kill` and CI systems signal one process.
    everybody = number in (signal.SIGINT, signal.SIGHUP) or cell.repetition % 2 == 1
    send = os.killpg if everybody else os.kill
    send(run.pytest.pid, number)
    if cell.way == "int-twice":
        _await_delivery(run.pytest.pid, number)
        send(run.pytest.pid, number)


def await_moment(run: Run, cell: Cell) -> None:
    """Wait until a run is where its cell wants it."""
    if cell.moment == "preflight" and cell.backend == "docker":
        run.wait_for("looking", lambda: _asks_for_help(run))
    elif cell.moment == "preflight":
        run.wait_for("looking", lambda: run.title("-m vllm.* --help"))
    elif cell.moment == "launching":
        launched = r"compose .*\bup\b" if cell.backend == "docker" else r"-m vllm\.entrypoints"
        run.wait_for("launching", lambda: run.title(launched))
    elif cell.moment == "starting":
        run.wait_for("starting", lambda: run.title("::EngineCore"))
    elif cell.moment == "stopping":
        run.wait_for("stopping", lambda: run.title("::EngineCore stopping"))
    else:
        run.wait_for("running", (run.folder / "underway").exists)


def _asks_for_help(run: Run) -> bool:
    """Tell whether there is a container in which the preflight asks for the flags."""
    words = [word for c in leftovers.owned(run.pytest.pid, run.client) for word in c.attrs["Args"]]
    return any(word.startswith("--help") for word in words)


def _await_delivery(pid: int, number: signal.Signals) -> None:
    """Wait until a process has taken a signal: two pending ones of a kind are one."""
    bit, pause = 1 << (number - 1), threading.Event()
    while psutil.pid_exists(pid):
        try:
            status = Path(f"/proc/{pid}/status").read_text("ascii")
        except OSError:
            return
        pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", status, re.MULTILINE)
        if not any(int(word, 16) & bit for word in pending):
            return
        pause.wait(0.001)
