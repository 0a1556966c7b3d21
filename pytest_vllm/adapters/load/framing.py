"""One HTTP/1.1 reply out of the bytes of a connection: its parts, its body, its end."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.events import EVENT_BYTES, TokenEvents, shown
from pytest_vllm.adapters.load.head import HEAD_BYTES, Body, Head, MalformedError
from pytest_vllm.adapters.load.template import SIZES, head_of, is_plain, take_known
from pytest_vllm.domain.load.columns import NEVER, Ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.adapters.load.template import Templates

_LINE_BYTES = 4096
_TRAILER_BYTES = 64 * 2**10
_ERROR_BYTES = 2**20
_KEPT_BYTES = 2048
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_OK = 200
_INFORMATIONAL = range(100, 200)
_SWITCHING = 101
_REDIRECT = range(300, 400)


class _Part(IntEnum):
    HEAD = 0
    SIZE = 1  # of a chunk
    CHUNK = 2
    CHUNK_END = 3
    TRAILER = 4
    LENGTH = 5  # a body of known length
    CLOSE = 6  # a body up to the end of the connection
    END = 7


class Reply:
    """A reply while it comes in.

    Attributes:
        events: What its body says.
        status: HTTP status, 0 before there is one.
        header_ns: Arrival of the headers.
        end_ns: Arrival of its end, or of what made it fail.
        ending: How it ended, `None` as long as it has not.
        reason: What was seen where it failed.
        received: Bytes so far.
        coalesced: Reads that brought more than one token event.
        reusable: Whether the connection can carry another request, once it ended.
        eager: Whether its end can be seen only by reading all at once as it comes.
    """

    __slots__ = (
        "_body",
        "_carry",
        "_head",
        "_left",
        "_limit",
        "_part",
        "coalesced",
        "eager",
        "end_ns",
        "ending",
        "events",
        "header_ns",
        "reason",
        "received",
        "reusable",
        "status",
    )

    def __init__(self, templates: Templates, *, limit_bytes: int) -> None:
        self.events = TokenEvents(templates)
        self.status, self.header_ns, self.end_ns = 0, NEVER, NEVER
        self.ending: Ending | None = None
        self.reason = ""
        self.received = self.coalesced = 0
        self.reusable = False
        self.eager = True
        self._limit = limit_bytes
        self._part = _Part.HEAD
        self._carry, self._body = bytearray(), bytearray()
        self._left = 0
        self._head: Head | None = None

    def feed(self, reads: Sequence[tuple[int, bytes]]) -> None:
        """Take in what was read, each with its time of arrival."""
        events = self.events
        times = events.times
        add_time, add_tokens = times.append, events.tokens.append
        known, heads, after = events.known, events.heads, events.after
        tail = -len(after)
        fast = self._part is _Part.SIZE and events.idle and not self._carry
        received = self.received
        for at_ns, data in reads:
            length = len(data)
            received += length
            if fast:  # the usual read: one chunk that holds one event
                head = heads.get(length)
                if head is None:
                    head = head_of(events, length)
                if head and data.startswith(head) and data.endswith(after):
                    hole = data[len(head) : tail]
                    count = known.get(hole)
                    if count is None and events.texts and is_plain(hole):
                        count = 0
                    if count is not None:
                        add_time(at_ns)
                        add_tokens(count)
                        continue
            before = len(times)
            self._mixed(data, at_ns)
            if len(times) > before + 1:
                self.coalesced += 1
            if received > self._limit:
                self.stop(Ending.TOO_LARGE, f"more than {self._limit} bytes", at_ns)
            known, heads, after = events.known, events.heads, events.after
            tail = -len(after)
            fast = self._part is _Part.SIZE and events.idle and not self._carry
        self.received = received
        if received > self._limit and reads:
            self.stop(Ending.TOO_LARGE, f"more than {self._limit} bytes", at_ns)

    def closed(self, at_ns: int, *, broken: str = "") -> None:
        """Take note that the connection ended.

        Args:
            at_ns: When.
            broken: The error, where it was no orderly end.
        """
        if broken:
            self.stop(Ending.RESET, broken, at_ns)
        elif self._part is _Part.CLOSE:
            self._end(at_ns)
        else:
            what = "within the reply" if self.received else "before a reply"
            self.stop(Ending.TRUNCATED, f"the server closed the connection {what}", at_ns)
        self.reusable = False

    def stop(self, ending: Ending, reason: str, at_ns: int) -> None:
        """End the reply as a failure, unless it has ended; an earlier error event is the reason."""
        if self.ending is not None:
            return
        self.ending, self.reason = self.events.failure or (ending, shown(reason))
        self._part = _Part.END
        self.end_ns = at_ns
        self.reusable = False
        self.events.close()
        self._body.clear()
        self._carry.clear()

    def _mixed(self, data: bytes, at_ns: int) -> None:
        """Take in a read of any content."""
        events, position, end = self.events, 0, len(data)
        while position < end:
            if self._part is _Part.END:
                self.reusable = False  # something follows the end
                return
            if self._part is _Part.SIZE and events.idle and events.start and not self._carry:
                position = take_known(events, data, position, at_ns)
                if position == end:
                    return
            position = self._step(data, position, at_ns)

    def _whole_chunk(self, data: bytes, position: int, at_ns: int) -> int:
        """Take in a chunk, if all of a usual one is there; return where it ends, 0 if it is not."""
        line = data.find(b"\r\n", position, position + 8)
        size = SIZES.get(data[position:line]) if line > 0 else None
        if size is None:
            return 0
        stop = line + size + 4
        if data[stop - 2 : stop] != b"\r\n":
            return 0
        self._take(data[line + 2 : stop - 2], at_ns)
        return stop

    def _step(self, data: bytes, position: int, at_ns: int) -> int:
        """Take in what belongs to the present part; return where the next one begins."""
        part = self._part
        if part is _Part.SIZE and not self._carry:
            stop = self._whole_chunk(data, position, at_ns)
            if stop:
                return stop
        if part is _Part.HEAD:
            return self._read_head(data, position, at_ns)
        if part is _Part.CHUNK or part is _Part.LENGTH:
            stop = position + self._left
            piece = data[position:stop]
            self._left -= len(piece)
            self._take(piece, at_ns)
            if self._left == 0 and self._part is _Part.CHUNK:
                self._part = _Part.CHUNK_END
            elif self._left == 0 and self._part is _Part.LENGTH:
                self._end(at_ns)
            return position + len(piece)
        if part is _Part.CLOSE:
            self._take(data[position:], at_ns)
            return len(data)
        return self._read_line(data, position, at_ns)

    def _read_line(self, data: bytes, position: int, at_ns: int) -> int:
        """Read a line of the chunked framing: a size, the end of a chunk, a trailer."""
        found = data.find(b"\n", position)
        stop = found + 1 if found >= 0 else len(data)
        carry = self._carry
        carry += data[position:stop]
        if found < 0:
            if len(carry) > _LINE_BYTES or (self._part is _Part.CHUNK_END and carry != b"\r"):
                self._malformed("chunked framing", at_ns)
            return stop
        line = bytes(carry)
        carry.clear()
        if not line.endswith(b"\r\n") or len(line) > _LINE_BYTES:
            self._malformed("chunked framing", at_ns, line)
        elif self._part is _Part.SIZE:
            size = _SIZE.fullmatch(line, 0, len(line) - 2)
            if size is None:
                self._malformed("size of a chunk", at_ns, line)
            else:
                self._left = int(size[1], 16)
                self._part = _Part.CHUNK if self._left else _Part.TRAILER
        elif line == b"\r\n":
            if self._part is _Part.CHUNK_END:
                self._part = _Part.SIZE
            else:
                self._end(at_ns)
        elif self._part is _Part.CHUNK_END:
            self._malformed("end of a chunk", at_ns, line)
        else:
            self._left += len(line)  # of the trailers, in all
            if self._left > _TRAILER_BYTES:
                self._malformed("trailers", at_ns)
        return stop

    def _read_head(self, data: bytes, position: int, at_ns: int) -> int:
        carry = self._carry
        had = len(carry)
        carry += data[position : position + HEAD_BYTES + 1]
        if not b"HTTP/1.".startswith(carry[:7]):
            self._malformed("status line", at_ns, bytes(carry))
            return len(data)
        found = carry.find(b"\r\n\r\n", max(had - 3, 0))
        if found < 0:
            if len(carry) > HEAD_BYTES or b"\n\n" in carry[max(had - 1, 0) :]:
                self._malformed("headers", at_ns)
            return len(data)
        raw = bytes(carry[:found])
        carry.clear()
        try:
            head = Head(raw)
        except MalformedError as error:
            self.stop(Ending.MALFORMED, str(error), at_ns)
            return len(data)
        position += found + 4 - had
        if head.status in _INFORMATIONAL and head.status != _SWITCHING:
            return position
        self._head, self.status, self.header_ns = head, head.status, at_ns
        self._left = head.length
        self._part = {
            Body.CHUNKED: _Part.SIZE,
            Body.LENGTH: _Part.LENGTH,
            Body.CLOSE: _Part.CLOSE,
        }[head.body]
        self.eager = self._part is not _Part.SIZE
        if self._part is _Part.LENGTH and not self._left:
            self._end(at_ns)
        return position

    def _take(self, piece: bytes, at_ns: int) -> None:
        """Take in bytes of the body."""
        if self.status != _OK:
            self._left_over(piece, at_ns)
        elif self._head is not None and self._head.is_stream:
            self.events.feed(piece, at_ns)
            if self.events.fatal:
                self.stop(Ending.MALFORMED, "", at_ns)  # the failure of the events goes first
        else:
            self._body += piece
            if len(self._body) > EVENT_BYTES:
                self.stop(Ending.TOO_LARGE, f"a document of more than {EVENT_BYTES} bytes", at_ns)

    def _left_over(self, piece: bytes, at_ns: int) -> None:
        """Keep the start of what came with a failure."""
        self._body += piece[: max(_KEPT_BYTES - len(self._body), 0)]
        if self.received > _ERROR_BYTES:
            self._end(at_ns)
            self.reusable = False

    def _end(self, at_ns: int) -> None:
        """Judge the reply, whose body is complete."""
        head, events = self._head, self.events
        if self.ending is not None or head is None:
            return
        if self.status != _OK:
            text = self._body.decode("utf-8", "replace")
            to = f" to {head.location}" if self.status in _REDIRECT else ""
            verdict = (Ending.STATUS, shown(f"{self.status} {head.phrase}{to} {text}"))
        else:
            if not head.is_stream:
                events.document(bytes(self._body), at_ns)
            verdict = events.failure or (Ending.DONE, "")
            if not events.done and not events.failure:
                verdict = (Ending.TRUNCATED, "the stream ended without [DONE]")
        self.ending, self.reason = verdict
        self.reusable = head.reusable
        self._part, self.end_ns = _Part.END, at_ns
        events.close()
        self._body.clear()

    def _malformed(self, what: str, at_ns: int, seen: bytes = b"") -> None:
        text = f": {seen[:80].decode('latin-1')!r}" if seen else ""
        self.stop(Ending.MALFORMED, f"the {what} cannot be read{text}", at_ns)
