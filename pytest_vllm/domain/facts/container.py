"""Facts about the container as it will be started, the user's own compose file included."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """What compose makes of our file and the one that is laid over it.

    Attributes:
        override: The user's file, empty for none.
        privileged: Whether it gets every right of the host.
        network_mode: Network mode, empty for a network of its own.
        sources: Paths of the host that it sees.
        published: Addresses of the host on which ports are published; empty for all of them.
        devices: Device nodes that it gets.
        environment: Names of its variables.
    """

    override: str = ""
    privileged: bool = False
    network_mode: str = ""
    sources: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
