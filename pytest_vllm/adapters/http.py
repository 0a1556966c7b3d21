"""Speak HTTP with the server under test, within hard limits: the one home of `httpx`.

`httpx` times out each read by itself, so a server that drips bytes could hold a request for ever.
Here a timer shuts the connection down when the whole request is over its time. Each request has a
connection of its own: a server may close an idle one at any moment, and what that does to the next
request says nothing about an image.
"""

from __future__ import annotations

import ipaddress
import json as json_module
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx

from pytest_vllm.domain.exchange import Exchange, shorten
from pytest_vllm.domain.reply import Reply, StreamReply, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BODY_BYTES = 32 * 2**20
"""A longer body is refused. The longest healthy reply, `/openapi.json`, has 0.3 MB."""

UNSET: Any = object()
"""Stands for "no JSON body", since None is one."""


class Transport:
    """Send requests to one server, one after the other.

    Args:
        base_url: URL of the server without `/v1`.
        api_key: Sent as a bearer token; never part of the evidence.
        timeout_s: Seconds that one request may take from connect to the last byte.
        max_body_bytes: Bytes that the body of a reply may have.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes
        self._secret_headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._client = httpx.Client(
            timeout=timeout_s,
            trust_env=not _is_loopback(base_url),
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"accept": "*/*", "accept-encoding": "identity", "user-agent": "pytest-vllm"},
        )

    def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = UNSET,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request and read the whole reply.

        Args:
            method: HTTP method.
            path: Path and query, with a leading slash.
            json: Body as a value; NaN and Infinity are sent literally.
            content: Body as it is, instead of `json`; may be broken JSON.
            headers: More headers, or others than the usual ones.

        Raises:
            TransportFailure: No complete reply arrived.
        """
        return self.stream(method, path, json=json, content=content, headers=headers)

    def stream(
        self,
        method: str,
        path: str,
        *,
        json: Any = UNSET,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> StreamReply:
        """Do what `send` does and note when each line of the reply was complete."""
        body = _body(json, content)
        shown = {name.lower(): value for name, value in (headers or {}).items()}
        if json is not UNSET:
            shown.setdefault("content-type", "application/json")
        call = _Call(
            method=method,
            url=self.base_url + path,
            headers=tuple(shown.items()),
            body=body,
            timeout_s=self.timeout_s,
        )
        limits = httpx.Timeout(self.timeout_s).as_dict()
        try:
            request = self._client.build_request(
                method,
                call.url,
                content=body or None,
                headers={**self._secret_headers, **shown},
                extensions={"trace": call.trace, "timeout": limits},
            )
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
            raise call.failure("protocol", f"cannot send this request: {error}") from None
        with call:
            return self._receive(request, call)

    def _receive(self, request: httpx.Request, call: _Call) -> StreamReply:
        try:
            response = self._client.send(request, stream=True)
            try:
                call.status = response.status_code
                call.response_headers = _headers(response.headers)
                for chunk in response.iter_bytes():
                    call.feed(chunk)
                    if len(call.received) > self._max_body_bytes:
                        limit = f"the body has more than {self._max_body_bytes} bytes"
                        raise call.failure("too large", limit)
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise call.failure(*_kind(error)) from None
        if call.expired:
            raise call.failure("reset", "the connection ended")
        return call.reply()

    def close(self) -> None:
        """Release the client's resources."""
        self._client.close()

    def __enter__(self) -> Self:
        """Give itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


@dataclass(kw_only=True)
class _Call:
    """One request under its deadline, and what has arrived so far."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout_s: float
    status: int | None = None
    response_headers: dict[str, str] = field(default_factory=dict)
    received: bytearray = field(default_factory=bytearray)
    lines: list[tuple[str, float]] = field(default_factory=list)
    expired: bool = False
    _line_start: int = 0
    _sockets: list[socket.socket] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._timer = threading.Timer(self.timeout_s, self._expire)
        self._timer.daemon = True
        self._start = time.perf_counter()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note the connection when it is there (an httpx extension), to be able to end it."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        connection = info["return_value"].get_extra_info("socket")
        with self._lock:
            self._sockets.append(connection)
            late = self.expired
        if late:
            self._expire()

    def _expire(self) -> None:
        with self._lock:
            self.expired = True
            sockets = list(self._sockets)
        for connection in sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # already closed, or handed over to TLS
                continue

    @property
    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self._start) * 1000

    def feed(self, chunk: bytes) -> None:
        """Take bytes in and cut off the lines that they complete."""
        at_ms = self.elapsed_ms
        search = len(self.received)
        self.received += chunk
        while (end := self.received.find(b"\n", search)) >= 0:
            self._cut(end, at_ms)
            self._line_start = search = end + 1

    def _cut(self, end: int, at_ms: float) -> None:
        line = bytes(self.received[self._line_start : end]).removesuffix(b"\r")
        self.lines.append((line.decode("utf-8", "replace"), at_ms))

    def reply(self) -> StreamReply:
        """Make a reply of what arrived."""
        elapsed_ms = self.elapsed_ms
        if self._line_start < len(self.received):
            self._cut(len(self.received), elapsed_ms)
        return StreamReply(
            status=self.status or 0,
            headers=self.response_headers,
            body=bytes(self.received),
            elapsed_ms=elapsed_ms,
            exchange=self._exchange(elapsed_ms),
            lines=tuple(self.lines),
        )

    def failure(self, kind: str, message: str) -> TransportFailure:
        """Make a failure of what arrived; past the deadline everything is a timeout."""
        if self.expired:
            kind = "timeout"
            message = (
                f"no complete reply within {self.timeout_s:g} s "
                f"({len(self.received)} bytes of the body came)"
            )
        exchange = self._exchange(self.elapsed_ms, failure=f"{kind}: {message}")
        return TransportFailure(kind, message, exchange=exchange)

    def _exchange(self, elapsed_ms: float, *, failure: str = "") -> Exchange:
        return Exchange(
            method=self.method,
            url=self.url,
            request_headers=self.headers,
            request_body=_evidence(self.body),
            status=self.status,
            response_headers=tuple(self.response_headers.items()),
            response_body=_evidence(bytes(self.received)),
            elapsed_ms=elapsed_ms,
            failure=failure,
        )


def _evidence(body: bytes) -> str:
    return shorten(body.decode("utf-8", "replace"))


def _body(json: Any, content: bytes | str | None) -> bytes:
    if json is not UNSET:
        return json_module.dumps(json).encode()
    return content.encode() if isinstance(content, str) else content or b""


def _headers(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _kind(error: httpx.HTTPError) -> tuple[str, str]:
    """Name what went wrong, in our words."""
    detail = f"{type(error).__name__}: {error}".rstrip(": ")
    match error:
        case httpx.TimeoutException():
            return "timeout", detail
        case httpx.ConnectError():
            return "refused", detail
        case httpx.NetworkError():
            return "reset", detail
        case httpx.RemoteProtocolError() if "disconnected" in str(error) or "closed" in str(error):
            return "reset", detail
        case _:
            return "protocol", detail


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
