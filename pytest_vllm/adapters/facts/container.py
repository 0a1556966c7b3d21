"""Asks compose what the user's own file makes of the container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.container import SERVICE
from pytest_vllm.adapters.backends.engine import find_compose
from pytest_vllm.adapters.backends.override import merge
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.facts.container import ContainerFacts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_vllm.adapters.backends.container import ContainerSpec


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
    document = merge(command, spec, override, env)
    return describe_service(document, override=str(override))


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
