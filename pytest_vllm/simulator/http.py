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

from pytest_vllm.simulator.wire import Answer, EventStream, Request

if TYPE_CHECKING:
    from pytest_vllm.simulator.wire import Handler, Reply

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
MAX_BODY_BYTES = 64 * 1024 * 1024
_PIPELINE_BYTES = 1024 * 1024
_BACKLOG = 2048
_UNREADABLE = b"Invalid HTTP request received."


class BadRequestError(Exception):
    """A request that is no HTTP/1.1, or too large.

    Args:
        status: Status to refuse it with.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


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
        self._buffer = bytearray()
        self._requests: deque[tuple[Request, bool]] = deque()
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
        self._buffer += data
        try:
            while (parsed := self._parse()) is not None:
                self._requests.append(parsed)
        except BadRequestError as error:
            self._refused = error.status
        if self._task is None:
            self._next()
        if self._transport is not None and len(self._requests) * 64 > _PIPELINE_BYTES // 1024:
            self._transport.pause_reading()

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

    # --- reading ---------------------------------------------------------------------------------

    def _parse(self) -> tuple[Request, bool] | None:
        """Take one complete request off the buffer.

        Raises:
            BadRequestError: What came cannot be a request.
        """
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            if len(buffer) > MAX_HEAD_BYTES:
                raise BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return None
        method, target, version, headers = _head(bytes(buffer[:end]).decode("latin-1"))
        body_at = end + 4
        if headers.get("transfer-encoding", "").lower() == "chunked":
            read = _chunked(buffer, body_at)
            if read is None:
                self._expect(headers)
                return None
            body, taken = read
        else:
            length = _length(headers)
            taken = body_at + length
            if len(buffer) < taken:
                self._expect(headers)
                return None
            body = bytes(buffer[body_at:taken])
        del buffer[:taken]
        path, _, query = target.partition("?")
        wish = headers.get("connection", "").lower()
        keep = wish != "close" and (version == "HTTP/1.1" or wish == "keep-alive")
        request = Request(method=method, path=path, query=query, headers=headers, body=body)
        return request, keep

    def _expect(self, headers: dict[str, str]) -> None:
        if headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Once is enough: the head is read again with every piece of the body.
            at = self._buffer.lower().find(b"\r\nexpect:")
            del self._buffer[at : self._buffer.find(b"\r\n", at + 2)]

    # --- answering -------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._transport is None:
            return
        if self._requests:
            request, keep = self._requests.popleft()
            self._task = asyncio.get_running_loop().create_task(self._answer(request, keep))
        elif self._refused:
            answer = _plain(self._refused, _UNREADABLE)
            self._transport.write(_whole(answer, keep=False, with_body=True))
            self._transport.close()
        else:
            self._transport.resume_reading()

    async def _answer(self, request: Request, keep: bool) -> None:  # noqa: FBT001 - a callback
        try:
            reply = await self._handle(request)
            if isinstance(reply, Answer):
                self._write(_whole(reply, keep=keep, with_body=request.method != "HEAD"))
            else:
                await self._stream(reply, keep=keep)
        except (ConnectionError, asyncio.IncompleteReadError):
            keep = False
        if not keep and self._transport is not None:
            self._transport.close()
            return
        self._task = None
        self._next()

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


def _head(text: str) -> tuple[str, str, str, dict[str, str]]:
    lines = text.split("\r\n")
    try:
        method, target, version = lines[0].split(" ")
    except ValueError:
        raise BadRequestError(HTTPStatus.BAD_REQUEST) from None
    if version not in {"HTTP/1.1", "HTTP/1.0"} or not method.isalpha():
        raise BadRequestError(HTTPStatus.BAD_REQUEST)
    if len(lines) > MAX_HEADERS:
        raise BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequestError(HTTPStatus.BAD_REQUEST)
        headers[name.lower()] = value.strip()
    return method, target, version, headers


def _length(headers: dict[str, str]) -> int:
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise BadRequestError(HTTPStatus.BAD_REQUEST)
    if len(text) > 12 or int(text) > MAX_BODY_BYTES:  # noqa: PLR2004 - digits of a terabyte
        raise BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return int(text)


def _chunked(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    """Read a chunked body; return it and where it ends, `None` when it is not complete."""
    body = bytearray()
    while True:
        end = buffer.find(b"\r\n", at)
        if end < 0:
            return None
        try:
            size = int(bytes(buffer[at:end]).partition(b";")[0], 16)
        except ValueError:
            raise BadRequestError(HTTPStatus.BAD_REQUEST) from None
        if size < 0 or len(body) + size > MAX_BODY_BYTES:
            raise BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        start = end + 2
        if len(buffer) < start + size + 2:
            return None
        if not size:
            return bytes(body), start + 2
        body += buffer[start : start + size]
        at = start + size + 2


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
