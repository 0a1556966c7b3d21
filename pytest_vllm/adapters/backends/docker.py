"""A vLLM server in a container: pytest-docker for the lifecycle, the Docker SDK for the eyes."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends import ExitStatus, LogLine
from pytest_vllm.adapters.backends.container import (
    RUN_LABEL,
    compose_json,
    docker_run_line,
)
from pytest_vllm.adapters.backends.engine import (
    compose_shell_command,
    connect,
    explain_up,
    find_compose,
    find_endpoint,
    variables,
)
from pytest_vllm.adapters.backends.image import read_image, record_image
from pytest_vllm.adapters.backends.lines import LogReader
from pytest_vllm.adapters.backends.model import make_cache
from pytest_vllm.adapters.backends.plan import Plan, plan, record_plan
from pytest_vllm.domain.errors import HostError, TargetError, VllmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from docker import DockerClient
    from docker.models.containers import Container
    from docker.types import CancellableStream

    from pytest_vllm.domain.facts.image import ImageFacts
    from pytest_vllm.domain.target import Target

_COMPOSE_FILE = "compose.json"
_UP = "up -d --no-build --pull never"
_DOWN = "down -v --remove-orphans"
_DRAIN_S = 0.5
_ENDED = ("exited", "dead")
_ADDRESS = "127.0.0.1"


class DockerBackend:
    """Run a target in a container of this host's engine.

    Args:
        target: What to run; its backend is `docker`.
        workdir: Folder of the run; `compose.json` is written there.
        run_id: Name of the run; the compose project is `pv-<run_id>`.
    """

    name = "docker"
    owned = True

    def __init__(self, target: Target, workdir: Path, run_id: str) -> None:
        self._target = target
        self._workdir = workdir.absolute()
        self._run_id = run_id
        self._client: DockerClient | None = None
        self._image: ImageFacts | None = None
        self._plan: Plan | None = None
        self._container: Container | None = None
        self._stream: CancellableStream[bytes] | None = None
        self._reader: LogReader | None = None
        self._services = contextlib.ExitStack()
        self._compose = ""
        self._host: dict[str, Any] = {}
        self._port: int | None = None
        self._state = "down"
        self._stopped = False
        self._status: ExitStatus | None = None

    def launch(self) -> None:
        """Start the container and return at once.

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
        self._image = read_image(client, target.image)
        self._plan = plan(target, self._run_id, image=self._image)
        command, version = find_compose(os.environ)
        self._host = {
            "engine": client.version().get("Version", ""),
            "engine_endpoint": endpoint.url,
            "compose": version,
        }
        make_cache(self._plan.model)
        self._compose = compose_shell_command(command, endpoint, self._workdir)
        (self._workdir / _COMPOSE_FILE).write_text(compose_json(self._plan.spec), "utf-8")
        started = time.monotonic()
        self._up(self._plan)
        self._container = self._find(client)
        self._stream = self._container.logs(stream=True, follow=True, stdout=True, stderr=True)
        self._reader = LogReader(self._stream, started=started)

    def _up(self, planned: Plan) -> None:
        """Start the services; whatever goes wrong, nothing stays."""
        from pytest_docker.plugin import get_docker_services  # noqa: PLC0415 - imports pytest

        services = get_docker_services(
            self._compose, _COMPOSE_FILE, planned.spec.project, [_UP], [_DOWN]
        )
        self._state = "down needed"
        try:
            with variables(dict(planned.secrets)):
                self._services.enter_context(services)
            self._state = "up"
        except BaseException as error:
            # pytest-docker does not clean up after a failed set-up.
            with contextlib.suppress(Exception):  # the first error is the one to show
                self._down()
            if isinstance(error, Exception):
                sent = shlex.join([*planned.spec.entrypoint, *planned.spec.command])
                raise explain_up(error, sent=sent) from None
            raise

    def _down(self) -> None:
        """Remove container and network: through pytest-docker, or directly when that was cut."""
        from pytest_docker.plugin import DockerComposeExecutor  # noqa: PLC0415

        state, self._state = self._state, "down needed"
        if state == "up":
            self._services.close()
        else:
            executor = DockerComposeExecutor(self._compose, _COMPOSE_FILE, f"pv-{self._run_id}")
            executor.execute(_DOWN)
        self._state = "down"

    def _find(self, client: DockerClient) -> Container:
        found = client.containers.list(all=True, filters={"label": f"{RUN_LABEL}={self._run_id}"})
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
        return None if self._port is None else f"http://{_ADDRESS}:{self._port}"

    @property
    def log(self) -> Sequence[LogLine]:
        """All log lines so far, stdout and stderr in the order in which the engine got them."""
        return self._reader.lines if self._reader is not None else ()

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
            for attempt in (1, 2):
                if self._state == "down":
                    break
                try:
                    self._down()
                except Exception as error:  # noqa: BLE001 - pytest-docker raises no other
                    if attempt == 2:  # noqa: PLR2004 - the last of two
                        said = explain_up(error, sent="down").message
                        raise HostError(
                            f"the container could not be removed: {said}", advice=self.stop_hint()
                        ) from None
        finally:
            if self._reader is not None:
                self._reader.drain(_DRAIN_S)
            self._hang_up()

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
            facts["port"] = self._port
        return facts

    def files(self) -> dict[str, str]:
        """Return `compose.json`, with which the same server can be started by hand."""
        planned = self._plan
        return {} if planned is None else {_COMPOSE_FILE: compose_json(planned.spec)}

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
    return "\n".join([*notes, docker_run_line(replace(planned.spec, labels=()))]) + "\n"
