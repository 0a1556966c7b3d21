"""From a target to every value that its container is started with."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.container import (
    ContainerSpec,
    Mount,
    docker_run_line,
)
from pytest_vllm.adapters.backends.device import DeviceChoice, choose_devices
from pytest_vllm.adapters.backends.image import Start, choose_start
from pytest_vllm.adapters.backends.model import ModelMount, mount_model
from pytest_vllm.adapters.hub_cache import hub_cache
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import secrets_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.facts.image import ImageFacts
    from pytest_vllm.domain.target import EnvVar, Target

PORT = 8000
_SHM_SIZE = "16g"  # what vLLM's AMD CI uses; a limit, not a reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a target is run in a container.

    Attributes:
        spec: What the container is started with.
        start: How the server is started and why so.
        model: How it gets at the model.
        devices: Which GPUs it gets.
        secrets: Values of variables that the spec names without a value.
    """

    spec: ContainerSpec
    start: Start
    model: ModelMount
    devices: DeviceChoice
    secrets: tuple[tuple[str, str], ...] = ()


def plan(
    target: Target,
    run_id: str,
    *,
    image: ImageFacts | None = None,
    env: Mapping[str, str] = os.environ,
    dev: Path = Path("/dev"),
) -> Plan:
    """Plan the container of a target. Starts and creates nothing, needs no engine.

    Args:
        target: What to run; its backend is `docker`.
        run_id: Name of the run.
        image: The resolved image, `None` when no engine could be asked: then its name is used.
        env: Our environment.
        dev: Folder of device nodes.

    Raises:
        TargetError: The target names something that is not there.
    """
    model = mount_model(target, env)
    devices = choose_devices(target.gpus, dev=dev)
    start = choose_start(
        target.text("entrypoint"),
        entrypoint=None if image is None else image.entrypoint,
        cmd=() if image is None else image.cmd,
    )
    environment, secrets = _environment(target.env, model, env)
    name = target.image.text if target.image else ""
    spec = ContainerSpec(
        project=f"pv-{run_id}",
        image=name if image is None else image.runs,
        entrypoint=start.entrypoint,
        command=(*start.words(model.name), *server_words(target, host="0.0.0.0", port=PORT)),  # noqa: S104 - inside the container
        environment=environment,
        mounts=model.mounts,
        port=target.serve_args.port or PORT,
        dns=_dns(target),
    )
    return Plan(
        spec=(
            _documented(spec, target, model, devices, hub_cache(env))
            if target.text("docker-flags") == "documented"
            else _least(spec, model, devices)
        ),
        start=start,
        model=model,
        devices=devices,
        secrets=secrets,
    )


def server_words(target: Target, *, host: str, port: int) -> tuple[str, ...]:
    """Return the words after the model: revision, host and port where absent, then the user's."""
    args = target.serve_args
    ours: list[str] = []
    if target.revision and not target.model_is_path and not args.has("--revision"):
        ours += ["--revision", target.revision]
    ours += [] if args.has("--host") else ["--host", host]
    ours += [] if args.has("--port") else ["--port", str(port)]
    return (*ours, *args.argv)


def passed_on(variable: EnvVar, env: Mapping[str, str]) -> str:
    """Return the value of a variable that is passed on by name.

    Raises:
        TargetError: It is not set in our environment.
    """
    if variable.name not in env:
        raise TargetError(
            f"--vllm-env: {variable.name} is to be passed on but is not set",
            advice=f"export {variable.name}, or write {variable.name}=VALUE",
        )
    return env[variable.name]


def _environment(
    variables: tuple[EnvVar, ...], model: ModelMount, env: Mapping[str, str]
) -> tuple[tuple[tuple[str, str | None], ...], tuple[tuple[str, str], ...]]:
    """Return the container's variables, and the values of those that the spec must not show."""
    values: dict[str, str | None] = dict(model.environment)
    secrets: dict[str, str] = {}
    for variable in variables:
        value = variable.value
        if value is None:
            passed_on(variable, env)
        elif secrets_in({variable.name: value}):
            secrets[variable.name] = value
            value = None
        values[variable.name] = value
    return tuple(values.items()), tuple(secrets.items())


def _dns(target: Target) -> tuple[str, ...]:
    """Return the name servers that the user gave.

    Raises:
        TargetError: One is no IP address.
    """
    given = target.settings["dns"].value
    addresses = tuple(str(item) for item in given) if isinstance(given, tuple) else ()
    for address in addresses:
        try:
            ip_address(address)
        except ValueError:
            raise TargetError(
                f"--vllm-dns: {address!r} is no IP address",
                advice="name a DNS server by its address: --vllm-dns=192.0.2.53",
            ) from None
    return addresses


def _least(spec: ContainerSpec, model: ModelMount, devices: DeviceChoice) -> ContainerSpec:
    """Add the flags of least privilege."""
    return replace(
        spec,
        devices=devices.devices,
        groups=tuple(str(gid) for gid in devices.gids),
        shm_size=_SHM_SIZE,
        cap_drop=("ALL",),
        # Root without any capability cannot read a cache of mode 0700 that a user owns, and
        # cannot download into it either.
        cap_add=("DAC_OVERRIDE",) if model.writable else ("DAC_READ_SEARCH",),
        security_opt=("no-new-privileges:true",),
    )


def _documented(
    spec: ContainerSpec, target: Target, model: ModelMount, devices: DeviceChoice, cache: Path
) -> ContainerSpec:
    """Add the flags that the ROCm documentation gives."""
    kfd = devices.devices[:1]
    whole = tuple(str(Path(path).parent / "dri") for path in kfd)
    others = tuple(mount for mount in model.mounts if mount.source != str(cache))
    inside = "/hf/hub" if len(others) < len(model.mounts) else "/root/.cache/huggingface/hub"
    mount = Mount(source=str(cache), target=inside, read_only=False)
    wanted = model.writable or cache.is_dir()
    return replace(
        spec,
        devices=(*kfd, *whole) if target.gpus == "all" else devices.devices,
        groups=("video",) if kfd else (),
        ipc="host",
        cap_add=("SYS_PTRACE",),
        security_opt=("seccomp=unconfined",),
        mounts=(*others, mount) if wanted else others,
    )


def record_plan(planned: Plan, flags: str) -> dict[str, Any]:
    """Return the plan as it goes into the record; `flags` names the set of flags."""
    spec = planned.spec
    return {
        "command": [*spec.entrypoint, *spec.command],
        "entrypoint_why": planned.start.why,
        "model": planned.model.name,
        "model_source": planned.model.source,
        "flags": flags,
        "devices": list(spec.devices),
        "devices_note": planned.devices.note,
        "groups": list(spec.groups),
        "mounts": [f"{m.source}:{m.target}:{'ro' if m.read_only else 'rw'}" for m in spec.mounts],
        "environment": [name for name, _ in spec.environment],
        "docker_run": docker_run_line(spec),
    }
