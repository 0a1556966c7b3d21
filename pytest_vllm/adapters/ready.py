"""Wait until a server serves: `/health` races against its exit, then one token proves it.

A death is reported within a second of it, a hang by phase; nothing is ever a bare "timeout".
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_vllm.adapters.http import UNSET, Transport
from pytest_vllm.domain.diagnosis import advise, log_tail, root_cause
from pytest_vllm.domain.errors import HostError, LaunchFailed, TargetError
from pytest_vllm.domain.phases import PhaseTracker, clean
from pytest_vllm.domain.reply import Reply, TransportFailure
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.adapters.backends import Backend, ExitStatus
    from pytest_vllm.domain.phases import Phase
    from pytest_vllm.domain.target import Target

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
FIRST_TOKEN_S = 600.0
"""Seconds for the first completion, which may compile kernels."""
PROBE_S = 10.0
"""Seconds for any other request."""
_POLL_S = 0.1
_DEATH_S = 2.0
_SHOW_S = 0.25
_BODY_LIMIT = 2**20
_SEEN = 80
_CAUSE = 400
_IDLE_CHATTER = re.compile(r"No available shared memory broadcast block")
_NOT_VLLM = "point --vllm-url at a vLLM server, without any path: http://HOST:PORT"
_OWN_LOG = "read server.log in the evidence folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyServer:
    """A server that has produced a token.

    Attributes:
        info: What is known about it.
        phases: Its start-up phases; seconds count from the call of `wait_until_ready`.
    """

    info: ServerInfo
    phases: tuple[Phase, ...]


def wait_until_ready(
    backend: Backend,
    target: Target,
    *,
    on_phase: Callable[[str, float, str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ReadyServer:
    """Wait until a launched or attached server serves.

    Args:
        backend: The server; `launch` has returned.
        target: What it is; holds the overall limit and the name of the API key's variable.
        on_phase: Called with phase, elapsed seconds and last log line: when the phase changes, and
            a few times a second.
        clock: Seconds that only grow.
        sleep: Waits for some seconds.

    Raises:
        LaunchFailed: The server died, hung or answered what no vLLM server answers.
        TargetError: The URL to attach to is no vLLM server, or refuses the key.
        HostError: The URL to attach to cannot be reached.
    """
    watch = _Watch(backend, target, on_phase=on_phase, clock=clock, sleep=sleep)
    url = watch.wait_for_health()
    watch.enter("ready")
    key = watch.api_key
    with closing(
        Transport(url, api_key=key, timeout_s=PROBE_S, max_body_bytes=_BODY_LIMIT)
    ) as http:
        models = watch.read_models(http)
        version = watch.read_version(http)
    model = str(models[0]["id"])
    watch.enter("first token")
    with closing(
        Transport(url, api_key=key, timeout_s=FIRST_TOKEN_S, max_body_bytes=_BODY_LIMIT)
    ) as http:
        watch.prove_token(http, model)
        absent = watch.probe_chat(http, model)
    length = models[0].get("max_model_len")
    info = ServerInfo(
        url=url,
        model=model,
        served_names=tuple(str(item["id"]) for item in models),
        max_model_len=length if isinstance(length, int) else None,
        version=version,
        capabilities=() if absent else ("chat",),
        absent={"chat": absent} if absent else {},
        owned=backend.owned,
        api_key_env=watch.key_name if key is not None else "",
        launch_model=str(backend.facts().get("model", "")),
    )
    return ReadyServer(info=info, phases=watch.finish())


class _Watch:
    """Asks the server while looking at its log, its exit and the clock."""

    def __init__(
        self,
        backend: Backend,
        target: Target,
        *,
        on_phase: Callable[[str, float, str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._backend = backend
        self._limit_s = target.seconds("timeout")
        self._on_phase = on_phase
        self._clock = clock
        self._sleep = sleep
        self._tracker = PhaseTracker()
        self._start = clock()
        self._active_s = 0.0
        self._shown_s = -_SHOW_S
        self._read = 0
        self._last_line = ""
        self._seen = "the server does not listen yet"
        self.key_name = target.text("api-key-env")
        self.api_key = os.environ.get(self.key_name) or None

    @property
    def _elapsed_s(self) -> float:
        return self._clock() - self._start

    def enter(self, phase: str) -> None:
        """Begin a phase that the log does not tell."""
        self._tracker.enter(phase, self._elapsed_s)
        self._show(force=True)

    def finish(self) -> tuple[Phase, ...]:
        """End the last phase and return all."""
        return self._tracker.phases(self._elapsed_s)

    def wait_for_health(self) -> str:
        """Return the server's URL as soon as `/health` answers 200."""
        self._show(force=True)
        while (url := self._backend.url) is None:
            self._step()
            self._sleep(_POLL_S)
        with closing(
            Transport(url, api_key=self.api_key, timeout_s=PROBE_S, max_body_bytes=_BODY_LIMIT)
        ) as http:
            while True:
                answer = self._ask(http, "GET", "/health")
                if isinstance(answer, Reply) and answer.status == 200:  # noqa: PLR2004
                    return url
                if not self._backend.owned:
                    self._refuse_attached(url, answer)
                self._seen = f"/health: {_describe(answer)}"
                self._step()
                self._sleep(_POLL_S)

    def read_models(self, http: Transport) -> list[dict[str, Any]]:
        """Return the entries of `/v1/models`, at least one."""
        reply = self._expect_200(self._ask(http, "GET", "/v1/models"), http, "/v1/models")
        document = _json(reply)
        models = document.get("data") if isinstance(document, dict) else None
        if (
            not isinstance(models, list)
            or not models
            or not all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in models)
        ):
            self._refuse(f"{http.base_url}/v1/models lists no model: {_describe(reply)}")
        return models

    def read_version(self, http: Transport) -> str:
        """Return what `/version` says, which only vLLM serves in this form."""
        reply = self._expect_200(self._ask(http, "GET", "/version"), http, "/version")
        document = _json(reply)
        version = document.get("version") if isinstance(document, dict) else None
        if not isinstance(version, str):
            self._refuse(f"{http.base_url}/version names no version: {_describe(reply)}")
        return version

    def prove_token(self, http: Transport, model: str) -> None:
        """Ask for one token and insist on it."""
        body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        answer = self._ask(http, "POST", "/v1/completions", json=body)
        reply = self._expect_200(answer, http, "the first completion (/v1/completions)")
        document = _json(reply)
        usage = document.get("usage") if isinstance(document, dict) else None
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        choices = document.get("choices") if isinstance(document, dict) else None
        if tokens != 1 or not isinstance(choices, list) or len(choices) != 1:
            self._refuse(f"the first completion did not give one token: {_describe(reply)}")

    def probe_chat(self, http: Transport, model: str) -> str:
        """Return why there is no chat, empty when there is; a broken chat counts as present."""
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
        answer = self._ask(http, "POST", "/v1/chat/completions", json=body)
        if not isinstance(answer, Reply):
            self._await_death()
            return ""
        document = _json(answer)
        if not isinstance(document, dict):
            return ""
        if answer.status == 404 and "detail" in document:  # noqa: PLR2004
            return "the server has no route /v1/chat/completions"
        error = document.get("error")
        message = error.get("message") if isinstance(error, dict) else document.get("message")
        if answer.status == 400 and "chat template" in str(message):  # noqa: PLR2004
            return f"the model has no chat template ({one_line(str(message), 200)})"
        return ""

    def _ask(
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
            self._step()
            thread.join(_POLL_S)
        self._step()
        answer = answers[0]
        if isinstance(answer, Reply | TransportFailure):
            return answer
        raise answer

    def _step(self) -> None:
        """Read the log, tell what is new, and fail on a death or a limit."""
        self._follow_log()
        self._show()
        status = self._backend.exit_status()
        if status is not None:
            self._follow_log()
            raise self._died(status)
        phase, elapsed = self._tracker.current, self._elapsed_s
        if elapsed > self._limit_s:
            raise self._failed(
                f"vLLM was not ready after {elapsed:.0f} s (--vllm-timeout={self._limit_s:g}); "
                f"phase {phase}, last seen: {self._seen}",
                advice="raise --vllm-timeout if the log shows progress; " + _OWN_LOG,
            )
        stall_s = STALL_S.get(phase, float("inf")) if self._backend.owned else float("inf")
        if elapsed - self._active_s > stall_s:
            raise self._failed(
                f"vLLM hangs in phase {phase}: no new log line for "
                f"{elapsed - self._active_s:.0f} s (limit of this phase {stall_s:g} s)",
                advice=_OWN_LOG + " and look where it stands: py-spy dump --pid PID",
            )

    def _follow_log(self) -> None:
        log = self._backend.log
        new = list(log[self._read : len(log)])
        self._read += len(new)
        for line in new:
            text = clean(line.text)
            if self._tracker.feed(text, self._elapsed_s):
                self._show(force=True)
            if text.strip():
                self._last_line = text
            if not _IDLE_CHATTER.search(text):
                self._active_s = self._elapsed_s

    def _show(self, *, force: bool = False) -> None:
        elapsed = self._elapsed_s
        if force or elapsed - self._shown_s >= _SHOW_S:
            self._shown_s = elapsed
            self._on_phase(self._tracker.current, elapsed, self._last_line)

    def _await_death(self) -> None:
        """Give a server that has just failed a moment to die, which tells more than its reply."""
        end = self._clock() + _DEATH_S
        while self._backend.owned and self._clock() < end:
            self._step()
            self._sleep(_POLL_S)

    def _died(self, status: ExitStatus) -> LaunchFailed:
        cause = root_cause([line.text for line in self._backend.log])
        ended = f"vLLM ended with exit code {status.code}{_signal_name(status.code)}"
        if status.code == 0:
            ended += " (a failure too: nobody stopped it)"
        ended += f" in phase {self._tracker.current}"
        ended += f" [{status.note}]" if status.note else ""
        if cause:
            message = f"{one_line(cause, _CAUSE)} - {ended}"
        else:
            message = f"{ended}; its log names no cause"
        return self._failed(message, advice=advise(cause) or _OWN_LOG, code=status.code)

    def _failed(self, message: str, *, advice: str, code: int | None = None) -> LaunchFailed:
        return LaunchFailed(
            message,
            advice=advice,
            phase=self._tracker.current,
            exit_code_of_server=code,
            tail=log_tail([line.text for line in self._backend.log]),
        )

    def _expect_200(self, answer: Reply | TransportFailure, http: Transport, what: str) -> Reply:
        """Return a reply of status 200, or raise what anything else means."""
        if isinstance(answer, Reply) and answer.status == 200:  # noqa: PLR2004
            return answer
        self._await_death()
        if isinstance(answer, Reply) and answer.status in (401, 403):
            self._refuse_key(http.base_url, answer)
        server_fault = isinstance(answer, TransportFailure) or answer.status >= 500  # noqa: PLR2004
        message = f"{http.base_url} is healthy but {what} gave {_describe(answer)}"
        if server_fault:
            raise self._failed(message, advice=_OWN_LOG if self._backend.owned else "read its log")
        return self._refuse(message)

    def _refuse_attached(self, url: str, answer: Reply | TransportFailure) -> NoReturn:
        """Raise what a `/health` of somebody else's server means that is not 200."""
        if isinstance(answer, TransportFailure):
            raise HostError(
                f"{url} cannot be tested: {_describe(answer)}",
                advice="start the server, or correct --vllm-url",
            )
        if answer.status in (401, 403):
            self._refuse_key(url, answer)
        message = f"{url}/health gave {_describe(answer)}"
        if answer.status >= 500:  # noqa: PLR2004
            raise self._failed(f"the server is not healthy: {message}", advice="read its log")
        self._refuse(message)

    def _refuse_key(self, url: str, reply: Reply) -> NoReturn:
        held = "refuses the key in" if self.api_key else "wants an API key, and there is none in"
        message = f"{url} {held} {self.key_name} (status {reply.status})"
        advice = f"export {self.key_name}=KEY, or name the variable with --vllm-api-key-env=NAME"
        if self._backend.owned:
            raise self._failed(message, advice=advice)
        raise TargetError(message, advice=advice)

    def _refuse(self, message: str) -> NoReturn:
        """Raise that this is not the server we need."""
        if self._backend.owned:
            raise self._failed(f"not a vLLM server for text: {message}", advice=_OWN_LOG)
        raise TargetError(f"not a vLLM server for text: {message}", advice=_NOT_VLLM)


def _describe(answer: Reply | TransportFailure) -> str:
    if isinstance(answer, TransportFailure):
        return f"no reply ({answer.message})"
    kind = answer.content_type or "no content type"
    return f"status {answer.status}, {kind}, {one_line(answer.text, _SEEN)!r}"


def _json(reply: Reply) -> Any:
    try:
        return reply.json
    except AssertionError:
        return None


def _signal_name(code: int) -> str:
    try:
        return f" ({signal.Signals(code - 128).name})"
    except ValueError:
        return ""
