"""The line that keeps a person company while a server starts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from pytest_vllm.domain.logline import read_line
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.facts import seconds
from pytest_vllm.reports.startfacts import bar, counted

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_vllm.domain.phases import StartState

_NARROWEST = 20
_HEARTBEAT_S = 60.0
_BAR = 20


def cut(text: Text, width: int, *, always: bool = False) -> Text:
    """Cut a line at `width` cells and mark the cut; `always` marks it in any case."""
    if cell_len(text.plain) <= width - (3 if always else 0):
        return text.append("...") if always else text
    text.truncate(width - 3, overflow="crop")
    return text.append("...")


class StartupView:
    """Shows the phases of a start while it lasts.

    Args:
        stream: Where to write.
        live: Whether the stream is a terminal on which one line can be rewritten.
        color: Whether colours may be used.
    """

    def __init__(self, stream: TextIO, *, live: bool, color: bool) -> None:
        self._stream = stream
        self._console = Console(
            file=stream,
            force_terminal=live,
            no_color=not color,
            width=_terminal_width(stream),
            markup=False,
            highlight=False,
            emoji=False,
        )
        self._spinner = Spinner("line")
        self._live: Live | None = None
        self._wants_live = live and not self._console.is_dumb_terminal
        self._phase = ""
        self._elapsed_s = 0.0
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
        """Close, and after a good start leave one line that says how long it took."""
        was_live = self._live is not None
        self.close()
        if was_live and kind is None:
            self._say(f"{self._phase} after {seconds(self._elapsed_s)}")

    def update(self, state: StartState) -> None:
        """Show the state of the start; without a terminal, when it changes and once a minute."""
        phase, elapsed_s = state.phase, state.elapsed_s
        new, self._phase, self._elapsed_s = phase != self._phase, phase, elapsed_s
        if self._wants_live:
            self._show(state)
        elif new:
            self._spoken_s = elapsed_s
            self._say(f"{elapsed_s:.1f} s  {one_line(phase, 40)}")
        elif elapsed_s - self._spoken_s >= _HEARTBEAT_S:
            self._spoken_s = elapsed_s
            far = f" ({counted(state.progress)})" if state.progress else ""
            note = f" | {line}" if (line := _said(state, 120)) else ""
            self._say(f"{elapsed_s:.1f} s  {one_line(phase, 40)}{far}, still{note}")

    def close(self) -> None:
        """Take the live line away; may be called twice."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _show(self, state: StartState) -> None:
        text = Text(f"vllm: {state.elapsed_s:.0f} s  ")
        text.append(one_line(state.phase, 40), style="bold cyan")
        if state.progress:
            drawn = f"{bar(state.progress, _BAR)} {counted(state.progress)}".strip()
            text.append(f"  {drawn}", style="cyan")
        text.append(self._encodable(f"  {_said(state, 300)}"), style="dim")
        self._spinner.update(text=cut(text, max(self._console.width - 3, _NARROWEST)))
        if self._live is None:
            self._live = Live(
                self._spinner,
                console=self._console,
                transient=True,
                refresh_per_second=8,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _say(self, text: str) -> None:
        self._stream.write(self._encodable(f"vllm: {text}\n"))
        self._stream.flush()

    def _encodable(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)


def _said(state: StartState, limit: int) -> str:
    """Return the last line without what the logger puts before it, which tells a person little."""
    return one_line(read_line(1, state.line).text, limit)


def _terminal_width(stream: TextIO) -> int | None:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
