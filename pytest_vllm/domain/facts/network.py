"""Facts about the network as a container sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What a throw-away container could reach.

    Attributes:
        hub: URL of the model hub.
        where: What tried it: `container` or `process`.
        dns: DNS servers that were given to it (`--vllm-dns`).
        stage: How far it came: `dns`, `connect`, `tls`, `http` or `answered`; empty when the
            attempt itself could not be made.
        resolved: Whether the hub's name was resolved.
        reached: Whether the hub answered.
        problem: What went wrong, empty when nothing did.
        working_dns: A DNS server of this host that a container can ask with success.
        proxy: Whether a proxy was used.
        model_status: HTTP status for the model, `None` when there was no answer.
        error_code: The hub's own code, such as `GatedRepo` or `RepoNotFound`.
        error_message: What the hub said.
        token: Whether a token was sent.
        took_s: How long the attempt took.
    """

    hub: str = ""
    where: str = ""
    dns: tuple[str, ...] = ()
    stage: str = ""
    resolved: bool = False
    reached: bool = False
    problem: str = ""
    working_dns: str = ""
    proxy: bool = False
    model_status: int | None = None
    error_code: str = ""
    error_message: str = ""
    token: bool = False
    took_s: float = 0.0
