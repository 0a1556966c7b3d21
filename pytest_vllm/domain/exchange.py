"""One request and its reply as evidence, and the shell script that repeats it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

BODY_LIMIT = 20_000
"""Characters of a body that evidence keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and what came back.

    Attributes:
        method: HTTP method.
        url: Full URL.
        request_headers: Headers that were set by us, without secrets.
        request_body: Body as text, empty for none.
        status: HTTP status, `None` when no reply arrived.
        response_headers: Headers of the reply, names in lower case.
        response_body: Body as text, cut at `BODY_LIMIT` characters.
        elapsed_ms: Milliseconds from send to the end of the reply.
        failure: Why no complete reply arrived, empty when one did.
    """

    method: str
    url: str
    request_headers: tuple[tuple[str, str], ...] = ()
    request_body: str = ""
    status: int | None = None
    response_headers: tuple[tuple[str, str], ...] = ()
    response_body: str = ""
    elapsed_ms: float = 0.0
    failure: str = ""


def shorten(text: str, limit: int = BODY_LIMIT) -> str:
    """Cut a text at `limit` characters and say how much is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... [{len(text) - limit} more characters]"


def replay_script(exchanges: tuple[Exchange, ...], *, key_variable: str | None) -> str:
    """Write a POSIX shell script that sends the same requests with curl.

    Args:
        exchanges: Requests in the order in which they were sent.
        key_variable: Environment variable that holds the API key, if one is needed.

    Returns:
        The script; `BASE_URL` in its environment redirects it to another server.
    """
    base = _base_url(exchanges)
    lines = ["#!/bin/sh", "# Sends the requests of this check again.", "set -u"]
    lines.append(f'BASE_URL="${{BASE_URL:-{base}}}"')
    for exchange in exchanges:
        path = exchange.url.removeprefix(base)
        command = ["curl", "-sS", "-i", "--no-buffer", "--max-time", "60"]
        command += ["-X", exchange.method]
        if exchange.method == "HEAD":
            command = ["curl", "-sS", "-I", "--max-time", "60"]
        text = shlex.join(command)
        for name, value in exchange.request_headers:
            text += f" -H {shlex.quote(f'{name}: {value}')}"
        if key_variable is not None:
            text += f' -H "Authorization: Bearer ${{{key_variable}}}"'
        if exchange.request_body:
            text += f" --data-binary {shlex.quote(exchange.request_body)}"
        lines += ["", f'{text} "${{BASE_URL}}"{shlex.quote(path)}', "echo"]
    return "\n".join(lines) + "\n"


def _base_url(exchanges: tuple[Exchange, ...]) -> str:
    """Return scheme and authority of the first request."""
    if not exchanges:
        return ""
    scheme, _, rest = exchanges[0].url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
