"""How checks talk to `/v1/messages`, the way in which clients of Anthropic's API ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain import conventions
from pytest_vllm.domain.dialects import (
    NamedEvent,
    Said,
    read_message,
    read_message_stream,
    read_named_events,
)
from pytest_vllm.domain.request import DEFAULT_MAX_TOKENS
from pytest_vllm.plugin.skips import not_applicable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.reply import Reply, StreamReply
    from pytest_vllm.domain.request import Messages as Turns
    from pytest_vllm.plugin.client import Client

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
HEADERS = {"anthropic-version": "2023-06-01"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageStream:
    """A streamed message that was read to its end.

    Attributes:
        reply: The reply with status and headers.
        events: Its events in order, without pings.
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
    def said(self) -> Said:
        """What the message says, its blocks put together again."""
        return read_message_stream(self.events)


class MessagesApi:
    """Talks to `/v1/messages` on behalf of one check, as `Client` does to the other endpoints.

    Args:
        client: The client of the check.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, turns: str | Turns, /, **params: Any) -> Reply:
        """Ask for a message.

        Args:
            turns: Messages, or the text of one user turn.
            params: Fields of the request; `max_tokens` is 16 unless given.

        Raises:
            AssertionError: It was no good message.
        """
        body = self._body(turns, params)
        reply = self._client.send("POST", PATH, body=body, headers=HEADERS)
        self._judge(reply, "messages/response")
        _require(reply, self._model_violations(reply.json))
        return reply

    def stream(self, turns: str | Turns, /, **params: Any) -> MessageStream:
        """Ask for a message as a stream.

        Every event is held against the conventions; that the stream as a whole makes sense is left
        to checks.

        Args:
            turns: Messages, or the text of one user turn.
            params: Fields of the request; `max_tokens` is 16 unless given.

        Raises:
            AssertionError: It was no stream of good events.
        """
        body = {**self._body(turns, params), "stream": True}
        reply = self._client.send("POST", PATH, body=body, headers=HEADERS)
        _require(reply, conventions.status_violations(reply, (200,)))
        _require(reply, conventions.media_type_violations(reply, "text/event-stream"))
        events, lines = read_named_events(line for line, _ in reply.lines)
        for number, event in enumerate(events, start=1):
            found = self._client.violations("messages/event", event.data)
            if not found and event.type == "message_start":
                found = self._model_violations(event.data["message"])
            lines += [f"event {number} ({event.type[:60]}): {line}" for line in found]
        if not events:
            lines.append(f"required events, saw none in {len(reply.lines)} lines")
        _require(reply, lines)
        return MessageStream(
            reply=reply, events=[event for event in events if event.type != "ping"]
        )

    def count(self, turns: str | Turns, /, **params: Any) -> int:
        """Return how many tokens messages make; not applicable where vLLM does not count yet."""
        body = self._body(turns, params)
        del body["max_tokens"]
        reply = self._client.send("POST", COUNT_PATH, body=body, headers=HEADERS)
        if reply.status in (404, 405) and "detail" in reply.json:
            not_applicable(f"the server has no route {COUNT_PATH} (status {reply.status})")
        self._judge(reply, "messages/count")
        count: int = reply.json["input_tokens"]
        return count

    def refuse(self, body: dict[str, Any], *, statuses: Sequence[int] = (400,)) -> Reply:
        """Send a request that must be refused, and see that the server serves the next one.

        The refusal must be an error object in Anthropic's or in OpenAI's words, short, and show
        nothing of the server's inside.

        Args:
            body: The request without model and, unless it is the matter, without a bound.
            statuses: Accepted statuses.
        """
        body = {"model": self._client.model, **body}
        reply = self._client.send("POST", PATH, body=body, headers=HEADERS)
        _require(reply, conventions.status_violations(reply, statuses))
        _require(reply, conventions.media_type_violations(reply, "application/json"))
        document = reply.json
        anthropic = isinstance(document, dict) and "type" in document
        lines = self._client.violations("messages/error" if anthropic else "errors/error", document)
        server = self._client.server
        known = (*server.served_names, server.launch_model)
        _require(reply, lines + conventions.leak_violations(reply, known=known))
        try:
            self.create("Hello", max_tokens=1)
        except AssertionError as error:
            raise AssertionError(f"after a refused POST {PATH}: {error}") from None
        return reply

    def read(self, reply: Reply) -> Said:
        """Return what a message says."""
        return read_message(reply.json)

    def input_tokens(self, usage: Mapping[str, Any]) -> int:
        """Return the tokens of the prompt; Anthropic's `input_tokens` leaves out cached ones."""
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        return sum(usage.get(name) or 0 for name in names)

    def _body(self, turns: str | Turns, params: dict[str, Any]) -> dict[str, Any]:
        if isinstance(turns, str):
            turns = [{"role": "user", "content": turns}]
        return {
            "model": self._client.model,
            "messages": turns,
            "max_tokens": DEFAULT_MAX_TOKENS,
            **params,
        }

    def _judge(self, reply: Reply, schema: str) -> None:
        _require(reply, conventions.status_violations(reply, (200,)))
        _require(reply, conventions.media_type_violations(reply, "application/json"))
        _require(reply, self._client.violations(schema, reply.json))

    def _model_violations(self, message: Mapping[str, Any]) -> list[str]:
        model, required = message["model"], self._client.model
        if model == required:
            return []
        return [f"$.model: saw {model!r}, required {required!r} as requested"]


def _require(reply: Reply, lines: list[str]) -> None:
    if lines:
        raise AssertionError("\n".join(f"{reply.request}: {line}" for line in lines))
