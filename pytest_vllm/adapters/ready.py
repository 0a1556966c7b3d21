"""Wait until a server serves: `/health` races against its exit, then one token proves it.

A death is reported within a second of it, a hang by phase; nothing is ever a bare "timeout".
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_vllm.adapters.capabilities import probe_capabilities
from pytest_vllm.adapters.http import UNSET, Transport
from pytest_vllm.adapters.startup import Startup
from pytest_vllm.adapters.watch import OWN_LOG, Watch
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.figures import Context
from pytest_vllm.domain.reply import Reply, TransportFailure
from pytest_vllm.domain.server import FIRST_PROMPT, ServerInfo
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.adapters.backends import Backend
    from pytest_vllm.domain.phases import Phase, StartState
    from pytest_vllm.domain.target import Target

PROBE_S = 10.0
"""Seconds for a request that generates nothing, until it is sent again."""
CAPABILITY_S = 30.0
"""Seconds for a question about a capability, which is asked twice.

No answer then counts as "present", also of the rest."""
_BODY_LIMIT = 2**20
_TOOL_FLAGS = ("--enable-auto-tool-choice", "--tool-call-parser")
_SEEN = 80
_NOT_VLLM = "point --vllm-url at a vLLM server, without any path: http://HOST:PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyServer:
    """A server that has produced a token.

    Attributes:
        info: What is known about it.
        phases: Its start-up phases; seconds count from the beginning of its start.
    """

    info: ServerInfo
    phases: tuple[Phase, ...]


def wait_until_ready(  # noqa: PLR0913 - the parts of a start
    backend: Backend,
    target: Target,
    *,
    on_phase: Callable[[StartState], None] = lambda _: None,
    startup: Startup | None = None,
    context: Context | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ReadyServer:
    """Wait until a launched or attached server serves.

    Args:
        backend: The server; `launch` has returned.
        target: What it is; holds the limits and the name of the API key's variable.
        on_phase: Told where the start is: when the phase changes, and a few times a second.
        startup: The start, when something of it is over; it has `on_phase` and `clock` already.
        context: What is known of host and model, for the diagnosis of a failure.
        clock: Seconds that only grow.
        sleep: Waits for some seconds.

    Raises:
        LaunchFailed: The server died, hung or answered what no vLLM server answers.
        TargetError: The URL to attach to is no vLLM server, or refuses the key.
        HostError: The URL to attach to cannot be reached.
    """
    startup = startup or Startup(on_phase, clock=clock)
    watch = Watch(backend, target, startup, context=context or Context(), sleep=sleep)
    interview = _Interview(watch, key_name=target.text("api-key-env"), clock=startup.clock)
    startup.show(force=True)
    url = interview.wait_for_health()
    watch.healthy = True
    startup.enter("ready")
    models = interview.read_models()
    version = interview.read_version()
    model = str(models[0]["id"])
    startup.enter("first token")
    first_text = interview.prove_token(model)
    phases = startup.finish()
    startup.say("asking what the server can do")
    limit_s = min(CAPABILITY_S, target.seconds("request-timeout"))
    no_chat = interview.probe_chat(model, target.seconds("request-timeout"))
    reasons = interview.probe_rest(limit_s, model=model, version=version, no_chat=no_chat)
    if any(target.serve_args.has(flag) for flag in _TOOL_FLAGS):
        reasons["tools"] = ""  # asked for at launch: what the server says now is judged
    if target.serve_args.has("--disable-log-stats"):
        reasons["metrics"] = "the server was started with --disable-log-stats"
    length = models[0].get("max_model_len")
    info = ServerInfo(
        url=url,
        model=model,
        served_names=tuple(str(item["id"]) for item in models),
        max_model_len=length if isinstance(length, int) else None,
        version=version,
        capabilities=tuple(name for name, reason in reasons.items() if not reason),
        absent={name: reason for name, reason in reasons.items() if reason},
        owned=backend.owned,
        first_text=first_text,
        api_key_env=interview.key_name if interview.api_key else "",
        launch_model=str(backend.facts().get("model", "")),
    )
    return ReadyServer(info=info, phases=phases)


class _Interview:
    """The questions that a server must answer before it counts as ready."""

    def __init__(self, watch: Watch, *, key_name: str, clock: Callable[[], float]) -> None:
        self._watch = watch
        self._clock = clock
        self.url = ""
        self.key_name = key_name
        self.api_key = os.environ.get(key_name) or None
        self._silence: TransportFailure | None = None

    def connect(self, url: str, *, timeout_s: float) -> closing[Transport]:
        """Return a transport that is closed at the end of its block."""
        return closing(
            Transport(url, api_key=self.api_key, timeout_s=timeout_s, max_body_bytes=_BODY_LIMIT)
        )

    def wait_for_health(self) -> str:
        """Return the server's URL as soon as `/health` answers 200."""
        while (url := self._watch.backend.url) is None:
            self._watch.step()
            self._watch.pause()
        while not self._becomes_healthy(url):
            pass
        return url

    def _becomes_healthy(self, url: str) -> bool:
        """Ask until `/health` answers 200, or is silent: a transport that met silence gives up."""
        with self.connect(url, timeout_s=PROBE_S) as http:
            self.url = http.base_url
            while True:
                answer = self._watch.ask(http, "GET", "/health")
                if isinstance(answer, Reply) and answer.status == 200:  # noqa: PLR2004
                    return True
                if not self._watch.backend.owned:
                    self._refuse_attached(url, answer)
                self._watch.seen = f"/health: {_describe(answer)}"
                self._watch.step()
                self._watch.pause()
                if _is_late(answer):
                    return False

    def ask(
        self, method: str, path: str, json: Any = UNSET, *, timeout_s: float, within_s: float = 0.0
    ) -> Reply | TransportFailure:
        """Send a request, and again while its time runs out: a busy host may stand still as long.

        Args:
            method: HTTP method.
            path: Path with a leading slash.
            json: Body as a value.
            timeout_s: Seconds for one try.
            within_s: Seconds after which no further try is begun.
        """
        end = self._clock() + within_s
        while True:
            with self.connect(self.url, timeout_s=timeout_s) as http:
                answer = self._watch.ask(http, method, path, json=json)
            if not _is_late(answer) or self._clock() >= end:
                return answer
            self._watch.pause()

    def _look(self, path: str) -> Reply:
        """Return what a path says that a server has ready, within the limit of the phase."""
        within_s = self._watch.limit_of("ready")
        return self._expect_200(self.ask("GET", path, timeout_s=PROBE_S, within_s=within_s), path)

    def read_models(self) -> list[dict[str, Any]]:
        """Return the entries of `/v1/models`, at least one."""
        reply = self._look("/v1/models")
        document = _json(reply)
        models = document.get("data") if isinstance(document, dict) else None
        if (
            not isinstance(models, list)
            or not models
            or not all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in models)
        ):
            self._refuse(f"{self.url}/v1/models lists no model: {_describe(reply)}")
        return models

    def read_version(self) -> str:
        """Return what `/version` says, which only vLLM serves in this form."""
        reply = self._look("/version")
        document = _json(reply)
        version = document.get("version") if isinstance(document, dict) else None
        if not isinstance(version, str):
            self._refuse(f"{self.url}/version names no version: {_describe(reply)}")
        return version

    def prove_token(self, model: str) -> str:
        """Ask for one token, insist on it and return its text."""
        body = {"model": model, "prompt": FIRST_PROMPT, "max_tokens": 1, "temperature": 0}
        limit_s = self._watch.limit_of("first token")
        answer = self.ask("POST", "/v1/completions", body, timeout_s=limit_s)
        reply = self._expect_200(answer, "the first completion (/v1/completions)")
        document = _json(reply)
        usage = document.get("usage") if isinstance(document, dict) else None
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        choices = document.get("choices") if isinstance(document, dict) else None
        if tokens != 1 or not isinstance(choices, list) or len(choices) != 1:
            self._refuse(f"the first completion did not give one token: {_describe(reply)}")
        text = choices[0].get("text") if isinstance(choices[0], dict) else None
        return text if isinstance(text, str) else ""

    def probe_chat(self, model: str, timeout_s: float) -> str:
        """Return why there is no chat, empty when there is; a broken chat counts as present.

        It may take as long as any request: a server may compile kernels for its first chat.
        """
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
        answer = self.ask("POST", "/v1/chat/completions", body, timeout_s=timeout_s)
        if not isinstance(answer, Reply):
            self._silence = answer
            self._watch.await_death()
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

    def probe_rest(
        self, timeout_s: float, *, model: str, version: str, no_chat: str
    ) -> dict[str, str]:
        """Return for each capability why it is absent, empty when it is there."""

        def ask(method: str, path: str, json: Any = UNSET) -> Reply | TransportFailure:
            if self._silence is None:
                twice = timeout_s * 1.5  # the second try begins then, and no third
                answer = self.ask(method, path, json, timeout_s=timeout_s, within_s=twice)
                if isinstance(answer, Reply):
                    return answer
                self._silence = answer
            return self._silence

        return probe_capabilities(ask, model=model, version=version, no_chat=no_chat)

    def _expect_200(self, answer: Reply | TransportFailure, what: str) -> Reply:
        """Return a reply of status 200, or raise what anything else means."""
        if isinstance(answer, Reply) and answer.status == 200:  # noqa: PLR2004
            return answer
        self._watch.await_death()
        if isinstance(answer, Reply) and answer.status in (401, 403):
            self._refuse_key(self.url, answer)
        server_fault = isinstance(answer, TransportFailure) or answer.status >= 500  # noqa: PLR2004
        message = f"{self.url} is healthy but {what} gave {_describe(answer)}"
        if server_fault:
            advice = OWN_LOG if self._watch.backend.owned else "read its log"
            if _is_late(answer):
                advice = f"{self._watch.longer(self._watch.phase)}; {advice}"
            raise self._watch.failed(message, advice=advice)
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
            raise self._watch.failed(f"the server is not healthy: {message}", advice="read its log")
        self._refuse(message)

    def _refuse_key(self, url: str, reply: Reply) -> NoReturn:
        held = "refuses the key in" if self.api_key else "wants an API key, and there is none in"
        message = f"{url} {held} {self.key_name} (status {reply.status})"
        advice = f"export {self.key_name}=KEY, or name the variable with --vllm-api-key-env=NAME"
        if self._watch.backend.owned:
            raise self._watch.failed(message, advice=advice)
        raise TargetError(message, advice=advice)

    def _refuse(self, message: str) -> NoReturn:
        """Raise that this is not the server we need."""
        if self._watch.backend.owned:
            raise self._watch.failed(f"not a vLLM server for text: {message}", advice=OWN_LOG)
        raise TargetError(f"not a vLLM server for text: {message}", advice=_NOT_VLLM)


def _is_late(answer: Reply | TransportFailure) -> bool:
    """Tell whether there was no reply in time, which says little on a busy host."""
    return isinstance(answer, TransportFailure) and answer.kind == "timeout"


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
