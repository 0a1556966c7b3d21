"""Show on a terminal how an A/B comparison goes: a live line for a load, a line for each run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_vllm.reports.ab import run_line
from pytest_vllm.reports.progress import LoadView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from pytest_vllm.domain.ab import AbRun
    from pytest_vllm.domain.load.progress import Progress


class TerminalTeller:
    """Writes to a terminal or a file.

    Args:
        stream: Where to write.

    Attributes:
        prefix: What stands before the lines of runs, such as which comparison they are of.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.prefix = ""

    @contextmanager
    def shown(self, title: str) -> Iterator[Callable[[Progress], None]]:
        """Show a load while it runs."""
        live = self._stream.isatty()
        with LoadView(self._stream, live=live, color=live, title=title) as view:
            yield view.update

    def run(self, run: AbRun, *, number: int, of: int) -> None:
        """Show a run that is over."""
        self.say(f"ab: {run_line(run, number=number, of=of, prefix=self.prefix)}")

    def say(self, text: str) -> None:
        """Show a line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()
