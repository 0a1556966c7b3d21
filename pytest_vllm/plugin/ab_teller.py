"""Show on a terminal how an A/B comparison goes: a live line for a load, a line for each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.reports.ab import run_line
from pytest_vllm.reports.progress import LoadView

if TYPE_CHECKING:
    from typing import TextIO

    from pytest_vllm.domain.ab import AbRun
    from pytest_vllm.domain.load.progress import Progress


class TerminalTeller:
    """Writes to a terminal or a file.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._view: LoadView | None = None
        self.prefix = ""

    def load(self, progress: Progress) -> None:
        """Show how far the load of a run is."""
        if self._view is None:
            live = self._stream.isatty()
            self._view = LoadView(self._stream, live=live, color=live)
        self._view.update(progress)

    def run(self, run: AbRun, *, number: int, of: int) -> None:
        """Show a run that is over."""
        self.say(f"ab: {run_line(run, number=number, of=of, prefix=self.prefix)}")

    def say(self, text: str) -> None:
        """Show a line."""
        self.close()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Take the live line away."""
        view, self._view = self._view, None
        if view is not None:
            view.close()
