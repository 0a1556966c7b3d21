"""Status line and headers of a reply, strict (RFC 9112), and what they say of its body.

What is lenient elsewhere is a failure here: a bare LF, a folded header, two lengths, a coding that
nobody asked for. A load may fail a request; it may not misread one.
"""

from __future__ import annotations

import re
from enum import IntEnum

from pytest_vllm.adapters.load.events import shown

HEAD_BYTES = 64 * 2**10
"""Longest head that is read."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_LENGTH = re.compile(rb"\d{1,15}")
_BODILESS = (101, 204, 304)
_OK = 200
_ONCE = {b"content-length", b"transfer-encoding", b"content-encoding", b"content-type"}


class MalformedError(ValueError):
    """What came is no HTTP/1.1 reply; the message says why."""


class Body(IntEnum):
    """How the end of a body is told."""

    CHUNKED = 0
    LENGTH = 1
    CLOSE = 2


class Head:
    """What the head of a reply says.

    Args:
        raw: Status line and headers without the empty line.

    Raises:
        MalformedError: It is no head of HTTP/1.1.
    """

    __slots__ = ("body", "is_stream", "length", "location", "phrase", "reusable", "status")

    def __init__(self, raw: bytes) -> None:
        lines = raw.split(b"\r\n")
        found = _STATUS_LINE.fullmatch(lines[0])
        if found is None:
            raise MalformedError(f"no status line of HTTP/1.1: {_said(lines[0])}")
        self.status = int(found[2])
        self.phrase = shown((found[3] or b"").decode("latin-1"))
        fields = _fields(lines[1:])
        options = fields.get(b"connection", b"").lower()
        self.reusable = found[1] == b"1" and b"close" not in options
        self.location = shown(fields.get(b"location", b"").decode("latin-1"))
        kind = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
        self.is_stream = kind == b"text/event-stream"
        coding = fields.get(b"content-encoding", b"identity").strip().lower()
        if coding != b"identity" and self.status == _OK:
            raise MalformedError(f"Content-Encoding {_said(coding)}, which was not asked for")
        self.length = 0
        transfer, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
        if self.status in _BODILESS:
            self.body = Body.LENGTH
        elif transfer is not None:
            if transfer.strip().lower() != b"chunked":
                raise MalformedError(
                    f"Transfer-Encoding {_said(transfer)}, which was not asked for"
                )
            if length is not None:
                raise MalformedError("both Transfer-Encoding and Content-Length")
            self.body = Body.CHUNKED
        elif length is not None:
            if not _LENGTH.fullmatch(length.strip()):
                raise MalformedError(f"Content-Length {_said(length)}")
            self.body, self.length = Body.LENGTH, int(length)
        else:
            self.body, self.reusable = Body.CLOSE, False


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise MalformedError(f"no header: {_said(line)}")
        name, value = found[1].lower(), found[2]
        if name not in fields:
            fields[name] = value
        elif name not in _ONCE:
            fields[name] += b", " + value
        elif fields[name] != value:
            raise MalformedError(f"two headers {_said(name)} that differ")
    return fields


def _said(raw: bytes) -> str:
    return repr(raw[:80].decode("latin-1"))
