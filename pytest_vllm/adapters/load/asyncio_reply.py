"""One request through httpx, and what became of it."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx

from pytest_vllm.adapters.load.events import TokenEvents, shown
from pytest_vllm.domain.load.columns import NEVER, UNTOLD, Ending

if TYPE_CHECKING:
    from pytest_vllm.adapters.load.template import Templates
    from pytest_vllm.domain.load.plan import Limits, Request

REFUSAL_BYTES = 4096
"""Bytes of a reply with another status than 200 that are kept, to say why."""

_BROKEN = (Ending.RESET, Ending.TRUNCATED)
_LATEST = 1000
_now = time.monotonic_ns


@dataclass(slots=True, kw_only=True)
class Tally:
    """What is counted over all requests of a load.

    Attributes:
        sent: Requests whose first byte was sent.
        done: Requests that ended as they should.
        failed: Requests that ended otherwise.
        events: Token events.
        tokens: Tokens of those events whose number was told.
        untold: Events whose number of tokens was not told.
        reads: Times that there was something to read.
        coalesced: Such times with more than one token event of the stream.
        again: Requests that were sent once more, on a connection that the server had not closed.
        redirects: Redirects that were followed.
        latest: Latest TTFTs, ns.
    """

    sent: int = 0
    done: int = 0
    failed: int = 0
    events: int = 0
    tokens: int = 0
    untold: int = 0
    reads: int = 0
    coalesced: int = 0
    again: int = 0
    redirects: int = 0
    latest: deque[int] = field(default_factory=lambda: deque(maxlen=_LATEST))


@dataclass(slots=True, kw_only=True)
class Reply:
    """A row of the columns, see `Columns`; its events are kept until the load is over."""

    send_ns: int = NEVER
    header_ns: int = NEVER
    end_ns: int = NEVER
    status: int = 0
    ending: Ending = Ending.UNSENT
    reply_bytes: int = 0
    failure: str = ""
    prompt_tokens: int = UNTOLD
    completion_tokens: int = UNTOLD
    cached_tokens: int = UNTOLD
    content_event: int = UNTOLD
    finish: str = ""
    server_ms: dict[str, float] = field(default_factory=dict)
    event_ns: array[int] = field(default_factory=lambda: array("q"))
    event_tokens: array[int] = field(default_factory=lambda: array("i"))


class Exchange:
    """One request on its way.

    Args:
        client: What sends it.
        request: The request.
        limits: Bounds.
        reply: Is filled with what came.
        tally: Is added to.
        templates: Shapes of events, shared by all replies of a server.
    """

    def __init__(  # noqa: PLR0913 - the two ends, and what is kept of them
        self,
        client: httpx.AsyncClient,
        request: Request,
        limits: Limits,
        *,
        reply: Reply,
        tally: Tally,
        templates: Templates,
    ) -> None:
        self._client = client
        self._request = request
        self._limits = limits
        self._reply = reply
        self._tally = tally
        self._templates = templates
        self._events = TokenEvents(templates)
        self._fresh = False

    async def run(self) -> None:
        """Send it and read the reply; whatever the server does is an `Ending`."""
        reply = self._reply
        ending, why = Ending.CUT, "the time of the whole load was over"
        try:
            async with asyncio.timeout(self._limits.request_s):
                ending, why = await self._send()
                if ending in _BROKEN and self._may_go_again():
                    self._tally.again += 1
                    ending, why = await self._send()
        except TimeoutError:
            ending, why = Ending.TIMEOUT, f"no end within {self._limits.request_s:g} s"
        finally:
            self._settle(ending, why)
            if reply.send_ns:
                self._tally.done += ending is Ending.DONE
                self._tally.failed += ending is not Ending.DONE

    def _may_go_again(self) -> bool:
        """Tell whether the server closed an idle connection just as the request came.

        That says nothing of how it serves requests, and it was not answered with a single byte.
        """
        return not self._fresh and not self._reply.header_ns

    async def _send(self) -> tuple[Ending, str]:
        sent = self._client.build_request(
            "POST",
            self._request.path,
            content=self._request.body,
            extensions={"trace": self._trace},
        )
        self._fresh = False
        try:
            response = await self._client.send(sent, stream=True)
            try:
                return await self._read(response)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _ending(error, self._limits)
        except (ValueError, OSError) as error:  # of a proxy or redirect that cannot be gone to
            return Ending.CONNECT, shown(f"{type(error).__name__}: {error}")

    async def _trace(self, name: str, info: dict[str, Any]) -> None:
        """Take the times where they are: before the first byte, and at the end of the headers."""
        step = name.partition(".")[2]
        if step == "connect_tcp.started":
            self._fresh = True
        elif step == "send_request_headers.started" and info["request"].method != b"CONNECT":
            if not self._reply.send_ns:
                self._reply.send_ns = _now()
                self._tally.sent += 1
        elif step == "receive_response_headers.complete":
            self._reply.header_ns = _now()

    async def _read(self, response: httpx.Response) -> tuple[Ending, str]:
        reply = self._reply
        reply.status = response.status_code
        self._tally.redirects += len(response.history)
        if response.status_code != HTTPStatus.OK:
            return await self._refusal(response)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            return Ending.MALFORMED, f"the body is encoded as {shown(encoding)}, unasked"
        try:
            async with asyncio.timeout(None) as silence:
                if not await self._take_body(response, silence):
                    return Ending.TOO_LARGE, f"more than {self._limits.reply_bytes} bytes"
        except TimeoutError:
            return Ending.STALLED, f"not a byte for {self._limits.stall_s:g} s"
        cut = (Ending.TRUNCATED, "the body ended without [DONE]")
        return self._events.failure or ((Ending.DONE, "") if self._events.done else cut)

    async def _take_body(self, response: httpx.Response, silence: asyncio.Timeout) -> bool:
        """Read the body; tell whether it is no larger than it may be.

        Args:
            response: The reply, whose headers are there.
            silence: Is set anew by each read, from the first token on: before it, the request may
                be in the server's queue.
        """
        reply, events = self._reply, self._events
        streamed = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        loop, stall_s = asyncio.get_running_loop(), self._limits.stall_s
        whole, marks = bytearray(), _Reads(self._tally)
        async for data in response.aiter_raw():
            at = _now()
            reply.reply_bytes += len(data)
            if reply.reply_bytes > self._limits.reply_bytes:
                return False
            if not streamed:
                whole += data
                continue
            self._feed(data, at, marks)
            if events.fatal:
                break
            if events.times:
                silence.reschedule(loop.time() + stall_s)
        reply.end_ns = _now()
        if not streamed:
            events.document(bytes(whole), reply.end_ns)
            self._tally.events += len(events.times)
        return True

    async def _refusal(self, response: httpx.Response) -> tuple[Ending, str]:
        """Read why it is refused, as much as is shown and no more."""
        said = bytearray()
        async for data in response.aiter_raw():
            said += data
            self._reply.reply_bytes += len(data)
            if len(said) >= REFUSAL_BYTES:
                break
        text = said[:REFUSAL_BYTES].decode("utf-8", "replace")
        return Ending.STATUS, f"status {self._reply.status}: {shown(text)}"

    def _feed(self, data: bytes, at: int, marks: _Reads) -> None:
        before = len(self._events.times)
        self._events.feed(data, at)
        came = len(self._events.times) - before
        marks.note(came)
        if came:
            self._tally.events += came
            counts = self._events.tokens[before:]
            self._tally.tokens += sum(counts)
            self._tally.untold += counts.count(0)
            if not before:
                self._tally.latest.append(at - self._reply.send_ns)

    def _settle(self, ending: Ending, why: str) -> None:
        reply, events = self._reply, self._events
        events.close()
        reply.ending = ending if reply.send_ns or ending is not Ending.CUT else Ending.UNSENT
        reply.failure = why
        if not reply.end_ns or ending is not Ending.DONE:
            reply.end_ns = _now()
        reply.event_ns, reply.event_tokens = events.times, events.tokens
        reply.prompt_tokens = events.prompt_tokens
        reply.completion_tokens = events.completion_tokens
        reply.cached_tokens = events.cached_tokens
        reply.content_event = events.content_event
        reply.finish = events.finish
        reply.server_ms = events.server_ms


class _Reads:
    """Counts reads by the turns of the loop: what comes without a turn was there already."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._open = False
        self._events = 0

    def note(self, events: int) -> None:
        """Take note of data with so many token events."""
        if not self._open:
            self._open, self._events = True, 0
            self._tally.reads += 1
            self._loop.call_soon(self._turned)
        if self._events < 2 <= self._events + events:  # noqa: PLR2004 - several
            self._tally.coalesced += 1
        self._events += events

    def _turned(self) -> None:
        self._open = False


def _ending(error: Exception, limits: Limits) -> tuple[Ending, str]:
    text = str(error)
    said = shown(f"{type(error).__name__}: {text}")
    cut_short = "without sending complete message body" in text
    if isinstance(error, httpx.ConnectTimeout):
        return Ending.CONNECT, f"no connection within {limits.connect_s:g} s"
    if isinstance(error, httpx.TimeoutException):
        return Ending.STALLED, f"no byte for {limits.stall_s:g} s"
    if isinstance(error, httpx.RemoteProtocolError) and (cut_short or "disconnected" in text):
        return Ending.TRUNCATED, said
    # A subclass comes before its parent.
    endings: tuple[tuple[type[Exception], Ending], ...] = (
        (httpx.ConnectError, Ending.CONNECT),
        (httpx.ProxyError, Ending.CONNECT),
        (httpx.UnsupportedProtocol, Ending.CONNECT),
        (httpx.NetworkError, Ending.RESET),
        (httpx.TooManyRedirects, Ending.STATUS),
    )
    return next((end for kind, end in endings if isinstance(error, kind)), Ending.MALFORMED), said
