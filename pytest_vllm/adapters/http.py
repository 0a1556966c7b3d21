"""Speak HTTP with the server under test, within hard limits; home of `httpx`, with `http_client`.

`httpx` times out each read by itself, so a server that drips bytes could hold a request for ever.
Here a timer shuts the connection down when the whole request is over its time. Each request has a
connection of its own: a server may close an idle one at any moment, and what that does to the next
request says nothing about an image.
"""

from __future__ import annotations

import ipaddress
import json as json_module
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx

from pytest_vllm.adapters.call import Call
from pytest_vllm.adapters.http_client import make_client
from pytest_vllm.domain.reply import MAX_VALUES, StreamReply, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_BODY_BYTES = 2**19
"""A longer body is refused, unless a check expects one. `/openapi.json` has 0.3 MB.

Many replies are read at the same time, so that this bounds the memory of a run.
"""

MAX_LINES = 4_000
"""A stream of more lines is refused; it has two for each token. Other replies may have more."""

_BYTES_PER_VALUE = 8
"""A reply that a check expects to be long has no more JSON values than one in so many bytes."""

PATIENCE = 4
"""So many requests in a row without a complete reply in time: the server counts as hung."""

UNSET: Any = object()
"""Stands for "no JSON body", since None is one."""


class Transport:
    """Send requests to one server, from any number of threads.

    Args:
        base_url: URL of the server without `/v1`.
        api_key: Sent as a bearer token; never part of the evidence.
        timeout_s: Seconds that one request may take from connect to the last byte.
        max_body_bytes: Bytes that the body of a reply may have.

    Raises:
        TargetError: The environment names certificates or a proxy that cannot be used.
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
        self._client = make_client(
            timeout_s=timeout_s,
            loopback=is_loopback(base_url),
            tls=base_url.startswith("https:"),
        )
        self._calls: set[Call] = set()
        self._lock = threading.Lock()
        self._timeouts = 0

    def send(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        json: Any = UNSET,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> StreamReply:
        """Send a request, read the whole reply and note when each of its lines was complete.

        Args:
            method: HTTP method.
            path: Path and query, with a leading slash.
            json: Body as a value; NaN and Infinity are sent literally.
            content: Body as it is, instead of `json`; may be broken JSON.
            headers: More headers, or others than the usual ones.
            max_bytes: Bytes that the body of the reply may have, if others than usual.
            timeout_s: Seconds that it may take, if others than usual.

        Raises:
            TransportFailure: No complete reply arrived.
        """
        call = self._call(method, path, _body(json, content), headers, typed=json is not UNSET)
        if max_bytes is not None:
            call.max_bytes = max_bytes
            call.max_values = max(MAX_VALUES, max_bytes // _BYTES_PER_VALUE)
        call.timeout_s = timeout_s or call.timeout_s
        request = self._request(call)
        if self._timeouts >= PATIENCE:
            hung = f"not sent: {self._timeouts} requests in a row got no complete reply in time"
            raise call.failure("timeout", hung)
        with self._watched(call):
            return self._receive(request, call)

    def abandon(
        self, path: str, *, json: Any, after_lines: int | None = None, after_s: float | None = None
    ) -> StreamReply:
        """Post a request and close the connection before the reply is complete.

        Args:
            path: Path and query, with a leading slash.
            json: Body as a value.
            after_lines: Close when so many lines of the reply have come.
            after_s: Close after so many seconds.

        Returns:
            What had come by then, of status 0 for nothing; a reply that was complete sooner is
            returned whole.

        Raises:
            TransportFailure: The connection ended otherwise.
        """
        call = self._call("POST", path, _body(json, None), None, typed=True)
        call.timeout_s = min(call.timeout_s, after_s or call.timeout_s)
        request = self._request(call)
        try:
            with call:
                return self._receive(request, call, enough_lines=after_lines)
        except TransportFailure as failure:
            if failure.kind == "timeout" and after_s is not None:
                return call.reply()
            raise

    def _call(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        *,
        typed: bool,
    ) -> Call:
        shown = {name.lower(): value for name, value in (headers or {}).items()}
        if typed:
            shown.setdefault("content-type", "application/json")
        return Call(
            method=method,
            url=self.base_url + path,
            headers=tuple(shown.items()),
            body=body,
            timeout_s=self.timeout_s,
            max_bytes=self._max_body_bytes,
            max_values=MAX_VALUES,
        )

    def _request(self, call: Call) -> httpx.Request:
        try:
            return self._client.build_request(
                call.method,
                call.url,
                content=call.body or None,
                headers={**self._secret_headers, **dict(call.headers)},
                extensions={
                    "trace": call.trace,
                    "timeout": httpx.Timeout(call.timeout_s).as_dict(),
                },
            )
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
            raise call.failure("protocol", f"cannot send this request: {error}") from None

    @contextmanager
    def _watched(self, call: Call) -> Iterator[None]:
        """Keep a call in reach of `close`, and count those that never ended."""
        with self._lock:
            self._calls.add(call)
        try:
            with call:
                yield
        except TransportFailure as failure:
            self._timeouts = self._timeouts + 1 if failure.kind == "timeout" else 0
            raise
        else:
            self._timeouts = 0
        finally:
            with self._lock:
                self._calls.discard(call)

    def _receive(
        self, request: httpx.Request, call: Call, *, enough_lines: int | None = None
    ) -> StreamReply:
        try:
            response = self._client.send(request, stream=True)
            try:
                call.status = response.status_code
                call.response_headers = _headers(response.headers)
                for chunk in response.iter_bytes():
                    call.feed(chunk)
                    if len(call.received) > call.max_bytes:
                        limit = f"the body has more than {call.max_bytes} bytes"
                        raise call.failure("too large", limit)
                    most = MAX_LINES if _streams(call) else 5 * MAX_LINES
                    if len(call.lines) > most:
                        limit = f"the body has more than {most} lines"
                        raise call.failure("too large", limit)
                    if enough_lines is not None and len(call.lines) >= enough_lines:
                        return call.reply()
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise call.failure(*_kind(error)) from None
        if call.expired:
            raise call.failure("reset", "the connection ended")
        return call.reply()

    def close(self) -> None:
        """End what is still on its way and release the client's resources."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.expire()
        self._client.close()

    def __enter__(self) -> Self:
        """Give itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _body(json: Any, content: bytes | str | None) -> bytes:
    if json is not UNSET:
        return json_module.dumps(json).encode()
    return content.encode() if isinstance(content, str) else content or b""


def _streams(call: Call) -> bool:
    return call.response_headers.get("content-type", "").startswith("text/event-stream")


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


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine, to which no proxy leads."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
