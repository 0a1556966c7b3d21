"""The log of a running server as lines, read by a thread."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends import LogLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LONGEST_LINE = 100_000
_FIRST_LINE_S = 5.0
"""How long the first line of a server that has ended is waited for."""


def split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    r"""Split bytes at `\n`, `\r\n` and `\r` (progress bars), each line as soon as it ends.

    Bytes that are not UTF-8 become U+FFFD. What follows the last line end is a line as well; what
    a lone `\r` ends without any text is none. A line is cut into pieces of 100 000 bytes.
    """
    rest = b""
    for chunk in chunks:
        *complete, rest = _cut(rest + chunk)
        yield from _texts(complete)
    yield from _texts([rest] if rest else [])


def _cut(data: bytes) -> list[bytes]:
    r"""Cut after each line end; a final `\r` waits, since `\n` may follow it."""
    pieces: list[bytes] = []
    start = 0
    while start < len(data):
        end = _line_end(data, start)
        if end < 0:
            break
        pieces.append(data[start:end])
        start = end
    return [*pieces, data[start:]]


def _line_end(data: bytes, start: int) -> int:
    """Return the index after the next line end, -1 when there is none yet."""
    newline, carriage = data.find(b"\n", start), data.find(b"\r", start)
    if carriage >= 0 and (newline < 0 or carriage < newline):
        if carriage + 1 == len(data):
            return -1
        return carriage + 2 if data[carriage + 1] == ord("\n") else carriage + 1
    if newline >= 0:
        return newline + 1
    return start + _LONGEST_LINE if len(data) - start > _LONGEST_LINE else -1


def _texts(pieces: list[bytes]) -> Iterator[str]:
    for piece in pieces:
        text = piece.rstrip(b"\r\n").decode("utf-8", "replace")
        if text or piece.endswith(b"\n"):
            yield text


class LogReader:
    """Collect the lines of a stream in a daemon thread.

    Args:
        chunks: The stream; reading it blocks until there is more or the server has ended.
        started: When the launch began (monotonic clock).

    Attributes:
        started: The same.
        ended_s: Seconds after it at which the stream ended, `None` while it goes on.
    """

    def __init__(self, chunks: Iterable[bytes], *, started: float) -> None:
        self.lines: list[LogLine] = []
        self._chunks = chunks
        self.started = started
        self.ended_s: float | None = None
        self._drained = False
        self._thread = threading.Thread(target=self._read, name="vllm-log", daemon=True)
        self._thread.start()

    def drain(self, limit_s: float) -> None:
        """Wait, once, until a stream that is about to end has been read to its end.

        A process that outlives the server may hold the stream open, so the wait ends when nothing
        came for a while. On a busy host the thread may not have had its turn at all yet.

        Args:
            limit_s: Seconds without a new line.
        """
        if self._drained:
            return
        self._drained = True
        seen = -1
        while self._thread.is_alive() and seen != len(self.lines):
            seen = len(self.lines)
            self._thread.join(limit_s if self.lines else _FIRST_LINE_S)

    def _read(self) -> None:
        try:
            for text in split_lines(self._chunks):
                self.lines.append(LogLine(at_s=time.monotonic() - self.started, text=text))
        except Exception as error:  # noqa: BLE001 - a thread must not end in a traceback
            note = f"[pytest-vllm] the log ends here: {type(error).__name__}: {error}"
            self.lines.append(LogLine(at_s=time.monotonic() - self.started, text=note))
        self.ended_s = time.monotonic() - self.started
