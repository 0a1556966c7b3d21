"""Lines of a log as they were meant, without what terminals, Docker and loggers put before them."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_vllm.domain.signature import Pattern

_BREAK = re.compile(r"\r\n|\r|\n")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What may stand before a line, in this order: compose, Docker or a CI, journald, a rank.
_CARRIER = re.compile(
    r"^(?:[\w.-]+\s+\| )?"
    r"(?:\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(?:Z|[+-]\d\d:?\d\d) (?:std(?:out|err) [FP] )?)?"
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ [\w.@/-]+\[\d+\]: )?"
    r"(?:\[rank\d+\]:\s?)?"
)
_PROCESS = re.compile(
    r"^\((?P<process>(?:APIServer|ApiServer|EngineCore|CoreEngine|Worker|VllmWorker|Ray|run_engine)"
    r"[^\s)]*)[^)]*\)\s?"
)
_LEVEL = re.compile(
    r"^(?P<level>INFO|WARNING|ERROR|CRITICAL|DEBUG) \d\d-\d\d \d\d:\d\d:\d\d "
    r"\[?[\w./<>-]+:\d+\]\s?"
)
_PLAIN_LEVEL = re.compile(r"^(?P<level>INFO|WARNING|ERROR|CRITICAL|DEBUG):\s+")
_TORCH_LEVEL = re.compile(r"^\[(?P<level>[IWEF])\d{4} [\d:.]+ ")
_TORCH_LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
_DEPTHS = (("Worker", 0), ("VllmWorker", 0), ("Ray", 0), ("EngineCore", 1), ("CoreEngine", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line.

    Attributes:
        number: From 1, counted after the log was split at line ends and carriage returns.
        shown: Text as a reader wants it: without colour codes.
        process: The process of vLLM that wrote it, empty when it does not say.
        level: Level of vLLM's logger, empty when it does not say.
        text: The message without any prefix; its indent is kept.
    """

    number: int
    shown: str
    process: str
    level: str
    text: str

    @property
    def depth(self) -> int:
        """How far out the process is: 0 a worker, 1 the engine, 2 the API server or unnamed."""
        return next((depth for name, depth in _DEPTHS if self.process.startswith(name)), 2)


class Log:
    """Lines that are taken apart when they are looked at: most of a long log never is.

    Args:
        raw: The lines as they were written.
        first: Number of the first of them.
    """

    def __init__(self, raw: list[str], first: int = 1) -> None:
        self.raw = raw
        self._first = first
        self._read: dict[int, Line] = {}

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.raw)

    def line(self, index: int) -> Line:
        """Return a line by its index, from 0."""
        if index not in self._read:
            self._read[index] = read_line(self._first + index, self.raw[index])
        return self._read[index]

    def lines(self, start: int, stop: int | None = None) -> list[Line]:
        """Return the lines from one index to before another, by default to the end."""
        return [self.line(index) for index in range(start, len(self) if stop is None else stop)]

    def near(self, pattern: Pattern) -> Iterator[int]:
        """Yield the indices of lines that hold the pattern's needle."""
        if not pattern.needle:
            yield from range(len(self))
            return
        position = self._text.find(pattern.needle)
        while position >= 0:
            index = bisect_right(self._starts, position) - 1
            yield index
            if index + 1 == len(self):
                return
            position = self._text.find(pattern.needle, self._starts[index + 1])

    def matching(self, pattern: Pattern) -> Iterator[int]:
        """Yield the indices of lines that match the pattern."""
        return (
            index for index in self.near(pattern) if pattern.regex.search(self.line(index).text)
        )

    @cached_property
    def _text(self) -> str:
        return "\n".join(self.raw)

    @cached_property
    def _starts(self) -> list[int]:
        starts, position = [], 0
        for raw in self.raw:
            starts.append(position)
            position += len(raw) + 1
        return starts


def split_lines(chunks: Iterable[str]) -> list[str]:
    """Split texts at line ends and carriage returns; a chunk ends a line."""
    return [part for chunk in chunks for part in _BREAK.split(chunk)]


def read_line(number: int, raw: str) -> Line:
    """Take one line, that holds no line end, apart."""
    shown = _ANSI.sub("", raw) if "\x1b" in raw else raw
    rest = shown[_end(_CARRIER.match(shown)) :]
    process = _PROCESS.match(rest)
    rest = rest[_end(process) :]
    level = _LEVEL.match(rest) or _PLAIN_LEVEL.match(rest)
    torch = _TORCH_LEVEL.match(rest)
    return Line(
        number=number,
        shown=shown.rstrip(),
        process=process["process"] if process else "",
        level=_TORCH_LEVELS[torch["level"]] if torch else level["level"] if level else "",
        text=rest[_end(level) :].rstrip(),
    )


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0
