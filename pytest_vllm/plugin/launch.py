"""One server for a whole run: launched once, watched, and stopped whatever happens."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends import Backend, make_backend
from pytest_vllm.adapters.gpus import probe
from pytest_vllm.adapters.ready import wait_until_ready
from pytest_vllm.domain.errors import HostError, LaunchFailed
from pytest_vllm.domain.phases import PhaseTracker
from pytest_vllm.domain.verdict import StartFailure
from pytest_vllm.reports.startup import StartupView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType
    from typing import TextIO

    from pytest_vllm.domain.phases import Phase
    from pytest_vllm.plugin.state import RunState

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerRun:
    """Launches the server of a run and takes it down again.

    Args:
        state: Gets the ready server, or the reason why there is none.
        workdir: Folder of the run.
        run_id: Name of the run.
        terminal: Where start-up phases are shown, `None` for nowhere.
    """

    def __init__(
        self, state: RunState, *, workdir: Path, run_id: str, terminal: TextIO | None
    ) -> None:
        self._state = state
        self._backend: Backend = make_backend(state.target, workdir=workdir, run_id=run_id)
        self._terminal = terminal
        self._previous: dict[int, Any] = {}
        self._stopped = False
        self._tracker = PhaseTracker()
        self._elapsed_s = 0.0
        self._ready_phases: tuple[Phase, ...] = ()
        self.signalled = 0
        self.problems: list[str] = []

    def start(self) -> None:
        """Launch the server and wait until it serves; a failure goes into the state.

        Raises:
            TargetError: The user named something that is not there.
        """
        self._take_signals()
        state = self._state
        state.gpus = dict(probe(state.target.text("monitor")).facts())
        try:
            with self._view() as on_phase:
                self._backend.launch()
                ready = wait_until_ready(self._backend, state.target, on_phase=on_phase)
            state.server, self._ready_phases = ready.info, ready.phases
        except LaunchFailed as error:
            state.failure = StartFailure(
                kind="host" if error.blames_host else "launch",
                message=error.message,
                advice=error.advice,
                phase=error.phase,
                exit_code=error.exit_code_of_server,
                tail=error.tail,
            )
        except HostError as error:
            state.failure = StartFailure(kind="host", message=error.message, advice=error.advice)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Start-up phases with durations, also those of a start that failed."""
        return self._ready_phases or self._tracker.phases(self._elapsed_s)

    def look(self) -> None:
        """Note in the state when the server has ended on its own."""
        if self._stopped or self._state.gone or self._state.failure is not None:
            return
        try:
            status = self._backend.exit_status()
        except HostError as error:
            self._state.gone = error.message
            return
        if status is not None:
            note = f" ({status.note})" if status.note else ""
            self._state.gone = f"the server ended in mid-run with exit code {status.code}{note}"

    def stop(self) -> str:
        """Stop the server; return how to stop it by hand when it is kept.

        A second signal cannot break the clean-up, which is bounded in time by the backend.
        """
        if self._stopped:
            return ""
        with self._signals_held():
            self._stopped = True
            failed = self._state.failure is not None
            keep = bool(self._state.target.settings["keep"].value) and not failed
            if not keep:
                self._stop_backend()
        self._give_signals_back()
        return self._backend.stop_hint() if keep and self._backend.owned else ""

    def _stop_backend(self) -> None:
        try:
            self._backend.stop()
        except HostError as error:
            self.problems.append(str(error))

    def facts(self) -> dict[str, Any]:
        """Return the facts of the launch."""
        return self._backend.facts()

    def evidence(self) -> tuple[dict[str, str], list[str]]:
        """Return evidence files by name, and the log."""
        return self._backend.files(), [line.text for line in self._backend.log]

    @contextmanager
    def _view(self) -> Iterator[Callable[[str, float, str], None]]:
        if self._terminal is None:
            yield self._note
            return
        live = self._terminal.isatty()
        with StartupView(self._terminal, live=live, color=live) as view:

            def show(phase: str, elapsed_s: float, line: str) -> None:
                self._note(phase, elapsed_s, line)
                view.update(phase, elapsed_s, line)

            yield show

    def _note(self, phase: str, elapsed_s: float, _line: str) -> None:
        self._elapsed_s = elapsed_s
        self._tracker.enter(phase, elapsed_s)

    def _take_signals(self) -> None:
        """Make SIGTERM and SIGHUP end the run as Ctrl-C does, so that it cleans up."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS[1:]:
            self._previous[number] = signal.signal(number, self._end)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.signalled = number
        raise KeyboardInterrupt

    def _give_signals_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextmanager
    def _signals_held(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        held = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in held.items():
                signal.signal(number, handler)
