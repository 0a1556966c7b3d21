"""One server for a whole run: launched once, watched, and stopped whatever happens."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends import Backend, make_backend
from pytest_vllm.adapters.backends.reaper import Reaper
from pytest_vllm.adapters.ready import wait_until_ready
from pytest_vllm.adapters.startup import Startup
from pytest_vllm.domain.errors import HostError, LaunchFailed
from pytest_vllm.domain.finding import Fault
from pytest_vllm.domain.record import Attempt
from pytest_vllm.domain.verdict import StartFailure
from pytest_vllm.plugin.death import look_for_death
from pytest_vllm.plugin.holding import Holding
from pytest_vllm.plugin.sampling import Sampling
from pytest_vllm.plugin.signals import Signals
from pytest_vllm.reports.startup import StartupView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TextIO

    from pytest_vllm.domain.phases import Phase, StartState
    from pytest_vllm.domain.server_facts import ServerFacts
    from pytest_vllm.plugin.state import RunState


class ServerRun:
    """Launches the server of a run and takes it down again.

    Args:
        state: Gets the ready server, or the reason why there is none.
        workdir: Folder of the run.
        run_id: Name of the run.
        terminal: Where start-up phases are shown, `None` for nowhere.
        reaper: Takes away what is left when this process is killed, `None` for an attached server.
    """

    def __init__(
        self,
        state: RunState,
        *,
        workdir: Path,
        run_id: str,
        terminal: TextIO | None,
        reaper: Reaper | None,
    ) -> None:
        self._state = state
        self._workdir = workdir
        self._run_id = run_id
        self._terminal = terminal
        self._signals = Signals()
        self._reaper = reaper
        self._backend = self._make_backend()
        self._holding: Holding | None = None
        self._sampling: Sampling | None = None
        self._stopped = False
        self._ready_at = float("inf")
        self._startup: Startup | None = None
        self._first_log: list[str] = []
        self.problems: list[str] = []

    @property
    def signalled(self) -> int:
        """Number of the signal that ended the run, 0 for none or Ctrl-C."""
        return self._signals.ended_by

    def start(self) -> None:
        """Launch the server and wait until it serves; a failure goes into the state.

        Raises:
            TargetError: The user named something that is not there.
        """
        self._signals.take()
        state = self._state
        self._sampling = sampling = Sampling(state)
        sampling.start()
        try:
            with self._view() as on_phase:
                if self._backend.owned:
                    self._holding = Holding(
                        state.target,
                        run_id=self._run_id,
                        monitor=sampling.monitor,
                        reaper=self._reaper,
                    )
                    state.findings += self._holding.take(Startup(on_phase).say)
                self._launch_twice(on_phase)
        except LaunchFailed as error:
            state.failure = StartFailure(
                kind="host" if error.blames_host else "launch",
                message=error.message,
                advice=error.advice,
                phase=error.phase,
                exit_code=error.exit_code_of_server,
                tail=error.tail,
                diagnosis=error.diagnosis,
                others=error.others,
            )
        except HostError as error:
            state.failure = StartFailure(
                kind="host",
                message=error.message,
                advice=error.advice,
                diagnosis=error.diagnosis,
                others=error.others,
            )
        if self._keeps:
            self._tell_reaper(Reaper.keep)

    def _launch_twice(self, on_phase: Callable[[StartState], None]) -> None:
        """Launch, and once more after a fault that is known to pass on a second try."""
        try:
            self._launch(on_phase)
        except (LaunchFailed, HostError) as error:
            diagnosis = error.diagnosis
            if diagnosis is None or diagnosis.fault is not Fault.FLAKY:
                raise
            self._state.attempts.append(Attempt(diagnosis=diagnosis, phases=self.phases))
            self._backend.stop()
            self._first_log = [line.text for line in self._backend.log]
            self._backend = self._make_backend()
            self._launch(on_phase)

    def _launch(self, on_phase: Callable[[StartState], None]) -> None:
        self._startup = startup = Startup(on_phase)
        self._backend.launch(startup)
        state = self._state
        ready = wait_until_ready(
            self._backend, state.target, startup=startup, context=state.context
        )
        self._state.server, self._ready_at = ready.info, time.time()
        if self._backend.owned:
            launched = self._backend.facts()
            state.server_facts, state.server_pid = startup.facts, launched.get("pid")
            state.container = launched.get("container", "")

    def _make_backend(self) -> Backend:
        return make_backend(
            self._state.target, workdir=self._workdir, run_id=self._run_id, reaper=self._reaper
        )

    @property
    def _keeps(self) -> bool:
        """Whether the server stays when the run ends: only one that was ready."""
        asked = bool(self._state.target.settings["keep"].value)
        return asked and self._state.server is not None and self._state.failure is None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Start-up phases with durations, also those of a start that failed."""
        return self._startup.phases if self._startup is not None else ()

    @property
    def server_facts(self) -> ServerFacts | None:
        """What the server said about itself, `None` when no start was tried."""
        return self._startup.facts if self._startup is not None else None

    def look(self, *, after_failure: bool = False) -> None:
        """Note in the state when the server has ended on its own.

        Args:
            after_failure: Whether a check has just failed: a server that has lost its engine is
                then given the second that it takes to end.
        """
        state = self._state
        if self._stopped or state.gone or state.failure is not None or state.server is None:
            return
        death = look_for_death(
            self._backend, ready_at=self._ready_at, patient=after_failure, context=state.context
        )
        if death is not None:
            state.gone, state.gone_at, state.death = death.said, death.at, death
            state.findings += death.findings

    def stop(self) -> str:
        """Stop the server; return how to stop it by hand when it is kept.

        A second signal cannot break the clean-up, which is bounded in time by the backend.
        """
        if self._stopped:
            return ""
        keeps = self._keeps
        with self._signals.held():
            self._stopped = True
            if keeps:
                self._backend.keep()
            left = () if keeps else self._stop_backend()
        if not left and not keeps:
            self._await_memory()
        with self._signals.held():
            if self._sampling is not None:
                self._sampling.stop()  # so the samples show how the memory comes back
            if self._holding is not None:
                self._holding.give_back()
            # What could not be removed now, the reaper tries again when we are gone.
            self._tell_reaper(Reaper.abandon if left else Reaper.keep if keeps else Reaper.done)
        self._signals.give_back()
        return self._backend.stop_hint() if keeps and self._backend.owned else ""

    def _stop_backend(self) -> tuple[str, ...]:
        """Stop the server; return why something is left, if so."""
        try:
            self._backend.stop()
        except HostError as error:
            self.problems.append(str(error))
            return (error.message,)
        return ()

    def _await_memory(self) -> None:
        """Wait until the memory of the GPUs is back; a signal cuts the wait."""
        if self._holding is None:
            return
        said: list[str] = []

        def tell(text: str) -> None:
            if not said and self._terminal is not None:
                self._terminal.write(f"\nvllm: {text}\n")
                self._terminal.flush()
            said.append(text)

        try:
            self._state.findings += self._holding.check_release(tell)
        except KeyboardInterrupt:
            self.problems.append(f"the wait for the GPUs' memory was cut: {said[-1:]}")

    def _tell_reaper(self, word: Callable[[Reaper], None]) -> None:
        if self._reaper is not None:
            word(self._reaper)

    def facts(self) -> dict[str, Any]:
        """Return the facts of the launch."""
        return self._backend.facts()

    def evidence(self) -> tuple[dict[str, str], list[str]]:
        """Return evidence files by name, and the log."""
        files = self._backend.files()
        if self._first_log:
            files["server.attempt-1.log"] = "".join(f"{line}\n" for line in self._first_log)
        return files, [line.text for line in self._backend.log]

    @contextmanager
    def _view(self) -> Iterator[Callable[[StartState], None]]:
        if self._terminal is None:
            yield lambda _: None
            return
        live = self._terminal.isatty()
        with StartupView(self._terminal, live=live, color=live) as view:
            yield view.update
