"""An HTTP/1.1 server for handlers: keep-alive, bounded requests, streams that stop when unread."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from pytest_vllm.simulator.parser import BadRequestError, Parsed, RequestParser
from pytest_vllm.simulator.wire import Answer

if TYPE_CHECKING:
    from pytest_vllm.simulator.wire import EventStream, Handler, Reply, Request

_QUEUED_REQUESTS = 16
_BACKLOG = 2048
_UNREADABLE = b"Invalid HTTP request received."


async def serve(handler: Handler, host: str, port: int) -> asyncio.Server:
    """Listen and answer with a handler until the returned server is closed.

    When a client leaves, the task that answers it is cancelled and the events of its stream are
    closed, so that whatever works for the client stops.

    Args:
        handler: Answers each request.
        host: Address to listen on.
        port: Port, 0 for any free one.

    Raises:
        OSError: The port cannot be had.
    """
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        lambda: _Connection(handler), host, port, backlog=_BACKLOG, reuse_address=True
    )


class _Connection(asyncio.Protocol):
    """One client: its requests are answered in the order in which they come."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._parser = RequestParser()
        self._requests: deque[Parsed] = deque()
        self._task: asyncio.Task[None] | None = None
        self._can_write: asyncio.Future[None] | None = None
        self._refused = 0

    # --- what asyncio calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server gives one
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take bytes and begin to answer what is complete."""
        parser = self._parser
        parser.feed(data)
        try:
            while (parsed := parser.next()) is not None:
                self._requests.append(parsed)
        except BadRequestError as error:
            self._refused = error.status
        if self._transport is not None:
            if parser.expects_continue:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if len(self._requests) > _QUEUED_REQUESTS:
                self._transport.pause_reading()
        if self._task is None:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop whatever is done for the client."""
        del exc
        self._transport = None
        if self._can_write is not None and not self._can_write.done():
            self._can_write.cancel()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Hold streams back until the client has read."""
        self._can_write = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let streams go on."""
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)
        self._can_write = None

    # --- answering -------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._transport is None:
            return
        if self._requests:
            parsed = self._requests.popleft()
            self._task = asyncio.get_running_loop().create_task(self._answer(parsed))
        elif self._refused:
            answer = _plain(self._refused, _UNREADABLE)
            self._transport.write(_whole(answer, keep=False, with_body=True))
            self._transport.close()
        else:
            self._transport.resume_reading()

    async def _answer(self, parsed: Parsed) -> None:
        request, keep = parsed.request, parsed.keep
        try:
            reply = await self._handle(request)
            if isinstance(reply, Answer):
                self._write(_whole(reply, keep=keep, with_body=request.method != "HEAD"))
            else:
                await self._stream(reply, keep=keep)
        except ConnectionError:
            keep = False
        except Exception:  # noqa: BLE001 - a stream that breaks off tells its client by closing
            traceback.print_exc(file=sys.stderr)
            keep = False
        if self._transport is None:
            return
        if keep:
            self._task = None
            self._next()
        else:
            self._transport.close()

    async def _handle(self, request: Request) -> Reply:
        try:
            return await self._handler(request)
        except Exception:  # noqa: BLE001 - a fault of a handler must not take the server down
            traceback.print_exc(file=sys.stderr)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, b"Internal Server Error")

    async def _stream(self, reply: EventStream, *, keep: bool) -> None:
        self._write(_status_line(reply, keep=keep) + b"transfer-encoding: chunked\r\n\r\n")
        try:
            async for event in reply.events:
                data = event.encode() + b"\n\n"
                self._write(b"%x\r\n%b\r\n" % (len(data), data))
                if self._can_write is not None:
                    await self._can_write
        finally:
            close = getattr(reply.events, "aclose", None)
            if close is not None:
                await close()
        self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            raise ConnectionResetError("the client has left")
        self._transport.write(data)


def _plain(status: int, body: bytes) -> Answer:
    return Answer(status=status, headers={"content-type": "text/plain; charset=utf-8"}, body=body)


class _Clock:
    """The Date header, made once a second."""

    second = 0
    text = b""

    @classmethod
    def header(cls) -> bytes:
        now = int(time.time())
        if now != cls.second:
            cls.second = now
            cls.text = f"date: {formatdate(now, usegmt=True)}\r\nserver: uvicorn\r\n".encode()
        return cls.text


def _status_line(reply: Reply, *, keep: bool) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {reply.status} {phrase}\r\n".encode()]
    if "date" not in reply.headers:  # a server behind, or a defect, may have given one
        lines.append(_Clock.header())
    lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in reply.headers.items()]
    if not keep:
        lines.append(b"connection: close\r\n")
    return b"".join(lines)


def _whole(answer: Answer, *, keep: bool, with_body: bool) -> bytes:
    head = _status_line(answer, keep=keep)
    length = b"content-length: %d\r\n\r\n" % len(answer.body)
    return head + length + (answer.body if with_body else b"")
