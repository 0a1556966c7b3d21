"""A vLLM server as a process of this host, started by an interpreter that has vLLM."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends import ExitStatus, LogLine
from pytest_vllm.adapters.backends.device import visible_variables
from pytest_vllm.adapters.backends.interpreter import check_vllm, find_python, start_words
from pytest_vllm.adapters.backends.lines import LogReader
from pytest_vllm.adapters.backends.model import find_model_folder
from pytest_vllm.adapters.backends.owner import OWNER_VARIABLE, owner_of, owner_text
from pytest_vllm.adapters.backends.plan import passed_on, server_words
from pytest_vllm.adapters.backends.port import PortLease, claim_port, lease_port
from pytest_vllm.adapters.backends.scratch import Scratch
from pytest_vllm.adapters.backends.session import Session
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.adapters.startup import Startup
    from pytest_vllm.domain.target import EnvVar, Target

_ADDRESS = "127.0.0.1"
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - what a user may have asked for
_MARKER = "PYTEST_VLLM_LAUNCH"
_GRACE_S = 20
_KILL_S = 10
_DRAIN_S = 0.5
_FOLLOW_S = 0.1


class ProcessBackend:
    """Run a target with an interpreter of this host.

    Args:
        target: What to run; its backend is `process`.
        workdir: Folder of the run (unused: a process needs no file of ours).
        run_id: Name of the run.
        reaper: Is told what there is to end.
    """

    name = "process"
    owned = True

    def __init__(
        self, target: Target, workdir: Path, run_id: str, reaper: Reaper | None = None
    ) -> None:
        del workdir
        self._target = target
        self._marker = f"{_MARKER}={run_id}-{uuid.uuid4().hex}"
        self._reaper = reaper
        self._scratch: Scratch | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # By its mark alone: a signal may come between the start of the process and the next line.
        self._session = Session(sid=0, marker=self._marker)
        self._reader: LogReader | None = None
        self._lease: PortLease | None = None
        self._argv: tuple[str, ...] = ()
        self._url: str | None = None
        self._status: ExitStatus | None = None

    def launch(self, startup: Startup | None = None) -> None:
        """Start the server and return at once; there is nothing to pull that `startup` would see.

        Raises:
            TargetError: Interpreter, vLLM, model or variable is not there.
            HostError: The port is taken, or the process cannot be started.
        """
        del startup
        python = find_python(self._target)
        start = start_words(self._target, python)
        model = _model(self._target)
        gpus = visible_variables(self._target.gpus)
        variables = {v.name: _value(v) for v in self._target.env}
        check_vllm(python)
        host, wanted = _host(self._target), self._target.serve_args.port
        self._lease = lease_port(host) if wanted is None else claim_port(host, wanted)
        words = server_words(self._target, host=_ADDRESS, port=self._lease.port)
        self._argv = (*start, *model, *words)
        self._scratch = scratch = Scratch.plan({**os.environ, **variables})
        if self._reaper is not None:
            self._reaper.session(self._session)
            self._reaper.folder(scratch.folder)
            if self._lease.file is not None:
                self._reaper.lock(self._lease.file)
        scratch.make()
        ours = {**gpus, **variables, **scratch.variables(), **self._marks()}
        self._start({**os.environ, "PYTHONUNBUFFERED": "1", **ours})
        if self._reaper is not None:
            self._reaper.session(self._session)

    def _marks(self) -> dict[str, str]:
        """Return the variables by which a process of this launch and its owner are found."""
        name, _, value = self._marker.partition("=")
        if self._keeps:  # a kept server has no owner who could die
            return {name: value}
        return {name: value, OWNER_VARIABLE: owner_text()}

    def _start(self, env: dict[str, str]) -> None:
        started = time.monotonic()
        reading, writing = self._log_ends()
        if self._reaper is not None:
            self._reaper.log_pipe(reading)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            os.close(reading)
            raise HostError(
                f"{self._argv[0]} cannot be started: {error.strerror}",
                advice="check --vllm-python",
            ) from None
        finally:
            os.close(writing)
        self._session = Session(sid=self._process.pid, marker=self._marker)
        chunks = _followed(reading, self._process) if self._keeps else _chunks(reading)
        self._reader = LogReader(chunks, started=started)

    @property
    def _keeps(self) -> bool:
        return bool(self._target.settings["keep"].value)

    def _log_ends(self) -> tuple[int, int]:
        """Open where the log is read and where the server writes it.

        That is a pipe, which ends with us; a kept server writes on, so it gets a file.
        """
        if not self._keeps or self._scratch is None:
            return os.pipe()
        file = self._scratch.folder / "server.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        writing = os.open(file, flags, 0o600)
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC), writing

    @property
    def url(self) -> str | None:
        """Base URL, `None` until a process of this launch listens, and nobody else's does."""
        lease = self._lease
        if self._url is None and lease and self._session.listens_on(lease.port):
            self._url = f"http://{_reachable(_host(self._target))}:{lease.port}"
        return self._url

    @property
    def log(self) -> Sequence[LogLine]:
        """All log lines so far, stdout and stderr in the order in which they came."""
        return self._reader.lines if self._reader is not None else ()

    @property
    def reader(self) -> LogReader | None:
        """What reads the log, `None` before the start."""
        return self._reader

    def exit_status(self) -> ExitStatus | None:
        """Return how the server ended; the log has been read to its end by then."""
        if self._status is None and self._process is not None:
            code = self._process.poll()
            if code is None:
                return None
            if self._reader is not None:
                self._reader.drain(_DRAIN_S)
            self._status = _exit_status(code)
        return self._status

    def stop(self) -> None:
        """End all processes of the launch: SIGTERM, a grace, SIGKILL; and reap the first."""
        process, session = self._process, self._session
        left: tuple[int, ...] = ()
        try:
            left = session.end(grace_s=_GRACE_S, limit_s=_KILL_S)
        finally:
            if process is not None:
                process.poll()  # else the first of them would stay as a zombie
            if self._reader is not None:
                self._reader.drain(_DRAIN_S)
            self._release()
        if left:
            raise HostError(
                f"processes {', '.join(map(str, left))} of the server survive SIGKILL",
                advice="they hang in the kernel (ps -o stat,wchan); the host may need a reboot",
            )

    def keep(self) -> None:
        """Give the port's lock back, and the server the folder with its log."""
        self._release_port()
        if self._scratch is not None and self._process is not None:
            self._scratch.hand_over(owner_of(self._process.pid))

    def _release(self) -> None:
        self._release_port()
        if self._scratch is not None:
            self._scratch.remove()

    def _release_port(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def facts(self) -> dict[str, Any]:
        """Return command, interpreter and process ID."""
        facts: dict[str, Any] = {"command": list(self._argv)}
        if self._argv:
            facts["model"] = _model(self._target)[0]
            facts["python"] = str(find_python(self._target))
        if self._process is not None:
            facts["pid"] = self._process.pid
        facts["devices_note"] = f"ROCR_VISIBLE_DEVICES for --vllm-gpus={self._target.gpus}"
        if self._target.gpus == "all":
            facts["devices_note"] = "all GPUs that the environment of this run lets it see"
        return facts

    def files(self) -> dict[str, str]:
        """Return no files."""
        return {}

    def stop_hint(self) -> str:
        """Return the command that ends the whole group and removes its temporary files."""
        if self._process is None or self._scratch is None:
            return ""
        return f"kill -- -{self._process.pid} && rm -rf {shlex.quote(str(self._scratch.folder))}"


def command_line(target: Target) -> str:
    """Write the shell command of a target; starts nothing.

    Raises:
        TargetError: The target names something that is not there.
    """
    start = start_words(target, find_python(target))
    port = target.serve_args.port or 8000
    words = [*start, *_model(target), *server_words(target, host=_ADDRESS, port=port)]
    given = {v.name: v.value for v in target.env if v.value is not None}
    variables = {**visible_variables(target.gpus), **given}
    values = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return " ".join([*values, shlex.join(words)]) + "\n"


def _value(variable: EnvVar) -> str:
    """Return a variable's value: the one given, else that of our environment."""
    return passed_on(variable, os.environ) if variable.value is None else variable.value


def _model(target: Target) -> tuple[str]:
    return (str(find_model_folder(target)) if target.model_is_path else str(target.model),)


def _host(target: Target) -> str:
    return target.serve_args.value("--host") or _ADDRESS


def _reachable(host: str) -> str:
    if host in _ANY:
        return _ADDRESS
    return f"[{host}]" if ":" in host else host


def _exit_status(code: int) -> ExitStatus:
    if code >= 0:
        return ExitStatus(code=code)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return ExitStatus(code=128 - code, note=f"killed by {name}")


def _chunks(descriptor: int) -> Iterator[bytes]:
    """Read a pipe until its last writer has closed it."""
    with open(descriptor, "rb", buffering=0) as stream:
        while chunk := stream.read(65536):
            yield chunk


def _followed(descriptor: int, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Read a file as it grows, until the process that started it all has ended."""
    with open(descriptor, "rb", buffering=0) as stream:
        ended = False
        while True:
            while chunk := stream.read(65536):
                yield chunk
            if ended:
                return
            ended = process.poll() is not None
            if not ended:
                time.sleep(_FOLLOW_S)
