"""Ways to get a server, behind one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from pytest_vllm.domain.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vllm.adapters.backends.lines import LogReader
    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.adapters.startup import Startup
    from pytest_vllm.domain.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of the server's log.

    Attributes:
        at_s: Seconds after the launch at which it was read (monotonic clock).
        text: The line as it came, without its line end.
    """

    at_s: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How the server ended.

    Attributes:
        code: Exit code; death by a signal is 128 + signal.
        note: What else is known, such as `OOMKilled`.
    """

    code: int
    note: str = ""


class Backend(Protocol):
    """A server that may be launched, watched and stopped.

    The order is `launch`, any number of looks, `stop`. `stop` may be called at any time, also
    twice, also after a failed `launch`, and leaves nothing behind.
    """

    name: str
    owned: bool
    """Whether `stop` ends the server."""

    def launch(self, startup: Startup | None = None) -> None:
        """Start the server and return at once.

        Args:
            startup: Is told how far a pull of the image is.

        Raises:
            TargetError: The user named something that is not there.
            HostError: The host stands in the way.
            LaunchFailed: The image or the model cannot be started.
        """

    @property
    def url(self) -> str | None:
        """Base URL, `None` until it is known."""

    @property
    def log(self) -> Sequence[LogLine]:
        """All log lines so far; it only grows. Empty where there is no log."""

    @property
    def reader(self) -> LogReader | None:
        """What reads the log, `None` where there is none."""

    def exit_status(self) -> ExitStatus | None:
        """Return how the server ended, `None` while it runs or when that cannot be known."""

    def stop(self) -> None:
        """End the server if it is ours, and remove all that was made for it."""

    def keep(self) -> None:
        """Give up what would keep the server from running on when this process ends."""

    def facts(self) -> dict[str, Any]:
        """Return JSON-able facts of the launch: command, image digest, flags, devices, ..."""

    def files(self) -> dict[str, str]:
        """Return evidence files by name, such as `compose.json`."""

    def stop_hint(self) -> str:
        """Return the command with which a user stops a server that was kept."""


_HOME = {
    "docker": ("pytest_vllm.adapters.backends.docker", "DockerBackend"),
    "process": ("pytest_vllm.adapters.backends.process", "ProcessBackend"),
    "attach": ("pytest_vllm.adapters.backends.attach", "AttachBackend"),
}


def make_backend(
    target: Target, *, workdir: Path, run_id: str, reaper: Reaper | None = None
) -> Backend:
    """Make the backend of a target without starting anything.

    Args:
        target: What to run.
        workdir: Folder of this run for files that the backend needs; it exists.
        run_id: Name of the run: letters, digits and `-`, in lower case.
        reaper: Is told what the backend makes, so that nothing stays when this process is killed.
    """
    module, name = _HOME[target.backend]
    backend = getattr(import_module(module), name)(target, workdir, run_id, reaper)
    return cast("Backend", backend)


def command_line(target: Target) -> str:
    """Return the shell command that starts the same server by hand.

    Raises:
        TargetError: The target is attached to, so there is nothing to start.
    """
    if target.backend == "attach":
        raise TargetError(
            "a server at a URL is not started by this tool",
            advice="name --vllm-image or --vllm-backend=process instead of --vllm-url",
        )
    return str(import_module(_HOME[target.backend][0]).command_line(target))
