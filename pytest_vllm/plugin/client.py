"""The client that checks talk through: it judges every reply and keeps every exchange."""

from __future__ import annotations

import json
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.sdk import strict_violations
from pytest_vllm.domain import conventions
from pytest_vllm.domain.generation import Generation, difference, read_generation
from pytest_vllm.domain.request import BOUNDS, PATHS, build_body, chat_body, completion_body
from pytest_vllm.plugin.messages import MessagesApi
from pytest_vllm.plugin.responses import Responses
from pytest_vllm.plugin.skips import not_applicable
from pytest_vllm.plugin.stream import Stream
from pytest_vllm.plugin.traffic import Traffic, require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.reply import Reply, StreamReply
    from pytest_vllm.domain.request import Messages

_KINDS = {"completions": "completion", "chat": "chat.completion"}


class Client(Traffic):
    """Talks to the server under test on behalf of one check.

    Every method that expects a good reply asserts the conventions that hold for all replies, so
    that a check only asserts its own concern. A violation is an `AssertionError` with one line for
    each thing that is wrong.
    """

    @property
    def responses(self) -> Responses:
        """The endpoint `/v1/responses`, OpenAI's newer way to ask."""
        return Responses(self)

    @property
    def messages(self) -> MessagesApi:
        """The endpoint `/v1/messages`, Anthropic's way to ask."""
        return MessagesApi(self)

    # --- good requests ---------------------------------------------------------------------------

    def complete(
        self, prompt: str | list[Any], *, max_bytes: int | None = None, **params: Any
    ) -> Reply:
        """Complete a prompt.

        Args:
            prompt: Text, token IDs, or a list of either.
            max_bytes: Bytes that the reply may have, for a long one that is asked for.
            params: Fields of the request; `max_tokens=None` leaves the bound out.
        """
        body = completion_body(self.model, prompt, params)
        return self._good("completions", body, max_bytes=max_bytes)

    def chat(self, messages: str | Messages, **params: Any) -> Reply:
        """Answer a conversation.

        Args:
            messages: Messages, or the text of one user turn.
            params: Fields of the request.

        Raises:
            ValueError: The request has no bound: vLLM would write to the end of the context.
        """
        return self._good("chat", chat_body(self.model, messages, params))

    def generate(
        self,
        endpoint: str,
        prompt: str | list[Any],
        *,
        top: int | None = None,
        max_bytes: int | None = None,
        **params: Any,
    ) -> Reply:
        """Generate with either endpoint.

        Args:
            endpoint: `completions`, or `chat`, for which a text is one user turn.
            prompt: A prompt, or text or messages for `chat`.
            top: Ask for log probabilities with so many alternatives, in the endpoint's own words.
            max_bytes: Bytes that the reply may have, for a long one that is asked for.
            params: Fields of the request.
        """
        body = build_body(endpoint, self.model, prompt, top=top, params=params)
        return self._good(endpoint, body, max_bytes=max_bytes)

    def stream(
        self, endpoint: str, prompt: str | list[Any], *, top: int | None = None, **params: Any
    ) -> Stream:
        """Generate with either endpoint and read the reply as a stream.

        Every chunk is held against the conventions; that the stream as a whole makes sense is left
        to checks.

        Args:
            endpoint: `completions` or `chat`.
            prompt: A prompt, or text or messages for `chat`.
            top: Ask for log probabilities with so many alternatives, in the endpoint's own words.
            params: Fields of the request.
        """
        body = build_body(endpoint, self.model, prompt, top=top, params=params)
        reply = self.send("POST", PATHS[endpoint], body={**body, "stream": True})
        require(reply, conventions.status_violations(reply, (200,)))
        require(reply, conventions.media_type_violations(reply, "text/event-stream"))
        chunks, lines = conventions.parse_events(line for line, _ in reply.lines)
        for number, chunk in enumerate(chunks, start=1):
            found = self._chunk_violations(endpoint, chunk, reply)
            lines += [f"chunk {number}: {line}" for line in found]
        if not chunks:
            lines.append(f"required chunks, saw none in {len(reply.lines)} lines")
        require(reply, lines)
        return Stream(reply=reply, chunks=chunks)

    def models(self) -> list[dict[str, Any]]:
        """Return the entries of `/v1/models`."""
        reply = self._judged("GET", "/v1/models", schema="models/list")
        require(reply, strict_violations("models", reply.body))
        entries: list[dict[str, Any]] = reply.json["data"]
        return entries

    def tokenize(self, prompt: str | Messages, **params: Any) -> list[int]:
        """Return the token IDs of a text, or of messages as the chat template renders them."""
        what = "prompt" if isinstance(prompt, str) else "messages"
        body = {"model": self.model, what: prompt, **params}
        document = self._judged("POST", "/tokenize", body, schema="tokenize/response").json
        tokens: list[int] = document["tokens"]
        assert document["count"] == len(tokens), (  # noqa: S101 - a convention of the server's
            f"POST /tokenize: $.count: saw {document['count']}, required {len(tokens)}"
        )
        return tokens

    def detokenize(self, tokens: list[int]) -> str:
        """Return the text of token IDs."""
        body = {"model": self.model, "tokens": tokens}
        reply = self._judged("POST", "/detokenize", body, schema="detokenize/response")
        return str(reply.json["prompt"])

    def require_field(self, name: str, *, request: str = "CompletionRequest") -> None:
        """End the check as not applicable when the server's requests have no such field.

        Old versions drop fields that they do not know without a word, so only the server's own
        description tells. Without a description the field is taken to be there.

        Args:
            name: A field of vLLM's own, such as `bad_words`.
            request: What the description calls the request.
        """
        known: Any = self._description
        for key in ("components", "schemas", request, "properties"):
            known = known.get(key) if isinstance(known, dict) else None
        if known and name not in known:
            not_applicable(f"/openapi.json names no field {name} of a {request}")

    @cached_property
    def _description(self) -> Any:
        """What the server says of its own API, `None` when it does not."""
        reply = self.get("/openapi.json")
        return reply.json if reply.status == HTTPStatus.OK else None

    # --- bad requests ----------------------------------------------------------------------------

    def refuse(  # noqa: PLR0913 - all that a request can be made of
        self,
        path: str,
        *,
        body: Any = None,
        content: bytes | str | None = None,
        statuses: Sequence[int] = (400,),
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request that the server must refuse, and see that it serves the next one.

        The refusal must be an error object, short, and show nothing of the server's inside.

        Args:
            path: Path with a leading slash.
            body: A value that is sent as JSON; an object gets model and bound unless it has them.
            content: The body as it is, instead of `body`.
            statuses: Accepted statuses.
            method: HTTP method.
            headers: More headers, or others than the usual ones.
        """
        reply = self._refused(path, body, statuses, content=content, method=method, headers=headers)
        self._serve_next(f"after a refused {method} {path}")
        return reply

    def refuse_each(
        self, path: str, bodies: Mapping[str, Any], *, statuses: Sequence[int] = (400,)
    ) -> None:
        """Do what `refuse` does for several bodies, with one good request after the last.

        Args:
            path: Path with a leading slash.
            bodies: What each body is about, for the message, and the body; bytes are sent as they
                are, any other value as JSON.
            statuses: Accepted statuses.
        """
        found = []
        for name, body in bodies.items():
            raw = isinstance(body, bytes)
            try:
                self._refused(path, None if raw else body, statuses, content=body if raw else None)
            except AssertionError as error:
                found.append(f"{name}: {error}")
        try:
            self._serve_next(f"after {len(bodies)} refused POST {path}")
        except AssertionError as error:
            found.append(str(error))
        if found:
            raise AssertionError("\n".join(found))

    def _refused(
        self,
        path: str,
        body: Any,
        statuses: Sequence[int],
        *,
        method: str = "POST",
        **sent: Any,
    ) -> Reply:
        if isinstance(body, dict):
            bound = {} if any(name in body for name in BOUNDS) else {"max_tokens": 1}
            body = {"model": self.model, **bound, **body}
        reply = self.send(method, path, body=body, **sent)
        require(reply, conventions.status_violations(reply, statuses))
        require(reply, conventions.media_type_violations(reply, "application/json"))
        known = (*self.server.served_names, self.server.launch_model)
        lines = self.violations("errors/error", reply.json)
        require(reply, lines + conventions.leak_violations(reply, known=known))
        return reply

    def _serve_next(self, when: str) -> None:
        try:
            self.complete("Hello", max_tokens=1)
        except AssertionError as error:
            raise AssertionError(f"{when}: {error}") from None

    # --- reading ---------------------------------------------------------------------------------

    def read(self, reply: Reply | Stream, index: int = 0) -> Generation:
        """Return what one choice of a reply or a stream says."""
        if isinstance(reply, Stream):
            return reply.generation(index)
        return read_generation(reply.json, index)

    def assert_same(self, left: Generation, right: Generation, what: str) -> None:
        """Assert that two greedy generations of one prompt are equal, up to a near tie.

        Args:
            left: What was required; asked for with `temperature=0` and `top=5`.
            right: What was seen; asked for in the same way.
            what: What the two are, for the message.
        """
        found = difference(left, right)
        assert not found, f"{what}: {found}"  # noqa: S101 - asserting is its purpose

    # --- inside ----------------------------------------------------------------------------------

    def _good(self, endpoint: str, body: dict[str, Any], *, max_bytes: int | None = None) -> Reply:
        schema = f"{endpoint}/response"
        reply = self._judged("POST", PATHS[endpoint], body, schema=schema, max_bytes=max_bytes)
        lines = strict_violations(_KINDS[endpoint], reply.body)
        lines += conventions.document_violations(
            reply.json, models=self._names(body["model"]), headers=reply.headers
        )
        require(reply, lines)
        return reply

    def _chunk_violations(
        self, endpoint: str, chunk: dict[str, Any], reply: StreamReply
    ) -> list[str]:
        lines = self.violations(f"{endpoint}/chunk", chunk)
        if not lines:
            lines = strict_violations(f"{_KINDS[endpoint]}.chunk", json.dumps(chunk))
        names, headers = self._names(self.model), reply.headers
        return lines + conventions.document_violations(chunk, models=names, headers=headers)

    def _names(self, requested: str) -> tuple[str, str]:
        # vLLM answers with the first of several served names, whichever was asked for (0.32).
        return (requested, self.model)
