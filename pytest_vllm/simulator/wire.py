"""What goes in and out of the simulated server: the same for an engine, a real server, a defect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A complete HTTP request.

    Attributes:
        method: HTTP method in capitals.
        path: Path without the query.
        query: Query without its question mark, empty for none.
        headers: Headers, names in lower case.
        body: Body as it came.
    """

    method: str
    path: str
    query: str = ""
    headers: dict[str, str]
    body: bytes = b""

    def document(self) -> dict[str, Any] | None:
        """Return the body's JSON object, `None` when it is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None

    def with_document(self, document: Any) -> Request:
        """Return the request with another JSON body."""
        return replace(self, body=json.dumps(document).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete reply, not a stream.

    Attributes:
        status: HTTP status.
        headers: Headers, names in lower case, without those of framing.
        body: Body.
    """

    status: int = 200
    headers: dict[str, str]
    body: bytes = b""

    def document(self) -> Any:
        """Return the body as JSON, `None` when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def with_document(self, document: Any) -> Answer:
        """Return the answer with another JSON body."""
        return replace(self, body=json.dumps(document, ensure_ascii=False).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStream:
    r"""A reply that comes as server-sent events.

    Attributes:
        status: HTTP status.
        headers: Headers, names in lower case, without those of framing.
        events: Each event as its block of lines, without the blank line that ends it:
            `data: {...}`, or `event: message_start\ndata: {...}`. Closing it cancels the request.
    """

    status: int = 200
    headers: dict[str, str]
    events: AsyncIterator[str]


Reply = Answer | EventStream
Handler = Callable[[Request], Awaitable[Reply]]
"""Answers requests; a defect makes a broken handler out of a sound one."""
