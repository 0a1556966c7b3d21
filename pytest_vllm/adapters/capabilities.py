"""Find out what a ready server offers beyond completions; checks of the rest stand back.

A capability is absent only when the server says so in so many words; whatever answers otherwise,
also by breaking, counts as present and is judged by the checks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.reply import Reply, TransportFailure
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Reply | TransportFailure]
    """Sends `(method, path, json=...)`; a failed transport is returned, not raised."""

_NO_ROUTE = (404, 405, 501)
_BAD_REQUEST = 400
_ROUTES = {"responses": "/v1/responses", "messages": "/v1/messages", "tokenize": "/tokenize"}
_FIELDS = {"structured-outputs": "structured_outputs", "beam-search": "use_beam_search"}
_FIELDS_SINCE = (0, 11)
"""First vLLM that has all of `_FIELDS`; asked only where `/openapi.json` does not tell."""


def probe_capabilities(ask: Ask, *, model: str, version: str, no_chat: str) -> dict[str, str]:
    """Say for each capability why the server lacks it, empty when it is there.

    Args:
        ask: Sends one request to the server.
        model: ID that requests name.
        version: What `/version` said.
        no_chat: Why there is no chat, empty when there is.

    Returns:
        Reasons by capability: `chat`, `base`, `tools`, `responses`, `messages`, `tokenize`,
        `metrics`, `structured-outputs`, `beam-search`.
    """
    absent = {"chat": no_chat, "base": "" if no_chat else "the server can chat"}
    absent["tools"] = no_chat or _missing_tools(ask, model)
    for name, path in _ROUTES.items():
        absent[name] = _missing_route(ask("POST", path, json={}), path)
    absent["metrics"] = _missing_route(ask("GET", "/metrics"), "/metrics")
    absent |= _missing_fields(ask("GET", "/openapi.json"), version)
    return absent


def _missing_tools(ask: Ask, model: str) -> str:
    tool = {"type": "function", "function": {"name": "probe", "parameters": {"type": "object"}}}
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
        "tools": [tool],
        "tool_choice": "auto",
    }
    answer = ask("POST", "/v1/chat/completions", json=body)
    if not isinstance(answer, Reply) or answer.status != _BAD_REQUEST:
        return ""
    if "tool-call-parser" in answer.text or "enable-auto-tool-choice" in answer.text:
        return "the server was started without --enable-auto-tool-choice --tool-call-parser"
    return ""


def _missing_route(answer: Reply | TransportFailure, path: str) -> str:
    """Tell a route that is not there by the web framework's answer, which is no error object."""
    if not isinstance(answer, Reply) or answer.status not in _NO_ROUTE:
        return ""
    document = _json(answer)
    if isinstance(document, dict) and "error" in document:
        return ""
    return f"the server has no route {path} (status {answer.status})"


def _missing_fields(answer: Reply | TransportFailure, version: str) -> dict[str, str]:
    known = _request_fields(_json(answer)) if isinstance(answer, Reply) else None
    if known is None:
        number = re.match(r"(\d+)\.(\d+)", version)
        too_old = number is not None and (int(number[1]), int(number[2])) < _FIELDS_SINCE
        reason = f"vLLM {one_line(version, 40)} is too old for it" if too_old else ""
        return dict.fromkeys(_FIELDS, reason)
    return {
        name: "" if field in known else f"/openapi.json names no field {field} of a completion"
        for name, field in _FIELDS.items()
    }


def _request_fields(document: Any) -> frozenset[str] | None:
    """Return the fields of a completion request, `None` when the document does not tell."""
    for key in ("components", "schemas", "CompletionRequest", "properties"):
        document = document.get(key) if isinstance(document, dict) else None
    return frozenset(document) if isinstance(document, dict) and document else None


def _json(reply: Reply) -> Any:
    try:
        return reply.json
    except AssertionError:
        return None
