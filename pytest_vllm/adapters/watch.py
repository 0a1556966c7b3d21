"""Watch a starting server: its log, its exit and the clock, also while a request is under way."""

from __future__ import annotations

import os
import re
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.http import UNSET
from pytest_vllm.adapters.knowledge import (
    known_head_counts,
    known_model_ids,
    known_weight_sizes,
    signatures,
)
from pytest_vllm.adapters.transfer import follow_download
from pytest_vllm.domain.diagnosis import FatalWatch, ServerEnd, diagnose, log_tail
from pytest_vllm.domain.errors import LaunchFailed
from pytest_vllm.domain.limits import OPTION, limit_of, spell
from pytest_vllm.domain.reply import Reply, TransportFailure
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vllm.adapters.backends import Backend, ExitStatus
    from pytest_vllm.adapters.http import Transport
    from pytest_vllm.adapters.startup import Startup
    from pytest_vllm.domain.figures import Context
    from pytest_vllm.domain.finding import Diagnosis
    from pytest_vllm.domain.target import Target

_POLL_S = 0.1
_DEATH_S = 2.0
_FATAL_S = 1.5
_CAUSE = 400
_LINE = 160
_GIB = 2**30
_SILENT = "the log names no cause"
# What an engine that waits repeats, and the server's note of our own question.
_IDLE_CHATTER = re.compile(r"No available shared memory broadcast block|GET /health HTTP")
OWN_LOG = "read server.log in the evidence folder"


