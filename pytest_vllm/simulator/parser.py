"""Requests out of the bytes of a connection, each byte looked at once, all bounded."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from pytest_vllm.simulator.wire import Request

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
MAX_BODY_BYTES = 64 * 1024 * 1024
_MAX_LENGTH_DIGITS = 12
_CHUNK_HEAD_BYTES = 1024


class BadRequestError(Exception):
    """A request that is no HTTP/1.1, or too large.

    Args:
        status: Status to refuse it with.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A request, and whether its connection is kept.

    Attributes:
        request: The request.
        keep: Whether the client wants to send more.
    """

    request: Request
    keep: bool


@dataclass(slots=True, kw_only=True)
class _Head:
    """A request whose body is still coming; `length` is `None` for a chunked one."""

    method: str
    target: str
    version: str
    headers: dict[str, str]
    length: int | None


class RequestParser:
    """Reads the requests of one connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._body = bytearray()

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue`; asked once for each request."""
        if self._head is None or "expect" not in self._head.headers:
            return False
        return self._head.headers.pop("expect").lower() == "100-continue"

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._buffer += data

    def next(self) -> Parsed | None:
        """Return the next complete request, `None` when more must come.

        Raises:
            BadRequestError: What came cannot be a request.
        """
        if self._head is None and not self._read_head():
            return None
        head = self._head
        if head is None or not self._read_body(head.length):
            return None
        self._head, body, self._body = None, bytes(self._body), bytearray()
        path, _, query = head.target.partition("?")
        wish = head.headers.get("connection", "").lower()
        keep = wish != "close" and (head.version == "HTTP/1.1" or wish == "keep-alive")
        request = Request(
            method=head.method, path=path, query=query, headers=head.headers, body=body
        )
        return Parsed(request=request, keep=keep)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return False
        text = bytes(self._buffer[:end]).decode("latin-1")
        del self._buffer[: end + 4]
        self._head = _head(text)
        return True

    def _read_body(self, length: int | None) -> bool:
        if length is None:
            return self._read_chunks()
        if len(self._buffer) < length:
            return False
        self._body += self._buffer[:length]
        del self._buffer[:length]
        return True

    def _read_chunks(self) -> bool:
        """Move complete chunks into the body; return whether the last one was there."""
        buffer = self._buffer
        while True:
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > _CHUNK_HEAD_BYTES:
                    raise BadRequestError(HTTPStatus.BAD_REQUEST)
                return False
            digits = bytes(buffer[:end]).partition(b";")[0].strip()
            try:
                size = int(digits, 16)
            except ValueError:
                raise BadRequestError(HTTPStatus.BAD_REQUEST) from None
            if size < 0 or len(self._body) + size > MAX_BODY_BYTES:
                raise BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            start = end + 2
            if len(buffer) < start + size + 2:
                return False
            self._body += buffer[start : start + size]
            del buffer[: start + size + 2]
            if not size:
                return True


def _head(text: str) -> _Head:
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
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    length = None if chunked else _length(headers)
    return _Head(method=method, target=target, version=version, headers=headers, length=length)


def _length(headers: dict[str, str]) -> int:
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise BadRequestError(HTTPStatus.BAD_REQUEST)
    if len(text) > _MAX_LENGTH_DIGITS or int(text) > MAX_BODY_BYTES:
        raise BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return int(text)
