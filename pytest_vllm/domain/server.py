"""What is known about a server that answers."""

from __future__ import annotations

from dataclasses import dataclass

CAPABILITIES = (
    "chat",
    "base",
    "tools",
    "responses",
    "messages",
    "tokenize",
    "metrics",
    "structured-outputs",
    "beam-search",
)
"""What a server may lack without being broken. `base` is the lack of a chat template."""

FIRST_PROMPT = "Hello"
"""What the first request after launch completes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A ready server.

    Attributes:
        url: Base URL without `/v1`.
        model: ID that requests name (the first of `/v1/models`).
        served_names: All IDs of `/v1/models`.
        max_model_len: Context length in tokens, `None` when the server does not say.
        version: What `/version` answered, empty when it did not.
        capabilities: What was found to be there, of `CAPABILITIES`.
        absent: Capability -> why it is not there.
        owned: Whether this run launched the server.
        api_key_env: Variable that holds the API key, empty when none is set.
        launch_model: Model as the server was told to load it, empty in attach mode.
        first_text: The token with which it completed `FIRST_PROMPT`, greedily, before any other.
    """

    url: str
    model: str
    served_names: tuple[str, ...]
    max_model_len: int | None
    version: str
    capabilities: tuple[str, ...]
    absent: dict[str, str]
    owned: bool
    api_key_env: str = ""
    launch_model: str = ""
    first_text: str = ""
