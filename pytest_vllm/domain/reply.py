"""What came back over the wire, before anybody judges it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.exchange import Exchange

MAX_VALUES = 50_000
"""JSON values in one reply; a small body can hold a hundred times its size in objects.

The largest healthy reply that no check asks for by itself, `/openapi.json`, has about 20,000.
"""

_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A complete HTTP reply of any status.

    Attributes:
        status: HTTP status.
        headers: Headers, names in lower case; repeated ones are joined with a comma.
        body: Body as it came, at most the transport's cap.
        elapsed_ms: Milliseconds from send to the end of the body.
        exchange: The request with this reply, as evidence.
        max_values: Values that its JSON may have.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed_ms: float
    exchange: Exchange
    max_values: int = MAX_VALUES

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 become U+FFFD."""
        return self.body.decode("utf-8", "replace")

    @cached_property
    def json(self) -> Any:
        """The body as JSON.

        Raises:
            AssertionError: It is no JSON, or has more values than anybody asked for.
        """
        values = sum(self.body.count(mark) for mark in (b",", b"[", b"{"))
        if values > self.max_values:
            raise AssertionError(
                f"{self.request}: required JSON of at most {self.max_values} values, saw {values}"
            )
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise AssertionError(
                f"{self.request}: saw a body that is not JSON ({error}): {self.text[:_SHOWN]!r}"
            ) from None

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in lower case; empty when there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def request(self) -> str:
        """Method and path of the request, for messages."""
        rest = self.exchange.url.partition("://")[2]
        return f"{self.exchange.method} /{rest.partition('/')[2]}"


@dataclass(frozen=True, kw_only=True)
class StreamReply(Reply):
    """A reply that was read line by line.

    Attributes:
        lines: Each line without its end, and when it was complete, in milliseconds after send.
    """

    lines: tuple[tuple[str, float], ...]


class TransportFailure(Exception):  # noqa: N818 - it is the outcome, not the error of a program
    """No complete reply arrived.

    Args:
        kind: `refused` (no connection), `reset` (ended too early), `timeout` (the deadline of the
            whole request passed), `too large` (the body passed the cap) or `protocol` (no HTTP).
        message: What was seen, in one line.
        exchange: The request and what arrived of the reply.
    """

    def __init__(self, kind: str, message: str, *, exchange: Exchange) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.exchange = exchange
