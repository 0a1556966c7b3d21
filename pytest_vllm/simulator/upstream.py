"""A handler that forwards to a real server: with a defect around it, a real server that is broken.

Each request has a connection of its own. Streams are passed on event by event as they come, and
closing one, or cancelling a request, closes the connection, which is how a server learns that its
client has gone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_vllm.simulator.events import Events
from pytest_vllm.simulator.wire import Answer, EventStream, Handler, Reply, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_FRAMING = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})
_LINE_LIMIT_BYTES = 2**20
_READ_BYTES = 2**16
_BODILESS = (204, 304)
_FIRST_FINAL_STATUS = 200
_HOP_HEADERS = _FRAMING | {"host", "upgrade", "te", "trailer"}
_PORTS = {"http": 80, "https": 443}


class UpstreamError(Exception):
    """The server behind cannot be reached, or does not speak HTTP/1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def forward_to(url: str) -> Handler:
    """Return a handler that forwards to the server at a URL such as `http://127.0.0.1:8000`.

    A request that finds no server is answered 502.

    Raises:
        UpstreamError: The URL is not `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    """
    address = _address(url)

    async def forward(request: Request) -> Reply:
        try:
            return await _forward(address, request)
        except UpstreamError as error:
            headers = {"content-type": "text/plain; charset=utf-8"}
            return Answer(status=502, headers=headers, body=f"{error}\n".encode())

    return forward


async def probe(url: str) -> None:
    """See whether there is a server at a URL.

    Raises:
        UpstreamError: The URL is none of a server, or nothing listens there.
    """
    address = _address(url)
    await _drained(await _forward(address, Request(method="GET", path="/health", headers={})))


async def _drained(reply: Reply) -> None:
    if isinstance(reply, EventStream) and isinstance(reply.events, Events):
        await reply.events.aclose()


def _address(url: str) -> _Address:
    wanted = "give it as http://HOST:PORT"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UpstreamError(f"{url!r} is no URL of a server ({error}); {wanted}") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/"):
        raise UpstreamError(f"{url!r} is no URL of a server; {wanted}")
    tls = parts.scheme == "https"
    return _Address(host=parts.hostname, port=port or _PORTS[parts.scheme], tls=tls)


async def _forward(address: _Address, request: Request) -> Reply:
    try:
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=address.tls or None, limit=_LINE_LIMIT_BYTES
        )
    except OSError as error:
        raise UpstreamError(f"no server answers at {address.authority} ({error})") from None
    streaming = False
    try:
        writer.write(_head(address, request) + request.body)
        await writer.drain()
        status, headers = await _read_head(reader)
        pieces = _pieces(reader, request, status, headers)
        kept = {name: text for name, text in headers.items() if name not in _FRAMING}
        if headers.get("content-type", "").startswith("text/event-stream"):
            streaming = True
            events = Events(_events(pieces), ending=lambda _complete: writer.close())
            return EventStream(status=status, headers=kept, events=events)
        body = b"".join([piece async for piece in pieces])
        return Answer(status=status, headers=kept, body=body)
    except (OSError, EOFError, ValueError) as error:
        raise UpstreamError(f"{address.authority} broke off its reply ({error!r})") from None
    finally:
        if not streaming:
            writer.close()


def _head(address: _Address, request: Request) -> bytes:
    target = f"{request.path}?{request.query}" if request.query else request.path
    headers = {name: text for name, text in request.headers.items() if name not in _HOP_HEADERS}
    if request.body or request.method in ("POST", "PUT", "PATCH"):
        headers["content-length"] = str(len(request.body))
    lines = [f"{request.method} {target} HTTP/1.1", f"host: {address.authority}"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1", "replace")


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    while True:
        version, _, rest = (await _line(reader)).partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not HTTP/1.1: {version[:40]!r}")
        status = int(rest.split(" ", 1)[0])
        headers: dict[str, str] = {}
        while line := await _line(reader):
            name, _, text = line.partition(":")
            name = name.strip().lower()
            before = f"{headers[name]}, " if name in headers else ""
            headers[name] = before + text.strip()
        if status >= _FIRST_FINAL_STATUS:
            return status, headers


async def _line(reader: asyncio.StreamReader) -> str:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the connection was closed")
    return line.decode("latin-1").rstrip("\r\n")


async def _pieces(
    reader: asyncio.StreamReader, request: Request, status: int, headers: dict[str, str]
) -> AsyncIterator[bytes]:
    """Give the body as it comes, without its framing."""
    if request.method == "HEAD" or status in _BODILESS:
        return
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await _line(reader)).partition(";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while piece := await reader.read(_READ_BYTES):
            yield piece


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Cut a body into events, each given as soon as its blank line has come."""
    waiting = b""
    async for piece in pieces:
        waiting = (waiting + piece).replace(b"\r\n", b"\n")
        *complete, waiting = waiting.split(b"\n\n")
        for event in complete:
            yield event.decode("utf-8", "replace")
    if waiting.strip():
        yield waiting.decode("utf-8", "replace")
