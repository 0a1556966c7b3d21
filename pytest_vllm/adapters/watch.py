"""Watch a starting server: its log, its exit and the clock, also while a request is under way."""

from __future__ import annotations

import re
import signal
import threading
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.http import UNSET
from pytest_vllm.domain.diagnosis import advise, blames_host, log_tail, root_cause
from pytest_vllm.domain.errors import LaunchFailed
from pytest_vllm.domain.phases import PhaseTracker, clean
from pytest_vllm.domain.reply import Reply, TransportFailure
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.adapters.backends import Backend, ExitStatus
    from pytest_vllm.adapters.http import Transport
    from pytest_vllm.domain.phases import Phase

STALL_S = {
    "start": 600.0,
    "process": 600.0,
    "config": 900.0,
    "engine": 900.0,
    "load": 1800.0,
    "compile": 1800.0,
    "kv cache": 900.0,
    "graph capture": 900.0,
    "engine ready": 600.0,
    "api up": 300.0,
}
"""Seconds that each start-up phase may pass without a new log line and without the next phase.

Downloads and imports from a network disk happen before `load`; Docker hands on a progress bar only
when its line ends, so loading and AITER's compilation (250 s seen for one module) get most.
"""
_POLL_S = 0.1
_DEATH_S = 2.0
_SHOW_S = 0.25
_CAUSE = 400
_IDLE_CHATTER = re.compile(r"No available shared memory broadcast block")
OWN_LOG = "read server.log in the evidence folder"


class Watch:
    """Asks the server while looking at its log, its exit and the clock.

    Args:
        backend: The server.
        limit_s: Overall limit in seconds.
        on_phase: Told phase, elapsed seconds and last log line.
        clock: Seconds that only grow.
        sleep: Waits for some seconds.

    Attributes:
        seen: What a failure of the overall limit says about the server.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        limit_s: float,
        on_phase: Callable[[str, float, str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.backend = backend
        self._limit_s = limit_s
        self._on_phase = on_phase
        self._clock = clock
        self._sleep = sleep
        self._tracker = PhaseTracker()
        self._start = clock()
        self._active_s = 0.0
        self._shown_s = -_SHOW_S
        self._read = 0
        self._last_line = ""
        self.seen = "the server does not listen yet"

    @property
    def _elapsed_s(self) -> float:
        return self._clock() - self._start

    def enter(self, phase: str) -> None:
        """Begin a phase that the log does not tell."""
        self._tracker.enter(phase, self._elapsed_s)
        self.show(force=True)

    def finish(self) -> tuple[Phase, ...]:
        """End the last phase and return all."""
        return self._tracker.phases(self._elapsed_s)

    def pause(self) -> None:
        """Wait until the next look is due."""
        self._sleep(_POLL_S)

    def ask(
        self, http: Transport, method: str, path: str, json: Any = UNSET
    ) -> Reply | TransportFailure:
        """Send a request in a thread, so that a death or a limit ends the wait at once."""
        answers: list[Reply | TransportFailure | Exception] = []

        def send() -> None:
            try:
                answers.append(http.send(method, path, json=json))
            except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
                answers.append(error)

        thread = threading.Thread(target=send, name=f"vllm-ready {path}", daemon=True)
        thread.start()
        thread.join(_POLL_S)
        while thread.is_alive():
            self.step()
            thread.join(_POLL_S)
        self.step()
        answer = answers[0]
        if isinstance(answer, Reply | TransportFailure):
            return answer
        raise answer

    def step(self) -> None:
        """Read the log, tell what is new, and fail on a death or a limit."""
        self._follow_log()
        self.show()
        status = self.backend.exit_status()
        if status is not None:
            self._follow_log()
            raise self._died(status)
        phase, elapsed = self._tracker.current, self._elapsed_s
        if elapsed > self._limit_s:
            raise self.failed(
                f"vLLM was not ready after {elapsed:.0f} s (--vllm-timeout={self._limit_s:g}); "
                f"phase {phase}, last seen: {self.seen}",
                advice="raise --vllm-timeout if the log shows progress; " + OWN_LOG,
            )
        stall_s = STALL_S.get(phase, float("inf")) if self.backend.owned else float("inf")
        if elapsed - self._active_s > stall_s:
            raise self.failed(
                f"vLLM hangs in phase {phase}: no new log line for "
                f"{elapsed - self._active_s:.0f} s (limit of this phase {stall_s:g} s)",
                advice=OWN_LOG + " and look where it stands: py-spy dump --pid PID",
            )

    def _follow_log(self) -> None:
        log = self.backend.log
        new = list(log[self._read : len(log)])
        self._read += len(new)
        for line in new:
            text = clean(line.text)
            if self._tracker.feed(text, self._elapsed_s):
                self.show(force=True)
            if text.strip():
                self._last_line = text
            if not _IDLE_CHATTER.search(text):
                self._active_s = self._elapsed_s

    def show(self, *, force: bool = False) -> None:
        """Tell where the start is, a few times a second, or at once."""
        elapsed = self._elapsed_s
        if force or elapsed - self._shown_s >= _SHOW_S:
            self._shown_s = elapsed
            self._on_phase(self._tracker.current, elapsed, self._last_line)

    def await_death(self) -> None:
        """Give a server that has just failed a moment to die, which tells more than its reply."""
        end = self._clock() + _DEATH_S
        while self.backend.owned and self._clock() < end:
            self.step()
            self.pause()

    def _died(self, status: ExitStatus) -> LaunchFailed:
        cause = root_cause([line.text for line in self.backend.log])
        ended = f"vLLM ended with exit code {status.code}{_signal_name(status.code)}"
        if status.code == 0:
            ended += " (a failure too: nobody stopped it)"
        ended += f" in phase {self._tracker.current}"
        ended += f" [{status.note}]" if status.note else ""
        if cause:
            message = f"{one_line(cause, _CAUSE)} - {ended}"
        else:
            message = f"{ended}; its log names no cause"
        return self.failed(
            message,
            advice=advise(cause) or OWN_LOG,
            code=status.code,
            host=blames_host(cause) or blames_host(status.note),
        )

    def failed(
        self, message: str, *, advice: str, code: int | None = None, host: bool = False
    ) -> LaunchFailed:
        """Make a failure with the phase and the end of the log."""
        return LaunchFailed(
            message,
            advice=advice,
            phase=self._tracker.current,
            exit_code_of_server=code,
            blames_host=host,
            tail=log_tail([line.text for line in self.backend.log]),
        )


def _signal_name(code: int) -> str:
    try:
        return f" ({signal.Signals(code - 128).name})"
    except ValueError:
        return ""
