"""An engine that is reached over TCP: is it the one of this host?

Model folder, devices and the published port 127.0.0.1 are those of the engine's host. A port on
this host may lead to another one (`ssh -L`), so the address proves nothing.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.container import OWNER_LABEL
from pytest_vllm.adapters.backends.engine import ON_THAT_HOST
from pytest_vllm.adapters.backends.owner import owner_text
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from docker import DockerClient

    from pytest_vllm.adapters.backends.engine import Endpoint

_NO_SOURCE = "bind source path does not exist"


def require_same_host(client: DockerClient, image: str, endpoint: Endpoint) -> None:
    """Make sure that the engine sees this host's files.

    A container is made with a folder of this moment as its mount, which the engine refuses where
    there is no such folder. It is never started, and removed at once.

    Args:
        client: The engine.
        image: An image that is on it.
        endpoint: Where it listens.

    Raises:
        HostError: The engine is on another host, or does not answer.
    """
    from docker.errors import APIError, DockerException  # noqa: PLC0415 - loaded when used
    from docker.types import Mount  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="pytest-vllm-") as folder:
        try:
            mount = Mount(target="/here", source=folder, type="bind", read_only=True)
            labels = {OWNER_LABEL: owner_text()}
            probe = client.containers.create(image, command=["true"], mounts=[mount], labels=labels)
        except APIError as error:
            if _NO_SOURCE in str(error):
                raise HostError(
                    f"the Docker engine at {endpoint.url} ({endpoint.source}) does not see this "
                    "host's files: it is on another host, so model folder, devices and the "
                    "published port would be those of that host",
                    advice=ON_THAT_HOST,
                ) from None
            raise HostError(
                f"the Docker engine at {endpoint.url} makes no container: {error.explanation}",
                advice="look at the engine's own log: journalctl -u docker",
            ) from None
        with contextlib.suppress(DockerException):
            probe.remove(force=True)
