"""Bodies of requests: the same wish in the words of either endpoint, never without a bound."""

from __future__ import annotations

from typing import Any

DEFAULT_MAX_TOKENS = 16
"""Bound of a request that names none: without one, a reply may run to the end of the context."""

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
"""Endpoint -> path."""

BOUNDS = ("max_tokens", "max_completion_tokens")
"""Fields that bound the tokens of a reply."""

Messages = list[dict[str, Any]]


def completion_body(model: str, prompt: str | list[Any], params: dict[str, Any]) -> dict[str, Any]:
    """Make a request to complete a prompt; an explicit `max_tokens=None` leaves the bound out."""
    body = {"model": model, "prompt": prompt, "max_tokens": DEFAULT_MAX_TOKENS, **params}
    if body["max_tokens"] is None:
        del body["max_tokens"]
    return body


def chat_body(model: str, messages: str | Messages, params: dict[str, Any]) -> dict[str, Any]:
    """Make a request to answer messages, or one user turn.

    Raises:
        ValueError: The request has no bound: vLLM would write to the end of the context.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = {"model": model, "messages": messages, **params}
    if not any(name in params for name in BOUNDS):
        body["max_tokens"] = DEFAULT_MAX_TOKENS
    if all(body.get(name) is None for name in BOUNDS):
        raise ValueError("a chat request needs max_tokens or max_completion_tokens")
    return body


def build_body(
    endpoint: str,
    model: str,
    prompt: str | list[Any],
    *,
    top: int | None,
    params: dict[str, Any],
) -> dict[str, Any]:
    """Make a request for either endpoint.

    Args:
        endpoint: `completions` or `chat`.
        model: ID of the model.
        prompt: A prompt, or messages for `chat`.
        top: Ask for log probabilities with so many alternatives, `None` for none.
        params: Further fields.
    """
    if endpoint == "chat":
        asked = {} if top is None else {"logprobs": True, "top_logprobs": top}
        return chat_body(model, prompt, {**asked, **params})
    asked = {} if top is None else {"logprobs": top}
    return completion_body(model, prompt, {**asked, **params})
