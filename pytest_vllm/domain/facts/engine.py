"""Facts about the Docker engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """The engine as it describes itself.

    Attributes:
        endpoint: URL of the endpoint.
        source: What named it.
        problem: Why it cannot be used, empty when it can.
        cure: What to do about the problem.
        ref: Row of the failure table that the problem is, such as `D1`.
        kind: `docker` or `podman`, empty when unknown.
        version: Version of the engine.
        api: Version of its API.
        architecture: Of the host it runs on, as images name it, such as `amd64`.
        remote: Whether it runs on another host than this process.
        rootless: Whether it runs as an ordinary user.
        compose: Version of Compose, empty when there is none.
        compose_problem: Why there is none.
        runtimes: Container runtimes that it knows.
        security: Its security options, such as `name=seccomp,profile=default`.
        data_root: Folder that holds images and containers, on the engine's host.
        data_free_bytes: Free space there, `None` when it cannot be seen from here.
        memory_bytes: Memory of the engine's host, `None` when not told.
    """

    endpoint: str = ""
    source: str = ""
    problem: str = ""
    cure: str = ""
    ref: str = ""
    kind: str = ""
    version: str = ""
    api: str = ""
    architecture: str = ""
    remote: bool = False
    rootless: bool = False
    compose: str = ""
    compose_problem: str = ""
    runtimes: tuple[str, ...] = ()
    security: tuple[str, ...] = ()
    data_root: str = ""
    data_free_bytes: int | None = None
    memory_bytes: int | None = None
