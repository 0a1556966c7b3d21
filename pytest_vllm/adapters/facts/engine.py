"""Asks the Docker engine what it is, and where it keeps its images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.engine import connect, find_compose, find_endpoint
from pytest_vllm.adapters.facts.host import free_bytes
from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.facts.engine import EngineFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker import DockerClient

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def gather_engine(env: Mapping[str, str]) -> tuple[EngineFacts, DockerClient | None]:
    """Ask the engine. Never raises for an engine that is not there: the facts say why.

    Returns:
        The facts, and the open connection (the caller closes it), `None` when there is none.
    """
    try:
        endpoint = find_endpoint(env)
    except HostError as error:
        return _problem(error, EngineFacts()), None
    facts = EngineFacts(endpoint=endpoint.url, source=endpoint.source)
    try:
        client = connect(endpoint)
    except HostError as error:
        return _problem(error, facts), None
    try:
        return _ask(client, facts), client
    except BaseException:
        client.close()
        raise


def gather_compose(env: Mapping[str, str]) -> tuple[str, str]:
    """Return the version of Compose, or an empty text and why there is none."""
    try:
        return find_compose(env)[1], ""
    except HostError as error:
        return "", error.message


def _ask(client: DockerClient, facts: EngineFacts) -> EngineFacts:
    from docker.errors import DockerException  # noqa: PLC0415 - loaded when used
    from requests.exceptions import RequestException  # noqa: PLC0415

    try:
        info: dict[str, Any] = client.info()
        version: dict[str, Any] = client.version()
    except (DockerException, RequestException, OSError) as error:
        return EngineFacts(
            endpoint=facts.endpoint,
            source=facts.source,
            problem=f"the Docker engine at {facts.endpoint} answers no question ({error})",
            cure="look at the engine's own log: journalctl -u docker",
            ref="D1",
        )
    parts = [str(part.get("Name", "")) for part in version.get("Components") or ()]
    security = tuple(str(option) for option in info.get("SecurityOptions") or ())
    root = str(info.get("DockerRootDir") or "")
    remote = not facts.endpoint.startswith("unix://")
    machine = str(info.get("Architecture") or "")
    return EngineFacts(
        endpoint=facts.endpoint,
        source=facts.source,
        kind="podman" if any("podman" in part.lower() for part in parts) else "docker",
        version=str(version.get("Version") or ""),
        api=str(version.get("ApiVersion") or ""),
        architecture=_ARCHITECTURES.get(machine, machine),
        remote=remote,
        rootless=any("rootless" in option for option in security),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        security=security,
        data_root=root,
        data_free_bytes=free_bytes(Path(root)) if root and not remote else None,
        memory_bytes=int(info.get("MemTotal") or 0) or None,
    )


def _problem(error: HostError, facts: EngineFacts) -> EngineFacts:
    diagnosis = getattr(error, "diagnosis", None)
    ref = diagnosis.ref if diagnosis is not None else None
    denied = "permission denied" in error.message
    return EngineFacts(
        endpoint=facts.endpoint,
        source=facts.source,
        problem=error.message,
        cure=error.advice,
        ref=ref or ("D2" if denied else "D1"),
    )
