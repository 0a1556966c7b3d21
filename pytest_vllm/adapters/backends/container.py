"""What a container is started with, and its two spellings: a compose file and a `docker run` line.

Pure functions, so that the file kept as evidence and the line shown to a user are made of the same
values as the container that runs.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE = "vllm"
"""Name of the only service in the compose file."""
RUN_LABEL = "pytest-vllm.run"
OWNER_LABEL = "pytest-vllm.owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder of the host that the container sees.

    Attributes:
        source: Absolute path on the host.
        target: Absolute path in the container.
        read_only: Whether the container may only read it.
    """

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Every value that the container is started with.

    Attributes:
        project: Compose project.
        image: What runs: `repository@sha256:...`, an image ID, or a name when nothing is known.
        entrypoint: Words that replace the image's entrypoint.
        command: Words after the entrypoint.
        environment: Name and value; `None` passes the value of our environment on unseen.
        mounts: Folders of the host.
        port: Port inside the container; the engine chooses the one on the host.
        devices: Device nodes, the same inside.
        groups: Groups of the devices, as numbers or names.
        address: Address of the engine's host on which the port is published.
        dns: Name servers, empty for those of the engine.
        shm_size: Size of `/dev/shm`, empty for the default.
        ipc: IPC mode, empty for the default.
        cap_drop: Capabilities taken away.
        cap_add: Capabilities given.
        security_opt: Security options.
        stop_grace_s: Seconds between SIGTERM and SIGKILL.
    """

    project: str
    image: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[tuple[str, str | None], ...] = ()
    mounts: tuple[Mount, ...] = ()
    port: int = 8000
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    dns: tuple[str, ...] = ()
    shm_size: str = ""
    ipc: str = ""
    cap_drop: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    stop_grace_s: int = 20


def compose_json(spec: ContainerSpec) -> str:
    """Write the compose file (JSON, which compose reads as well as YAML).

    Args:
        spec: What to start.

    Returns:
        A file with concrete values only: `$` is doubled, so nothing is taken from the host's
        environment but the variables that are named without a value.
    """
    service: dict[str, Any] = {
        "image": spec.image,
        "entrypoint": list(spec.entrypoint),
        "command": list(spec.command),
        "init": True,
        "stop_grace_period": f"{spec.stop_grace_s}s",
        "ports": [_published(spec)],
        "environment": dict(spec.environment),
        "volumes": [_volume(mount) for mount in spec.mounts],
        "devices": [f"{device}:{device}" for device in spec.devices],
        "group_add": list(spec.groups),
        "dns": list(spec.dns),
        "shm_size": spec.shm_size,
        "ipc": spec.ipc,
        "cap_drop": list(spec.cap_drop),
        "cap_add": list(spec.cap_add),
        "security_opt": list(spec.security_opt),
    }
    kept = {key: value for key, value in service.items() if value not in ("", [], {})}
    document = {"name": spec.project, "services": {SERVICE: _escape(kept)}}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def labels_json(labels: Mapping[str, str], *, merged: Mapping[str, Any] | None = None) -> str:
    """Write the compose file that says whose all of it is.

    It is a file of its own, so that the one kept as evidence says nothing of the kind: a server
    that a user starts from that by hand is not ours to remove.

    Args:
        labels: Labels of every container, network and volume.
        merged: All files together as compose reads them, when there are more than ours.
    """
    document = merged or {"services": {SERVICE: {}}, "networks": {"default": {}}}
    result: dict[str, Any] = {}
    for kind in ("services", "networks", "volumes"):
        entries = document.get(kind) or {}
        ours = [name for name, entry in entries.items() if not (entry or {}).get("external")]
        if ours:
            result[kind] = {name: {"labels": _escape(dict(labels))} for name in ours}
    return json.dumps(result, indent=1, ensure_ascii=False) + "\n"


def docker_run_line(spec: ContainerSpec) -> str:
    """Write the equivalent `docker run` command, one option a line, quoted for a POSIX shell."""
    options = ["docker run", "--init", f"--stop-timeout {spec.stop_grace_s}"]
    options += [_pair("--device", device) for device in spec.devices]
    options += [_pair("--group-add", group) for group in spec.groups]
    options += [_pair("--shm-size", spec.shm_size)] if spec.shm_size else []
    options += [_pair("--ipc", spec.ipc)] if spec.ipc else []
    options += [_pair("--cap-drop", name) for name in spec.cap_drop]
    options += [_pair("--cap-add", name) for name in spec.cap_add]
    options += [_pair("--security-opt", option) for option in spec.security_opt]
    options += [_pair("--dns", address) for address in spec.dns]
    options += [_pair("--publish", _published(spec))]
    options += [_pair("--mount", _mount_option(mount)) for mount in spec.mounts]
    options += [
        _pair("--env", name if value is None else f"{name}={value}")
        for name, value in spec.environment
    ]
    options.append(_pair("--entrypoint", spec.entrypoint[0]))
    options.append(shlex.join([spec.image, *spec.entrypoint[1:], *spec.command]))
    return " \\\n  ".join(options)


def _published(spec: ContainerSpec) -> str:
    """Write the port with its address, the one on the host left to the engine."""
    address = f"[{spec.address}]" if ":" in spec.address else spec.address
    return f"{address}::{spec.port}"


def _pair(option: str, value: str) -> str:
    return f"{option} {shlex.quote(value)}"


def _mount_option(mount: Mount) -> str:
    """Write a value of `--mount`, which is one record of CSV."""
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    fields += ["readonly"] if mount.read_only else []
    return ",".join(
        '"' + field.replace('"', '""') + '"' if any(c in field for c in ',"') else field
        for field in fields
    )


def _volume(mount: Mount) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": mount.source,
        "target": mount.target,
        "read_only": mount.read_only,
        # Docker would silently make an empty folder of a source that does not exist.
        "bind": {"create_host_path": False},
    }


def _escape(value: Any) -> Any:
    """Double every `$`, which compose would expand."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    return value
