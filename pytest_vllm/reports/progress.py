"""The line that keeps a person company while a load runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self, TextIO

from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from pytest_vllm.domain.load.progress import Progress

HEARTBEAT_S = 10.0
"""Seconds between two lines where no line can be rewritten."""
_BAR = 20
_LEAST_BAR = 6
_GAP = 2
_TITLE = 40
_FAST_MS = 10.0


def progress_words(progress: Progress) -> str:
    """Say how a load is: requests in flight, tokens a second, median TTFT, errors.

    Events stand where the server does not tell how many tokens an event carries.
    """
    if progress.tokens_per_s is None:
        rate = f"{progress.events_per_s:,.0f} events/s"
    else:
        rate = f"{progress.tokens_per_s:,.0f} tok/s"
    if progress.ttft_p50_ms is None:
        ttft = "no token yet"
    else:
        digits = 1 if progress.ttft_p50_ms < _FAST_MS else 0
        ttft = f"TTFT p50 {progress.ttft_p50_ms:,.{digits}f} ms"
    errors = f"{progress.failed} error{'' if progress.failed == 1 else 's'}"
    return f"{progress.in_flight} in flight  {rate}  {ttft}  {errors}"


class LoadView:
    """Shows how a load goes while it lasts.

    Args:
        stream: Where to write.
        live: Whether the stream is a terminal on which one line can be rewritten.
        color: Whether colours may be used.
        title: What runs, in a few words, such as `concurrency 8`.
    """

    def __init__(self, stream: TextIO, *, live: bool, color: bool, title: str = "") -> None:
        self._stream = stream
        self._color = color
        self._title = one_line(title, _TITLE)
        self._wants_live = live and os.environ.get("TERM") not in ("dumb", "unknown")
        self._console: Console | None = None
        self._live: Any = None
        self._spoken_s = 0.0

    def __enter__(self) -> Self:
        """Give itself; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def update(self, progress: Progress) -> None:
        """Show the state of the load; without a terminal, every `HEARTBEAT_S` seconds."""
        if self._wants_live:
            self._show(progress)
        elif progress.elapsed_s - self._spoken_s >= HEARTBEAT_S:
            self._spoken_s = progress.elapsed_s
            ended = progress.done + progress.failed
            title = f"{self._title}  " if self._title else ""
            self._say(
                f"{progress.elapsed_s:.0f} s  {title}{ended}/{progress.planned}  "
                f"{progress_words(progress)}"
            )

    def close(self) -> None:
        """Take the live line away; may be called twice."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _show(self, progress: Progress) -> None:
        # Rich costs 60 ms, and who has no terminal does without.
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        if self._console is None:
            self._console = Console(
                file=self._stream,
                force_terminal=True,
                no_color=not self._color,
                width=_terminal_width(self._stream),
                markup=False,
                highlight=False,
                emoji=False,
            )
        ended = progress.done + progress.failed
        said = progress_words(progress)
        time, counts = f"vllm: {progress.elapsed_s:.0f} s", f"{ended}/{progress.planned}"
        # What a narrow terminal has no room for: first the bar, then the title.
        room = self._console.width - len(time) - len(counts) - len(said) - 3 * _GAP
        title = self._title if room >= len(self._title) + _GAP else ""
        room -= (len(title) + _GAP) if title else 0
        cells: list[Any] = [Text(time, no_wrap=True)]
        if title:
            cells.append(Text(title, style="bold cyan", no_wrap=True))
        if room >= _LEAST_BAR + _GAP:
            total = max(1, progress.planned)
            cells.append(ProgressBar(total=total, completed=ended, width=min(_BAR, room - _GAP)))
        cells.append(Text(counts, style="cyan", no_wrap=True))
        style = "red" if progress.failed else ""
        cells.append(Text(said, style=style, no_wrap=True, overflow="ellipsis"))
        row = Table.grid(padding=(0, _GAP, 0, 0))
        row.add_row(*cells)
        if self._live is None:
            self._live = Live(
                row,
                console=self._console,
                transient=True,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        else:
            self._live.update(row)

    def _say(self, text: str) -> None:
        line = f"vllm: {text}\n"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        self._stream.flush()


def _terminal_width(stream: TextIO) -> int | None:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
