"""What a load must know of its server: model, context, the fields that its requests take."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_vllm.adapters.http import Transport
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.reply import TransportFailure
from pytest_vllm.domain.text import closest, one_line

if TYPE_CHECKING:
    from pytest_vllm.domain.reply import StreamReply

ASK_S = 30.0
"""Seconds for one question to the server."""
_DESCRIPTION_BYTES = 4 * 2**20
_SCHEMAS = {
    "/v1/completions": "CompletionRequest",
    "/v1/chat/completions": "ChatCompletionRequest",
}
_SEEN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadServer:
    """A server that is to be loaded.

    Attributes:
        url: Its root, without `/v1`.
        model: ID that requests name.
        max_model_len: Context length in tokens, `None` when the server does not say.
        version: What `/version` says, empty when it does not.
        fields: Fields of a request by the path of its endpoint, as `/openapi.json` names them;
            empty when it does not. A field nobody named is not sent.
        api_key: Sent as a bearer token; never shown.
    """

    url: str
    model: str
    max_model_len: int | None
    version: str = ""
    fields: dict[str, frozenset[str]] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that every request needs."""
        return {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}

    def knows(self, path: str, name: str) -> bool:
        """Tell whether requests to an endpoint have a field."""
        return name in self.fields.get(path, ())


def connect(url: str, *, model: str | None = None, api_key: str | None = None) -> LoadServer:
    """Ask a server what a load must know of it.

    Args:
        url: Its root; a `/v1` at the end is dropped.
        model: Model that requests name; by default the first that it serves.
        api_key: Sent as a bearer token.

    Raises:
        TargetError: The URL, the model or the key is wrong, or nobody there speaks this API.
        HostError: Nobody answers.
    """
    root = _root(url)
    with Transport(root, api_key=api_key, timeout_s=ASK_S) as transport:
        cards = _models(transport, root)
        names = tuple(cards)
        if model is not None and model not in cards:
            raise TargetError(
                f"the server at {root} does not serve {model!r}{closest(model, names)}",
                advice=f"use {', '.join(names)}",
            )
        chosen = names[0] if model is None else model
        context = cards[chosen].get("max_model_len")
        described = _document(transport, "/openapi.json")
        told = _document(transport, "/version")
        version = told.get("version", "") if isinstance(told, dict) else ""
    return LoadServer(
        url=root,
        model=chosen,
        max_model_len=context if isinstance(context, int) else None,
        version=version if isinstance(version, str) else "",
        fields={path: _fields(described, name) for path, name in _SCHEMAS.items()},
        api_key=api_key,
    )


def _root(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise TargetError(f"{url!r} is not the URL of a server", advice="write http://HOST:PORT")
    if parts.username or parts.password:
        raise TargetError(
            "the URL holds a user name or a password",
            advice="put the key into a variable, and name it by --api-key-env",
        )
    return url.rstrip("/").removesuffix("/v1")


def _models(transport: Transport, root: str) -> dict[str, dict[str, Any]]:
    """Return the cards of `/v1/models` by ID, at least one."""
    try:
        reply = transport.send("GET", "/v1/models")
    except TransportFailure as failure:
        untrusted = "CERTIFICATE_VERIFY" in str(failure)
        raise HostError(
            f"{root}/v1/models gives no answer: {failure}",
            advice="name the file of its certificate by the variable SSL_CERT_FILE"
            if untrusted
            else "start the server, or correct the URL",
        ) from None
    if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise TargetError(
            f"{root} refuses the API key (status {reply.status})",
            advice="name the variable that holds it by --api-key-env",
        )
    document = _json(reply)
    entries = document.get("data") if isinstance(document, dict) else None
    cards = {
        card["id"]: card
        for card in (entries if isinstance(entries, list) else [])
        if isinstance(card, dict) and isinstance(card.get("id"), str)
    }
    if reply.status != HTTPStatus.OK or not cards:
        raise TargetError(
            f"{root}/v1/models names no model (status {reply.status}: "
            f"{one_line(reply.text, _SEEN)})",
            advice="name the root of a server that speaks the OpenAI API, as vLLM does",
        )
    return cards


def _document(transport: Transport, path: str) -> Any:
    """Return a document that a server may lack, `None` where it does."""
    try:
        reply = transport.send("GET", path, max_bytes=_DESCRIPTION_BYTES)
    except TransportFailure:
        return None
    return _json(reply) if reply.status == HTTPStatus.OK else None


def _json(reply: StreamReply) -> Any:
    try:
        return reply.json
    except AssertionError:
        return None


def _fields(document: Any, schema: str) -> frozenset[str]:
    for key in ("components", "schemas", schema, "properties"):
        document = document.get(key) if isinstance(document, dict) else None
    return frozenset(document) if isinstance(document, dict) else frozenset()
