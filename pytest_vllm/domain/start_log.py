"""What the log of a start says as a whole: how far it came, whether it ended, whether it failed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_vllm.domain.phases import PhaseTracker
from pytest_vllm.domain.root_cause import find_crash, find_root, root_text
from pytest_vllm.domain.signature import Pattern
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.logline import Line, Log

CAUSE_CHARS = 400
"""Characters of a cause that are shown."""
_EXCERPT_LINES = 12
_API_DEPTH = 2
_READY = Pattern(
    regex=re.compile(r"Application startup complete"), needle="Application startup complete"
)
_BANNER = Pattern(regex=re.compile(r"non-default args:"), needle="non-default args:")
_STARTED = re.compile(
    r"vLLM API server version|non-default args:|LLM engine \(v|version \d+\.\d+"
    r"|Automatically detected platform|Started server process"
)
_STOPPED = re.compile(r"^(?:Shutting down|Finished server process)")
_STOPS = (
    Pattern(
        regex=re.compile(r"(?:API server: shutdown triggered|EngineCore: trigger received signal)"),
        needle="[shutdown] ",
    ),
    Pattern(
        regex=re.compile(r"^KeyboardInterrupt: terminated"),
        needle="KeyboardInterrupt: terminated",
    ),
)
_STOP_CODES = (0, 130, 143)
_FRAME = re.compile(r'^\s*File "[^"]+", line \d+')
_BETWEEN = 17
"""How far above a frame may stand: workers that fail together mix their lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEnd:
    """How a server ended without being asked to, or that it no longer moves.

    Attributes:
        exit_code: Its exit status, `None` while it runs.
        oom_killed: Whether the kernel killed it for want of memory (Docker's State.OOMKilled).
        error: What the engine notes about the end (Docker's State.Error).
        hung: Whether it was given up because nothing moved.
        stopped: Whether somebody may have stopped it: an orderly end is nothing wrong then.
    """

    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    hung: bool = False
    stopped: bool = False


class StartLog:
    """A log together with the end of its server.

    Args:
        log: The log.
        end: The end.

    Attributes:
        begin: Index of the line in which the last start began, after an earlier one had come up or
            was stopped; -1 for a log of one start.
        ready: Index of the line since when the server was up, -1 when it never was.
        stop: Index of the line in which it was told to stop, the length of the log for none: a
            server that is told to stop kills its engine, and says what it says of a dead one.
    """

    def __init__(self, log: Log, end: ServerEnd) -> None:
        self.log = log
        self.end = end
        ready = list(log.matching(_READY))
        stops = [index for stop in _STOPS for index in log.matching(stop)]
        begin = max(log.matching(_BANNER), default=-1)
        again = any(index < begin for index in (*ready, *stops))
        self.begin = begin if again else -1
        self.ready = max((index for index in ready if index > self.begin), default=-1)
        self.stop = min((index for index in stops if index > self.begin), default=len(log))

    @cached_property
    def is_excerpt(self) -> bool:
        """Whether somebody cut out a few lines: these are what is asked about."""
        head = [raw for raw in self.log.raw if raw.strip()]
        return len(head) <= _EXCERPT_LINES and not any(_STARTED.search(raw) for raw in head)

    @cached_property
    def tail(self) -> Sequence[Line]:
        """Lines since the server was up, all of them when it never was."""
        lines = self.log.lines(self.since + 1, self.stop)
        if self.ready < 0 or self.end.exit_code is not None:
            return lines
        # A server that lives reports bad requests with tracebacks; only its engine counts.
        return [line for line in lines if line.depth < _API_DEPTH]

    @property
    def since(self) -> int:
        """Index of the line before those that count: what came earlier was overcome."""
        return max(self.begin, self.ready)

    @cached_property
    def root(self) -> Line | None:
        """The line that says most about a failure."""
        return find_root(self.tail)

    @cached_property
    def root_text(self) -> str:
        """The same as one line."""
        return one_line(root_text(self.tail), CAUSE_CHARS)

    @cached_property
    def crash(self) -> Line | None:
        """The line in which a library, a shell or the engine reports a failure."""
        return find_crash(self.log.lines(self.since + 1, self.stop))

    @cached_property
    def phase(self) -> str:
        """The last phase that was reached."""
        if self.ready >= 0:
            return "ready"
        tracker = PhaseTracker()
        for raw in self.log.raw:
            tracker.feed(raw, 0.0)
        return tracker.current

    @property
    def was_told_to_stop(self) -> bool:
        """Whether the log says that somebody stopped the server."""
        return self.stop < len(self.log)

    @property
    def was_stopped(self) -> bool:
        """Whether the server ended because somebody stopped it, which is nothing wrong."""
        return (
            self.end.stopped
            and self.end.exit_code in _STOP_CODES
            and (self.was_told_to_stop or any(_STOPPED.search(line.text) for line in self.tail))
        )

    @property
    def ended_badly(self) -> bool:
        """Whether the end alone says that something is wrong."""
        too_early = self.was_told_to_stop and self.ready < 0
        ended = self.end.exit_code is not None and not self.was_stopped
        return self.end.hung or too_early or ended

    @cached_property
    def has_vllm_line(self) -> bool:
        """Whether vLLM wrote anything."""
        return any(
            _STARTED.search(raw) or (line := self.log.line(index)).process or line.level
            for index, raw in enumerate(self.log.raw)
        )

    def is_source(self, index: int) -> bool:
        """Tell whether a line is the source that a traceback shows below a frame."""
        line = self.log.line(index)
        if not line.text.startswith("    "):
            return False
        above = (self.log.line(at) for at in range(index - 1, max(index - _BETWEEN, -1), -1))
        own = next((other for other in above if other.process == line.process), None)
        return own is not None and _FRAME.match(own.text) is not None
