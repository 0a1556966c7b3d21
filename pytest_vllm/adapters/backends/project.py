"""The compose project of a run: its files, up and down, and nothing left when either is cut."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.engine import explain_up, variables
from pytest_vllm.adapters.backends.removal import remove_labelled
from pytest_vllm.adapters.backends.session import Session
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_vllm.adapters.backends.container import ContainerSpec
    from pytest_vllm.adapters.backends.removal import EngineApi

_UP = "up -d --no-build --pull never"
_DOWN = "down -v --remove-orphans"
_KILL_S = 5.0
_QUIET_S = 2.0
_LIMIT_S = 60.0


class ComposeProject:
    """Services that are brought up and taken down by compose.

    Args:
        spec: What is started; its project is the name of everything.
        command: Shell command of compose, which enters `folder`.
        folder: Folder of the files; it is removed with the services.
        files: Compose files by name, each laid over those before.
        labels: `NAME=VALUE` that all containers, networks and volumes carry, one is enough.
        api: The engine, for what a cut `up` leaves.
        marker: `NAME=VALUE` in the environment of every compose command.
    """

    def __init__(  # noqa: PLR0913 - all that a project is made of
        self,
        spec: ContainerSpec,
        *,
        command: str,
        folder: Path,
        files: Mapping[str, str],
        labels: tuple[str, ...],
        api: EngineApi,
        marker: str,
    ) -> None:
        self._spec = spec
        self._command = command
        self._folder = folder
        self._files = dict(files)
        self._labels = labels
        self._api = api
        self._commands = Session(sid=0, marker=marker)
        self._services = contextlib.ExitStack()
        self._state = "down"
        self._cut = False

    @property
    def is_down(self) -> bool:
        """Whether there is nothing to take down."""
        return self._state == "down"

    def up(self, secrets: Mapping[str, str]) -> None:
        """Start the services; whatever goes wrong, nothing stays.

        Args:
            secrets: Variables that the files name without a value.

        Raises:
            HostError: The engine refuses.
            LaunchFailed: It cannot start what we ask of the image.
        """
        from pytest_docker.plugin import get_docker_services  # noqa: PLC0415 - imports pytest

        self._folder.mkdir(mode=0o700, exist_ok=True)
        for name, text in self._files.items():
            (self._folder / name).write_text(text, "utf-8")
        services = get_docker_services(
            self._command, list(self._files), self._spec.project, [_UP], [_DOWN]
        )
        self._state = "down needed"
        try:
            with variables(secrets):
                self._services.enter_context(services)
            self._state = "up"
        except BaseException as error:
            # A signal ends the shell, but not the compose command that the shell has started.
            self._cut = not isinstance(error, Exception)
            # pytest-docker does not clean up after a failed set-up.
            with contextlib.suppress(Exception):  # the first error is the one to show
                self.down()
            if isinstance(error, Exception):
                sent = shlex.join([*self._spec.entrypoint, *self._spec.command])
                raise explain_up(error, sent=sent) from None
            raise

    def down(self) -> None:
        """Remove containers, networks and volumes.

        Raises:
            HostError: They could not be removed.
        """
        from pytest_docker.plugin import DockerComposeExecutor  # noqa: PLC0415

        state, self._state = self._state, "down needed"
        if state == "down":
            self._state = state
            return
        try:
            if self._cut:
                self._commands.kill(limit_s=_KILL_S)
                self._remove_what_comes()
            elif state == "up":
                self._services.close()
            else:
                executor = DockerComposeExecutor(
                    self._command, list(self._files), self._spec.project
                )
                executor.execute(_DOWN)
        except BaseException as error:
            self._cut = self._cut or not isinstance(error, Exception)
            if not isinstance(error, Exception) or isinstance(error, HostError):
                raise
            raise HostError(explain_up(error, sent="down").message) from None
        self._state = "down"
        shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_what_comes(self) -> None:
        """Remove over the engine's API, also what a cut command asked for and is made only now."""
        left = remove_labelled(self._api, self._labels, quiet_s=_QUIET_S, limit_s=_LIMIT_S).problem
        if left:
            raise HostError(left)
