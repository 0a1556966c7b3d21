"""Rules about what a server may do to its host; they warn and never stop a run."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts

_SOCKETS = ("docker.sock", "podman.sock", "containerd.sock")
_COMMIT = 40
"""Length of a full Git commit; anything else can be moved."""


def override(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The user's compose file may take back what `least` gives."""
    container = facts.container
    if container is None:
        return
    name = container.override
    if container.privileged:
        yield _warning(
            "security.privileged",
            f"{name} makes the container privileged: it owns the host",
            "drop `privileged`; /dev/kfd, render nodes and numeric groups are passed already",
        )
    if container.network_mode == "host":
        yield _warning(
            "security.host-network",
            f"{name} puts the server into the host's network: every port of it is reachable "
            "from outside",
            "drop `network_mode: host`; for DNS use --vllm-dns=IP",
        )
    for source in container.sources:
        if source.endswith(_SOCKETS):
            yield _warning(
                "security.engine-socket",
                f"{name} mounts {source}: the server can start containers as root",
                f"drop the mount of {source}",
            )
    for address in container.published:
        host = address.rpartition(":")[0]
        if not _is_loopback(host):
            yield _warning(
                "security.published-port",
                f"{name} publishes port {address.rpartition(':')[2]} on "
                f"{host or 'every address of the host'}; the server asks nobody who they are",
                'write `ports: !override ["127.0.0.1::8000"]`, and set VLLM_API_KEY',
            )


def remote_code(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Code of the model's repository runs with the rights of the server."""
    target = facts.target
    named = target.revision or target.serve_args.value("--revision") or ""
    pinned = len(named) == _COMMIT and all(char in "0123456789abcdef" for char in named)
    if target.model_is_path or pinned or not target.serve_args.has("--trust-remote-code"):
        return
    moves = f"revision {named} can be moved" if named else "no revision is named"
    yield _warning(
        "security.remote-code",
        f"--trust-remote-code runs whatever the repository holds at the time: {moves}",
        "--vllm-revision=COMMIT, the full hash of one that somebody read",
    )


def gfx_override(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A GPU that poses as another one proves nothing about the image."""
    variable = "HSA_OVERRIDE_GFX_VERSION"
    given = {item.name: item.value for item in facts.target.env}
    value = given.get(variable) or facts.host.variables.get(variable)
    reaches = variable in given or facts.target.backend == "process"
    if value is None and facts.image is not None:
        value = facts.image.env.get(variable)
        reaches = value is not None
    if facts.target.backend == "attach" or not reaches or value is None:
        return
    yield _warning(
        "security.gfx-override",
        f"{variable}={value} makes a GPU pose as another: what passes here proves nothing "
        "about the real one",
        f"drop {variable}, and use an image that is compiled for the GPU",
    )


def token(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A token on a command line can be read by every user of the host."""
    if facts.target.serve_args.has("--hf-token"):
        yield _warning(
            "security.token-on-argv",
            "--hf-token puts the token on the server's command line, where every user reads it",
            "export HF_TOKEN=... and --vllm-env=HF_TOKEN",
        )


def _warning(rule: str, seen: str, cure: str) -> Finding:
    return Finding(id=rule, severity=Severity.WARNING, fault=Fault.USER, seen=seen, cure=cure)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


RULES = (override, remote_code, gfx_override, token)
IDS = (
    "security.privileged",
    "security.host-network",
    "security.engine-socket",
    "security.published-port",
    "security.remote-code",
    "security.gfx-override",
    "security.token-on-argv",
)
