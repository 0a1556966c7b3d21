"""Facts about the way from this process to a server that somebody else runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFacts:
    """What a first knock at `--vllm-url` showed.

    Attributes:
        url: The URL.
        host: Host in it.
        port: Port in it.
        loopback: Whether the host is this machine itself, as this process sees it.
        refused: Whether nobody listens there.
        problem: Why it could not be reached, empty when it was.
        server_here: Whether a vLLM process that we see will listen at that port once it is up.
    """

    url: str
    host: str = ""
    port: int = 0
    loopback: bool = False
    refused: bool = False
    problem: str = ""
    server_here: bool = False
