"""One request and its reply as evidence, and the shell script that repeats it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

BODY_LIMIT = 20_000
"""Characters of a body that evidence keeps."""

_ARGUMENT_LIMIT = 100_000  # Linux refuses an argument of 128 KiB
_CUT = re.compile(r"\.\.\. \[\d+ more characters\]\Z")
_PLAIN = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
        exchanges: Requests in the order in which they were sent. Bytes that are not UTF-8 are
            expected as Python's `surrogateescape` decodes them.
        key_variable: Environment variable that holds the API key, if one is needed.

    Returns:
        The script; `BASE_URL` in its environment redirects it to another server.
    """
    base = _base_url(exchanges)
    lines = [
        "#!/bin/sh",
        "# Sends the requests of this check again; BASE_URL=... sends them to another server.",
        "set -u",
        f"RECORDED_URL={shlex.quote(base)}",
        'BASE_URL="${BASE_URL:-$RECORDED_URL}"',
    ]
    for exchange in exchanges:
        lines += ["", _command(exchange, base, key_variable), "echo"]
    return "\n".join(lines) + "\n"


def _command(exchange: Exchange, base: str, key_variable: str | None) -> str:
    """Write one call of curl, its body from a pipe where an argument cannot hold it."""
    body = exchange.request_body
    if _CUT.search(body):
        return "echo 'this request is not repeated: evidence holds only a part of its body' >&2"
    words = ["curl", "-sS", "--globoff", "--path-as-is", "--max-time", "60"]
    words += ["-I"] if exchange.method == "HEAD" else ["-i", "--no-buffer", "-X", exchange.method]
    names = {name.lower() for name, _ in exchange.request_headers}
    for name, value in exchange.request_headers:
        words += ["-H", f"{name}: {value}" if value.strip() else f"{name};"]
    if body and "content-type" not in names:
        words += ["-H", "Content-Type:"]  # curl would name a type that was not sent
    plain = _PLAIN.fullmatch(body) is not None and len(body.encode()) <= _ARGUMENT_LIMIT
    if body and plain:
        words += ["--data-raw", body]
    text = " ".join(_quote(word) for word in words)
    if key_variable and _NAME.fullmatch(key_variable) and "authorization" not in names:
        text += f' -H "Authorization: Bearer ${{{key_variable}:?set it to the API key}}"'
    text += f' "${{BASE_URL}}"{_quote(exchange.url.removeprefix(base))}'
    return text if plain or not body else f"{_print(body)} | {text} --data-binary @-"


def _quote(word: str) -> str:
    """Quote a word for the shell; what UTF-8 cannot hold is shown instead of sent."""
    return shlex.quote(word.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", ""))


def _print(body: str) -> str:
    """Write a printf command for any bytes; printf is built in, so no length limit holds."""
    data = body.encode("utf-8", "surrogateescape" if _only_escaped(body) else "backslashreplace")
    text = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"%\\'" else f"\\{byte:03o}"  # noqa: PLR2004
        for byte in data
    )
    return f"printf '{text}'"


def _only_escaped(body: str) -> bool:
    """Tell whether all lone surrogates stand for bytes."""
    return all("\udc80" <= char <= "\udcff" for char in body if "\ud800" <= char <= "\udfff")


def _base_url(exchanges: tuple[Exchange, ...]) -> str:
    """Return scheme and authority of the first request."""
    if not exchanges:
        return ""
    scheme, _, rest = exchanges[0].url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
