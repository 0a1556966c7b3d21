"""Asks compose what the user's own file makes of the container."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.container import SERVICE, compose_json
from pytest_vllm.adapters.backends.engine import find_compose
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.facts.container import ContainerFacts
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.adapters.backends.container import ContainerSpec

_LIMIT_S = 20


def gather_container(
    spec: ContainerSpec, override: Path, env: Mapping[str, str]
) -> ContainerFacts | None:
    """Merge our compose file with the user's, as the launch will.

    Args:
        spec: The container as we would start it.
        override: The user's file (`--vllm-compose-override`).
        env: Our environment.

    Returns:
        What compose makes of both, `None` where there is no compose to ask.

    Raises:
        TargetError: The file is not there, or compose refuses it.
    """
    if not override.is_file():
        raise TargetError(
            f"--vllm-compose-override: there is no file {override}", advice="check the path"
        )
    try:
        command, _ = find_compose(env)
    except HostError:
        return None
    with tempfile.TemporaryDirectory(prefix="pytest-vllm-") as folder:
        ours = Path(folder) / "compose.json"
        ours.write_text(compose_json(spec), "utf-8")
        words = [*command, "-f", str(ours), "-f", str(override.absolute())]
        done = subprocess.run(  # noqa: S603 - a fixed command
            [*words, "config", "--format", "json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_S,
            env={**os.environ, **env},
        )
    if done.returncode != 0:
        raise TargetError(
            f"--vllm-compose-override: compose refuses {override}: {one_line(done.stderr, 300)}",
            advice=f"mend the file; the service is called {SERVICE}",
        )
    return describe_service(json.loads(done.stdout), override=str(override))


def describe_service(document: dict[str, Any], *, override: str) -> ContainerFacts:
    """Read what `compose config --format json` says about our service."""
    service = document.get("services", {}).get(SERVICE, {})
    volumes = [item for item in service.get("volumes") or () if item.get("type") == "bind"]
    devices = service.get("devices") or ()
    return ContainerFacts(
        override=override,
        privileged=bool(service.get("privileged")),
        network_mode=str(service.get("network_mode") or ""),
        sources=tuple(str(item.get("source") or "") for item in volumes),
        published=tuple(
            f"{item.get('host_ip', '')}:{item.get('target', '')}"
            for item in service.get("ports") or ()
        ),
        devices=tuple(
            str(item.get("source") if isinstance(item, dict) else item).partition(":")[0]
            for item in devices
        ),
        environment=tuple(sorted(service.get("environment") or ())),
    )
