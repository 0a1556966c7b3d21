"""The clock, the phases and the figures of one start, from the pull of the image to a token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_vllm.domain.phases import Phase, PhaseTracker, Progress, StartState, clean
from pytest_vllm.domain.server_facts import FactsReader, ServerFacts

if TYPE_CHECKING:
    from collections.abc import Callable

_SHOW_S = 0.25


class Startup:
    """Collects what is known of a start and tells whoever watches.

    Args:
        on_phase: Told where the start is: when the phase changes, and a few times a second.
        clock: Seconds that only grow.

    Attributes:
        clock: The same.
        last_line: The last line that said something.
    """

    def __init__(
        self, on_phase: Callable[[StartState], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self.last_line = ""
        self._on_phase = on_phase
        self._start = clock()
        self._tracker = PhaseTracker()
        self._reader = FactsReader()
        self._shown_s = -_SHOW_S
        self._end_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start began."""
        return self.clock() - self._start

    @property
    def phase(self) -> str:
        """The phase that lasts."""
        return self._tracker.current

    @property
    def progress(self) -> Progress | None:
        """How far it has come."""
        return self._tracker.counted

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases so far; the last one ends with the start, or now."""
        return self._tracker.phases(self.elapsed_s if self._end_s is None else self._end_s)

    @property
    def facts(self) -> ServerFacts:
        """What the server has said about itself."""
        return self._reader.facts

    def read(self, line: str) -> bool:
        """Read a line of the server's log; tell whether it shows something new."""
        text = clean(line)
        before = self.progress
        self._reader.feed(text)
        is_new = self._tracker.feed(text, self.elapsed_s)
        if text.strip():
            self.last_line = text
        if is_new:
            self.show(force=True)
        return is_new or self.progress != before

    def enter(self, phase: str, progress: Progress | None = None) -> None:
        """Begin a phase that the log does not tell, unless it lasts, and note how far it is."""
        is_new = self._tracker.enter(phase, self.elapsed_s)
        if progress is not None and self.phase == phase:
            self._tracker.count(progress)
        self.show(force=is_new or progress is None)

    def leave(self, phase: str) -> None:
        """End an interlude that the log does not tell."""
        if self._tracker.leave(phase, self.elapsed_s):
            self.show(force=True)

    def count(self, progress: Progress, line: str = "") -> None:
        """Note how far the phase that lasts has come, and what to show beside it."""
        self._tracker.count(progress)
        self.last_line = line or self.last_line
        self.show()

    def say(self, line: str) -> None:
        """Show a text that is no line of the log."""
        self.last_line = line
        self.show(force=True)

    def finish(self) -> tuple[Phase, ...]:
        """End the last phase and return all; from here on the clock that is shown stands."""
        self._end_s = self.elapsed_s
        return self.phases

    def show(self, *, force: bool = False) -> None:
        """Tell where the start is, a few times a second, or at once."""
        elapsed = self.elapsed_s
        if force or elapsed - self._shown_s >= _SHOW_S:
            self._shown_s = elapsed
            self._on_phase(
                StartState(
                    phase=self.phase,
                    elapsed_s=elapsed if self._end_s is None else self._end_s,
                    line=self.last_line,
                    progress=self.progress,
                    phases=self.phases,
                )
            )
