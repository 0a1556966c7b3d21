"""The user's own compose file, laid over ours (`--vllm-compose-override`)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.container import SERVICE, compose_json
from pytest_vllm.adapters.backends.port import claim_port
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.adapters.backends.container import ContainerSpec
    from pytest_vllm.domain.target import Target

OPTION = "--vllm-compose-override"
_LIMIT_S = 20
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A file that was found and that compose can read.

    Attributes:
        text: What is in it.
        copy_name: Name of its copy beside `compose.json`.
        folder: Where it lies; paths in it start there.
        merged: All files together, as compose reads them.
    """

    text: str
    copy_name: str
    folder: str
    merged: Mapping[str, Any]

    @property
    def on_host_network(self) -> bool:
        """Whether the server has no network of its own, so that no port is published."""
        return bool(self.merged["services"][SERVICE].get("network_mode") == "host")


def read_override(
    target: Target,
    spec: ContainerSpec,
    command: tuple[str, ...],
    env: Mapping[str, str] = os.environ,
) -> Override | None:
    """Read the file that the target names.

    Args:
        target: May name a file.
        spec: What it is laid over.
        command: Compose.
        env: Our environment.

    Returns:
        The file, `None` when none is named.

    Raises:
        TargetError: It cannot be read, compose refuses it, or it changes the image, which would
            then not be the one that was resolved and recorded.
        HostError: It takes the host's network and the port is in use there.
    """
    named = target.settings["compose-override"].value
    if not isinstance(named, str):
        return None
    path = Path(named).expanduser().absolute()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is not a text"
        raise TargetError(
            f"{OPTION}: cannot read {path}: {said}", advice="name a compose file"
        ) from None
    merged = merge(command, spec, path, env)
    image = merged["services"][SERVICE].get("image")
    if image != spec.image:
        raise TargetError(
            f"{OPTION}: {path} changes the image to {image}",
            advice=f"name the image with --vllm-image and drop `image` from service {SERVICE}",
        )
    override = Override(
        text=text, copy_name="compose.override.yaml", folder=str(path.parent), merged=merged
    )
    if override.on_host_network:
        # Else we would talk to whoever has it.
        claim_port(_LOOPBACK, spec.port)
    return override


def merge(
    command: tuple[str, ...], spec: ContainerSpec, override: Path, env: Mapping[str, str]
) -> dict[str, Any]:
    """Ask compose what our file and the user's come to.

    Raises:
        TargetError: Compose refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="pytest-vllm-") as folder:
        ours = Path(folder) / "compose.json"
        ours.write_text(compose_json(spec), "utf-8")
        words = [*command, "--project-directory", str(override.absolute().parent)]
        words += ["-f", str(ours), "-f", str(override.absolute())]
        done = subprocess.run(  # noqa: S603 - a fixed command
            [*words, "config", "--format", "json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_S,
            env=dict(env),
        )
    if done.returncode != 0:
        raise TargetError(
            f"{OPTION}: compose refuses {override}: {one_line(done.stderr, 300)}",
            advice=f"mend the file; the service is called {SERVICE}",
        )
    document: dict[str, Any] = json.loads(done.stdout)
    return document
