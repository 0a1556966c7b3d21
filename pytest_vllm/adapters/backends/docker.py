"""A vLLM server in a container: pytest-docker for the lifecycle, the Docker SDK for the eyes."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends import ExitStatus, LogLine
from pytest_vllm.adapters.backends.container import (
    OWNER_LABEL,
    RUN_LABEL,
    SERVICE,
    compose_json,
    docker_run_line,
    labels_json,
)
from pytest_vllm.adapters.backends.engine import (
    compose_shell_command,
    connect,
    find_compose,
    find_endpoint,
)
from pytest_vllm.adapters.backends.image import read_image, record_image
from pytest_vllm.adapters.backends.lines import LogReader
from pytest_vllm.adapters.backends.model import make_cache
from pytest_vllm.adapters.backends.override import Override, read_override
from pytest_vllm.adapters.backends.owner import owner_text
from pytest_vllm.adapters.backends.plan import Plan, plan, record_plan
from pytest_vllm.adapters.backends.project import ComposeProject
from pytest_vllm.adapters.backends.pull import pull_missing
from pytest_vllm.adapters.backends.remote import require_same_host
from pytest_vllm.adapters.backends.removal import EngineApi
from pytest_vllm.domain.errors import HostError, TargetError, VllmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from docker import DockerClient
    from docker.models.containers import Container
    from docker.types import CancellableStream

    from pytest_vllm.adapters.backends.engine import Endpoint
    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.adapters.startup import Startup
    from pytest_vllm.domain.facts.image import ImageFacts
    from pytest_vllm.domain.target import Target

_COMPOSE_FILE = "compose.json"
_LABELS_FILE = "owner.json"
_LAUNCH_FOLDER = ".launch"
_MARKER = "PYTEST_VLLM_LAUNCH"
_PROJECT_LABEL = "com.docker.compose.project"
_SERVICE_LABEL = "com.docker.compose.service"
_DRAIN_S = 0.5
_ENDED = ("exited", "dead")
_ADDRESS = "127.0.0.1"


class DockerBackend:
    """Run a target in a container of this host's engine.

    Args:
        target: What to run; its backend is `docker`.
        workdir: Folder of the run; `compose.json` is written there.
        run_id: Name of the run; the compose project is `pv-<run_id>`.
        reaper: Is told what there is to remove.
    """

    name = "docker"
    owned = True

    def __init__(
        self, target: Target, workdir: Path, run_id: str, reaper: Reaper | None = None
    ) -> None:
        self._target = target
        self._workdir = workdir.absolute()
        self._run_id = run_id
        self._client: DockerClient | None = None
        self._image: ImageFacts | None = None
        self._plan: Plan | None = None
        self._container: Container | None = None
        self._stream: CancellableStream[bytes] | None = None
        self._reader: LogReader | None = None
        self._reaper = reaper
        self._project: ComposeProject | None = None
        self._override: Override | None = None
        self._host: dict[str, Any] = {}
        self._port: int | None = None
        self._stopped = False
        self._status: ExitStatus | None = None

    def launch(self, startup: Startup | None = None) -> None:
        """Start the container and return at once; pull the image first where that is allowed.

        Args:
            startup: Is told how far a pull is.

        Raises:
            TargetError: Image, model, GPU or variable is not there.
            HostError: Engine or compose is not there, or the engine refuses.
            LaunchFailed: The engine cannot start what we ask of the image.
        """
        target = self._target
        plan(target, self._run_id)  # a wrong path is told even where no engine answers
        endpoint = find_endpoint(os.environ)
        self._client = client = connect(endpoint)
        if target.image is None:
            raise TargetError("backend docker has no image", advice="add --vllm-image=IMAGE")
        pull_missing(client, target, startup)
        self._image = read_image(client, target.image)
        if not endpoint.is_socket:
            require_same_host(client, self._image.id, endpoint)
        self._plan = plan(target, self._run_id, image=self._image)
        command, version = find_compose(os.environ)
        self._host = {
            "engine": client.version().get("Version", ""),
            "engine_endpoint": endpoint.url,
            "compose": version,
        }
        make_cache(self._plan.model)
        self._override = read_override(target, self._plan.spec, command)
        (self._workdir / _COMPOSE_FILE).write_text(compose_json(self._plan.spec), "utf-8")
        self._project = project = self._make_project(self._plan, command, endpoint)
        started = time.monotonic()
        project.up(dict(self._plan.secrets))
        self._container = self._find(client)
        self._stream = self._container.logs(stream=True, follow=True, stdout=True, stderr=True)
        self._reader = LogReader(self._stream, started=started)

    def _make_project(
        self, planned: Plan, command: tuple[str, ...], endpoint: Endpoint
    ) -> ComposeProject:
        """Prepare the services and tell the reaper about them, before anything is made."""
        folder = self._workdir / _LAUNCH_FOLDER
        marker = f"{_MARKER}=compose-{self._run_id}"
        labels = {RUN_LABEL: self._run_id}
        found_by = (
            f"{RUN_LABEL}={self._run_id}",
            f"{_PROJECT_LABEL}={planned.spec.project}",
        )
        if not self._target.settings["keep"].value:  # a kept server has no owner who could die
            labels[OWNER_LABEL] = owner_text()
        api = EngineApi(url=endpoint.url)
        if self._reaper is not None:
            self._reaper.folder(folder)
            self._reaper.engine(api, found_by, marker=marker)
        files = {_COMPOSE_FILE: compose_json(planned.spec)}
        override = self._override
        if override is not None:
            files[override.copy_name] = override.text
            command = (*command, "--project-directory", override.folder)
        files[_LABELS_FILE] = labels_json(labels, merged=override.merged if override else None)
        return ComposeProject(
            planned.spec,
            command=compose_shell_command(command, endpoint, folder, marker=marker),
            folder=folder,
            files=files,
            labels=found_by,
            api=api,
            marker=marker,
        )

    def _find(self, client: DockerClient) -> Container:
        labels = [f"{RUN_LABEL}={self._run_id}", f"{_SERVICE_LABEL}={SERVICE}"]
        found = client.containers.list(all=True, filters={"label": labels})
        if not found:
            raise HostError(
                f"the container of run {self._run_id} is gone right after its start",
                advice="look for another program that removes containers on this engine",
            )
        return found[0]

    @property
    def url(self) -> str | None:
        """Base URL, `None` until the engine has published the port."""
        if self._port is None and self._container is not None and self._plan is not None:
            ports = self._container.ports or {}
            bound = ports.get(f"{self._plan.spec.port}/tcp") or []
            self._port = int(bound[0]["HostPort"]) if bound else None
            if self._override is not None and self._override.on_host_network:
                self._port = self._plan.spec.port
        return None if self._port is None else f"http://{_ADDRESS}:{self._port}"

    @property
    def log(self) -> Sequence[LogLine]:
        """All log lines so far, stdout and stderr in the order in which the engine got them."""
        return self._reader.lines if self._reader is not None else ()

    @property
    def reader(self) -> LogReader | None:
        """What reads the log, `None` before the start."""
        return self._reader

    def exit_status(self) -> ExitStatus | None:
        """Ask the engine how the server ended; the log has been read to its end by then.

        Raises:
            HostError: The engine no longer answers.
        """
        if self._status is None and self._container is not None and not self._stopped:
            self._status = self._inspect(self._container)
            if self._status is not None and self._reader is not None:
                self._reader.drain(_DRAIN_S)
        return self._status

    def _inspect(self, container: Container) -> ExitStatus | None:
        from docker.errors import DockerException, NotFound  # noqa: PLC0415 - loaded when used
        from requests.exceptions import RequestException  # noqa: PLC0415

        try:
            container.reload()
        except NotFound:
            return ExitStatus(code=137, note="the container was removed by somebody else")
        except (DockerException, RequestException, OSError) as error:
            raise HostError(
                f"the Docker engine no longer answers ({type(error).__name__}: {error})",
                advice="look at the engine's own log: journalctl -u docker",
            ) from None
        state = container.attrs["State"]
        if state["Status"] not in _ENDED:
            return None
        notes = ["OOMKilled: out of memory"] if state.get("OOMKilled") else []
        notes += [str(state["Error"])] if state.get("Error") else []
        return ExitStatus(code=int(state["ExitCode"]), note="; ".join(notes))

    def stop(self) -> None:
        """Stop and remove container and network.

        Raises:
            HostError: Compose could not remove them, also when asked twice.
        """
        self._stopped = True
        try:
            self._take_down()
        finally:
            if self._reader is not None:
                self._reader.drain(_DRAIN_S)
            self._hang_up()

    def _take_down(self) -> None:
        project = self._project
        for attempt in (1, 2):
            if project is None or project.is_down:
                return
            try:
                project.down()
            except HostError as error:
                if attempt == 2:  # noqa: PLR2004 - the last of two
                    raise HostError(
                        f"the container could not be removed: {error.message}",
                        advice=self.stop_hint(),
                    ) from None

    def keep(self) -> None:
        """Do nothing: a container lives on by itself."""

    def _hang_up(self) -> None:
        """Close the connections to the engine; the log's is not the client's any more."""
        stream, self._stream = self._stream, None
        client, self._client = self._client, None
        if stream is not None:
            with contextlib.suppress(OSError, AttributeError):  # already at its end
                stream.close()
        if client is not None:
            client.close()

    def facts(self) -> dict[str, Any]:
        """Return what was started and on what; grows as the launch goes on."""
        facts: dict[str, Any] = dict(self._host)
        if self._image is not None:
            facts["image"] = record_image(self._image)
        if self._plan is not None:
            facts |= record_plan(self._plan, self._target.text("docker-flags"))
        if self._container is not None:
            facts["container"] = self._container.id
            facts["pid"] = self._container.attrs["State"]["Pid"] or None
            facts["port"] = self._port
        return facts

    def files(self) -> dict[str, str]:
        """Return `compose.json`, with which the same server can be started by hand.

        Where the user has laid a file over it, that is returned as well.
        """
        planned, override = self._plan, self._override
        files = {} if planned is None else {_COMPOSE_FILE: compose_json(planned.spec)}
        return files | ({} if override is None else {override.copy_name: override.text})

    def stop_hint(self) -> str:
        """Return the command that removes what was kept, with plain docker only."""
        project = f"pv-{self._run_id}"
        mine = f"docker ps -aq --filter label=com.docker.compose.project={project}"
        return f"docker rm -fv $({mine}) && docker network rm {project}_default"


def command_line(target: Target) -> str:
    """Write the `docker run` line of a target; starts nothing and needs no engine.

    Returns:
        Lines of notes that start with `#`, then the command.

    Raises:
        TargetError: The target names something that is not there.
    """
    image, notes = None, []
    try:
        client = connect(find_endpoint(os.environ))
        with contextlib.closing(client):
            image = read_image(client, target.image) if target.image else None
    except VllmError as error:
        notes.append(f"# the image's entrypoint was not checked: {error.message}")
    planned = plan(target, "by-hand", image=image)
    notes.append(f"# {shlex.join(planned.start.entrypoint)}: {planned.start.why}")
    if planned.devices.note:
        notes.append(f"# GPUs: {planned.devices.note}")
    notes += [f"# set {name} in your environment first" for name, _ in planned.secrets]
    # No labels: what a user starts by hand is not ours to clean up.
    return "\n".join([*notes, docker_run_line(planned.spec)]) + "\n"