class Watch:
    """Asks the server while looking at its log, its exit and the clock.

    Args:
        backend: The server.
        target: What it is; holds the limits.
        startup: Its start.
        context: What is known of host and model, for diagnoses.
        sleep: Waits for some seconds.

    Attributes:
        seen: What a failure of the overall limit says about the server.
        healthy: Whether it answered that it is up; from then on it may log and be silent as it
            likes.
    """

    def __init__(
        self,
        backend: Backend,
        target: Target,
        startup: Startup,
        *,
        context: Context,
        sleep: Callable[[float], None],
    ) -> None:
        self.backend = backend
        self.seen = "the server does not listen yet"
        self.healthy = False
        self._startup = startup
        self._sleep = sleep
        self._limit_s = target.seconds("timeout")
        self._given = target.phase_limits
        self._fatal = FatalWatch(signatures())
        self._fatal_s: float | None = None
        self._context = _complete(context, target)
        self._bytes_arrive = follow_download(target, startup, os.environ)
        self._begun_s = self._active_s = startup.elapsed_s
        self._read = 0

    @property
    def phase(self) -> str:
        """The phase that lasts."""
        return self._startup.phase

    def limit_of(self, phase: str) -> float:
        """Return how many seconds a phase may pass without a sign of life."""
        weights = self._startup.facts.checkpoint_gib
        if weights is None and self._context.weights_bytes is not None:
            weights = self._context.weights_bytes / _GIB
        return limit_of(phase, self._given, weights_gib=weights)

    def longer(self, phase: str) -> str:
        """Say by which option a phase gets twice the time that it has."""
        option = f"{OPTION}={spell(phase)}={2 * self.limit_of(phase):g}"
        return f"if it only needs longer: {option}"

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
        """Read the log, tell what is new, and fail on a death, a fatal line or a limit."""
        self._follow_log()
        if self._bytes_arrive():
            self._active_s = self._startup.elapsed_s
        self._startup.show()
        status = self.backend.exit_status()
        if status is not None:
            self._follow_log()
            raise self._died(status)
        if self.healthy:
            self._check_overall()
            return
        elapsed = self._startup.elapsed_s
        if self._fatal_s is not None and elapsed - self._fatal_s > _FATAL_S:
            raise self._doomed()
        self._check_overall()
        limit_s = self.limit_of(self._startup.phase)
        if self.backend.owned and elapsed - self._active_s > limit_s:
            raise self._hangs(elapsed - self._active_s, limit_s)

    def _check_overall(self) -> None:
        elapsed = self._startup.elapsed_s - self._begun_s
        if elapsed > self._limit_s:
            raise self.failed(
                f"vLLM was not ready after {elapsed:.0f} s (--vllm-timeout={self._limit_s:g}); "
                f"phase {self._startup.phase}, last seen: {self.seen}",
                advice="raise --vllm-timeout if the log shows progress; " + OWN_LOG,
            )

    def _follow_log(self) -> None:
        log = self.backend.log
        new = list(log[self._read : len(log)])
        self._read += len(new)
        for line in new:
            is_new = self._startup.read(line.text)
            if is_new or not _IDLE_CHATTER.search(line.text):
                self._active_s = self._startup.elapsed_s
            if not self.healthy and self._fatal_s is None and self._fatal.feed(line.text):
                self._fatal_s = self._startup.elapsed_s

    def await_death(self) -> None:
        """Give a server that has just failed a moment to die, which tells more than its reply."""
        end = self._startup.clock() + _DEATH_S
        while self.backend.owned and self._startup.clock() < end:
            self.step()
            self.pause()

    def _died(self, status: ExitStatus) -> LaunchFailed:
        found = self._diagnose(server_end(status))
        ended = f"vLLM ended with exit code {status.code}{_signal_name(status.code)}"
        if status.code == 0:
            ended += " (a failure too: nobody stopped it)"
        ended += f" in phase {self._startup.phase}"
        ended += f" [{status.note}]" if status.note else ""
        return self._diagnosed(found, ended, code=status.code)

    def _doomed(self) -> LaunchFailed:
        """Report a line that leaves no hope; the server may take minutes to end by itself."""
        found = self._diagnose(None)
        return self._diagnosed(found, f"a fatal line of the log in phase {self._startup.phase}")

    def _hangs(self, silent_s: float, limit_s: float) -> LaunchFailed:
        phase = self._startup.phase
        last = one_line(self._startup.last_line, _LINE) or "none"
        found = self._diagnose(ServerEnd(hung=True))
        return self._diagnosed(
            found,
            f"vLLM hangs in phase {phase}: nothing new for {silent_s:.0f} s "
            f"(limit of this phase {limit_s:g} s); {self.seen}; last line: {last}",
            advice=f"{self.longer(phase)}; else look where it stands: py-spy dump --pid PID",
        )

    def _diagnose(self, end: ServerEnd | None) -> tuple[Diagnosis, ...]:
        lines = [line.text for line in self.backend.log]
        return diagnose(lines, signatures(), end=end, context=self._context)

    def _diagnosed(
        self,
        found: Sequence[Diagnosis],
        state: str,
        *,
        advice: str = "",
        code: int | None = None,
    ) -> LaunchFailed:
        """Make a failure out of what was found and the state in which it was."""
        first = found[0] if found else None
        named = first is not None and (first.id is not None or _SILENT not in first.cause)
        if first is not None and named:
            message = f"{one_line(first.cause, _CAUSE)} - {state}"
        else:
            message = f"{state}; {_SILENT}"
        cure = first.cure if first is not None else ""
        fault = first.fault if first is not None else None
        return self.failed(
            message,
            advice="; ".join(text for text in (cure, advice) if text) or OWN_LOG,
            code=code,
            host=fault is not None and not fault.rejects,
            diagnoses=found,
        )

    def failed(
        self,
        message: str,
        *,
        advice: str,
        code: int | None = None,
        host: bool = False,
        diagnoses: Sequence[Diagnosis] = (),
    ) -> LaunchFailed:
        """Make a failure with the phase and the end of the log."""
        return LaunchFailed(
            message,
            advice=advice,
            phase=self._startup.phase,
            exit_code_of_server=code,
            blames_host=host,
            tail=log_tail([line.text for line in self.backend.log]),
            diagnoses=diagnoses,
        )


def _complete(context: Context, target: Target) -> Context:
    """Add what is known of any target."""
    return replace(
        context,
        model=context.model or target.model or "",
        known_weights=context.known_weights or known_weight_sizes(),
        known_heads=context.known_heads or known_head_counts(),
        known_models=context.known_models or known_model_ids(),
    )


def server_end(status: ExitStatus) -> ServerEnd:
    """Return how the server ended; what a backend notes of a signal, the code says, too."""
    notes = [note for note in status.note.split("; ") if note]
    oom = any(note.startswith("OOMKilled") for note in notes)
    said = [note for note in notes if not note.startswith(("OOMKilled", "killed by "))]
    return ServerEnd(exit_code=status.code, oom_killed=oom, error="; ".join(said))


def _signal_name(code: int) -> str:
    try:
        return f" ({signal.Signals(code - 128).name})"
    except ValueError:
        return ""
