"""What a container tells about its own end: its log, its state, and how it was started."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.engine import connect, find_endpoint
from pytest_vllm.domain.diagnosis import ServerEnd
from pytest_vllm.domain.errors import HostError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SOCKET = "docker.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What was found.

    Attributes:
        log: All that the container has written.
        end: How it ended; running containers have no exit code.
        sent: Entrypoint and command that it was started with.
        image: Entrypoint and command that its image has, empty when it has no image any more.
        warnings: What about its start is unsafe.
    """

    log: bytes
    end: ServerEnd
    sent: str
    image: str
    warnings: tuple[str, ...]


def read_container(name: str, env: Mapping[str, str]) -> Remains:
    """Read what a container left behind, running or not.

    Args:
        name: Name or ID.
        env: Our environment, which names the engine.

    Raises:
        TargetError: There is no such container.
        HostError: The engine does not answer.
    """
    from docker.errors import DockerException, NotFound  # noqa: PLC0415 - loaded when used
    from requests.exceptions import RequestException  # noqa: PLC0415

    endpoint = find_endpoint(env)
    client = connect(endpoint)
    try:
        container = client.containers.get(name)
        attributes: dict[str, Any] = container.attrs
        log = container.logs(stdout=True, stderr=True)
        image = _image_words(client.images.get(attributes["Image"]).attrs)
    except NotFound:
        raise TargetError(
            f"there is neither a file nor a container named {name} (engine {endpoint.url})",
            advice="docker ps --all shows the containers; a log file is named by its path",
        ) from None
    except (DockerException, RequestException, OSError) as error:
        raise HostError(
            f"the engine at {endpoint.url} does not hand out container {name}: {error}",
            advice="docker logs NAME > FILE may, then: pytest-vllm diagnose FILE",
        ) from None
    finally:
        client.close()
    config = attributes["Config"]
    return Remains(
        log=log,
        end=_end(attributes["State"]),
        sent=shlex.join([attributes["Path"], *attributes["Args"]]),
        image=image,
        warnings=tuple(_warnings(attributes["HostConfig"], attributes.get("Mounts") or [], config)),
    )


def _end(state: Mapping[str, Any]) -> ServerEnd:
    ended = state["Status"] in ("exited", "dead") or (
        state["Status"] == "created" and bool(state.get("Error"))
    )
    return ServerEnd(
        exit_code=int(state["ExitCode"]) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        stopped=True,
    )


def _image_words(image: Mapping[str, Any]) -> str:
    config = image.get("Config") or {}
    words = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    return shlex.join(str(word) for word in words)


def _warnings(
    host: Mapping[str, Any], mounts: list[Mapping[str, Any]], config: Mapping[str, Any]
) -> Iterator[str]:
    if host.get("Privileged"):
        yield "the container is privileged: it may do anything to the host; devices are enough"
    if host.get("NetworkMode") == "host":
        yield "the container uses the host's network: every port is open there; -p 127.0.0.1::8000"
    if any(str(mount.get("Source", "")).endswith(_SOCKET) for mount in mounts):
        yield "docker.sock is mounted: whoever is in the container is root on the host"
    words = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if "--trust-remote-code" in words and "--revision" not in " ".join(words):
        yield "--trust-remote-code without --revision runs whatever the model's owner uploads next"
    if any(entry.startswith("HSA_OVERRIDE_GFX_VERSION=") for entry in config.get("Env") or ()):
        yield "HSA_OVERRIDE_GFX_VERSION is set: what runs is not what was built for this GPU"
