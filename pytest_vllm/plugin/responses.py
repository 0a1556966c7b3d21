"""How checks talk to `/v1/responses`, the newer of OpenAI's two ways to ask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.sdk import strict_violations
from pytest_vllm.domain import conventions
from pytest_vllm.domain.dialects import (
    NamedEvent,
    Said,
    read_named_events,
    read_response,
    response_violations,
)
from pytest_vllm.domain.request import DEFAULT_MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.reply import Reply, StreamReply
    from pytest_vllm.plugin.client import Client

PATH = "/v1/responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseStream:
    """A streamed response that was read to its end.

    Attributes:
        reply: The reply with status and headers.
        events: Its events in order.
    """

    reply: StreamReply
    events: Sequence[NamedEvent]

    @property
    def types(self) -> list[str]:
        """The type of each event, in order."""
        return [event.type for event in self.events]

    def of(self, *types: str) -> list[Mapping[str, Any]]:
        """Return the data of all events of some types, in order."""
        return [event.data for event in self.events if event.type in types]

    @property
    def final(self) -> Mapping[str, Any]:
        """The response that the last event carries.

        Raises:
            AssertionError: The last event carries none, so the stream was cut.
        """
        last = self.events[-1]
        response: Mapping[str, Any] | None = last.data.get("response")
        if response is None:
            raise AssertionError(f"required a last event with the response, saw {last.type!r}")
        return response


class Responses:
    """Talks to `/v1/responses` on behalf of one check, as `Client` does to the other endpoints.

    Args:
        client: The client of the check.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, asked: str | list[Any], /, **params: Any) -> Reply:
        """Ask for a response.

        Args:
            asked: The input: the text of one user turn, or a list of items.
            params: Fields of the request; `max_output_tokens` is 16 unless given.

        Raises:
            AssertionError: It was no good response.
        """
        reply = self._client.send("POST", PATH, body=self._body(asked, params))
        _require(reply, conventions.status_violations(reply, (200,)))
        _require(reply, conventions.media_type_violations(reply, "application/json"))
        _require(reply, self._client.violations("responses/response", reply.json))
        lines = strict_violations("response", reply.body)
        _require(reply, lines + self._response_violations(reply.json, reply))
        return reply

    def stream(self, asked: str | list[Any], /, **params: Any) -> ResponseStream:
        """Ask for a response as a stream.

        Every event is held against the conventions; that the stream as a whole makes sense is left
        to checks.

        Args:
            asked: The input: the text of one user turn, or a list of items.
            params: Fields of the request; `max_output_tokens` is 16 unless given.

        Raises:
            AssertionError: It was no stream of good events.
        """
        body = {**self._body(asked, params), "stream": True}
        reply = self._client.send("POST", PATH, body=body)
        _require(reply, conventions.status_violations(reply, (200,)))
        _require(reply, conventions.media_type_violations(reply, "text/event-stream"))
        events, lines = read_named_events(line for line, _ in reply.lines)
        for number, event in enumerate(events, start=1):
            found = self._event_violations(event, reply)
            lines += [f"event {number} ({event.type[:60]}): {line}" for line in found]
        if not events:
            lines.append(f"required events, saw none in {len(reply.lines)} lines")
        _require(reply, lines)
        return ResponseStream(reply=reply, events=events)

    def read(self, reply: Reply | ResponseStream) -> Said:
        """Return what a response says, or the one at the end of a stream."""
        return read_response(reply.final if isinstance(reply, ResponseStream) else reply.json)

    def _body(self, asked: str | list[Any], params: dict[str, Any]) -> dict[str, Any]:
        bound = {"max_output_tokens": DEFAULT_MAX_TOKENS}
        return {"model": self._client.model, "input": asked, **bound, **params}

    def _event_violations(self, event: NamedEvent, reply: StreamReply) -> list[str]:
        lines = self._client.violations("responses/event", event.data)
        if not lines:
            lines = strict_violations("response.event", json.dumps(event.data))
        if not lines and "response" in event.data:
            lines = self._response_violations(event.data["response"], reply)
        return lines

    def _response_violations(self, response: Mapping[str, Any], reply: Reply) -> list[str]:
        models = (self._client.model,)
        return response_violations(response, models=models, headers=reply.headers)


def _require(reply: Reply, lines: list[str]) -> None:
    if lines:
        raise AssertionError("\n".join(f"{reply.request}: {line}" for line in lines))
