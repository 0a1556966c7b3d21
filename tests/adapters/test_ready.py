"""Readiness against small servers that live, die, hang and lie."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters import ready
from pytest_vllm.adapters.backends import make_backend
from pytest_vllm.adapters.backends.process import ProcessBackend
from pytest_vllm.adapters.ready import ReadyServer, wait_until_ready
from pytest_vllm.domain.errors import HostError, LaunchFailed, TargetError
from pytest_vllm.domain.server import CAPABILITIES
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import Target, build_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAND_IN = Path(__file__).parent.parent / "data" / "stand_in"
SICK_S = (2, 10, 50)
"""Limits within which a server is to start and to reply once, however busy the host is."""
BUSY_S = 10.0
"""For what takes milliseconds on an idle host; a limit that was waited for is longer."""


class FastClock:
    """A clock on which each sleep takes a minute, so that limits of minutes pass at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, _seconds: float) -> None:
        self.now += 60.0


def make_target(**options: object) -> Target:
    names = {key.replace("_", "-"): value for key, value in options.items()}
    settings = resolve(Sources(options=names, env={}, ini={}), profile={}, profile_name="default")
    return build_target(settings, known_suites=())


def wait(backend: ProcessBackend) -> ReadyServer:
    return wait_until_ready(backend, backend._target, on_phase=lambda *_: None)


@pytest.fixture
def launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ProcessBackend]]:
    """Launch the stand-in of vLLM's module in some mode."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    backends: list[ProcessBackend] = []

    def start(mode: str, **options: object) -> ProcessBackend:
        target = make_target(
            backend="process", model=str(folder), serve_arg=[f"--mode={mode}"], **options
        )
        backend = make_backend(target, workdir=tmp_path, run_id="t1")
        assert isinstance(backend, ProcessBackend)
        backends.append(backend)
        backend.launch()
        return backend

    yield start
    for backend in backends:
        backend.stop()


@pytest.fixture
def attach(launch: Callable[..., ProcessBackend], tmp_path: Path) -> Callable[[str], ReadyServer]:
    """Attach to a stand-in in some mode, as to a server of somebody else."""

    def connect(mode: str) -> ReadyServer:
        running = launch(mode)
        pause = threading.Event()
        while running.url is None:
            assert running.exit_status() is None
            pause.wait(0.02)
        target = make_target(url=running.url)
        backend = make_backend(target, workdir=tmp_path, run_id="t2")
        backend.launch()
        return wait_until_ready(backend, target, on_phase=lambda *_: None)

    return connect


def test_a_healthy_server_is_described(launch: Callable[..., ProcessBackend]) -> None:
    backend = launch("serve")
    seen: list[str] = []
    ready = wait_until_ready(
        backend, backend._target, on_phase=lambda state: seen.append(state.phase)
    )
    info = ready.info
    assert info.url == backend.url
    assert info.model == backend._target.model == info.launch_model
    assert info.served_names == (info.model, "second")
    assert (info.max_model_len, info.version, info.owned) == (64, "0.0.1", True)
    assert {*info.capabilities, *info.absent} == set(CAPABILITIES)
    assert "chat" in info.capabilities
    assert info.absent["base"] == "the server can chat"
    assert info.api_key_env == ""
    assert [phase.name for phase in ready.phases] == ["start", "config", "ready", "first token"]
    assert all(phase.duration_s is not None for phase in ready.phases)
    assert list(dict.fromkeys(seen)) == ["start", "config", "ready", "first token"]


def test_a_death_is_reported_within_a_second_with_its_cause(
    launch: Callable[..., ProcessBackend],
) -> None:
    """What it waits by intent is counted; how long a busy host takes for the rest says nothing."""
    backend = launch("raise")
    pid = backend.facts()["pid"]
    died: list[float] = []
    waited: list[float] = []
    descriptor = os.pidfd_open(pid)

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        waited.extend([seconds] if died else [])

    def note_death() -> None:
        select.select([descriptor], [], [])
        died.append(time.monotonic())

    thread = threading.Thread(target=note_death)
    thread.start()
    with pytest.raises(LaunchFailed) as caught:
        wait_until_ready(backend, backend._target, sleep=sleep)
    reported = time.monotonic()
    thread.join()
    os.close(descriptor)
    assert sum(waited) < 1.0
    assert reported - died[0] < BUSY_S
    error = caught.value
    assert error.message.startswith(
        "ValueError: no such quantization - vLLM ended with exit code 1"
    )
    assert (error.exit_code_of_server, error.phase) == (1, "config")
    assert error.tail[-1] == "ValueError: no such quantization"


def test_exit_code_0_is_a_failure_too(launch: Callable[..., ProcessBackend]) -> None:
    with pytest.raises(LaunchFailed, match=r"exit code 0 .a failure too: nobody stopped it"):
        wait(launch("exit-0"))


def test_a_death_during_the_first_token_tells_the_cause(
    launch: Callable[..., ProcessBackend],
) -> None:
    with pytest.raises(LaunchFailed, match=r"the kernel broke .* exit code 0 .*") as caught:
        wait(launch("die-at-first-token"))
    assert caught.value.phase == "first token"


def test_a_hang_names_phase_and_limit(launch: Callable[..., ProcessBackend]) -> None:
    backend = launch("hang")
    pause = threading.Event()
    while not backend.log:
        pause.wait(0.02)
    clock = FastClock()
    with pytest.raises(
        LaunchFailed,
        match=r"hangs in phase config: nothing new for 660 s .limit of this phase 600 s.; "
        r"the server does not listen yet; last line: non-default args: none",
    ) as caught:
        wait_until_ready(
            backend, backend._target, on_phase=lambda *_: None, clock=clock, sleep=clock.sleep
        )
    assert caught.value.exit_code_of_server is None
    assert clock.now <= 720


def test_the_overall_limit_says_what_was_seen(launch: Callable[..., ProcessBackend]) -> None:
    backend = launch("hang", timeout="100")
    clock = FastClock()
    with pytest.raises(LaunchFailed, match=r"--vllm-timeout=100.*does not listen yet"):
        wait_until_ready(
            backend, backend._target, on_phase=lambda *_: None, clock=clock, sleep=clock.sleep
        )


def test_an_owned_server_that_stays_sick_says_so(launch: Callable[..., ProcessBackend]) -> None:
    for limit_s in SICK_S:
        with pytest.raises(LaunchFailed, match="not ready after") as caught:
            wait(launch("sick", timeout=str(limit_s)))
        if "/health: status 500" in str(caught.value):
            return
    pytest.fail(str(caught.value))


@pytest.mark.parametrize(
    ("mode", "present", "reason"),
    [
        ("no-template", False, "no chat template"),
        ("no-chat", False, "no route"),
        ("broken-chat", True, ""),
    ],
)
def test_chat_is_probed(
    launch: Callable[..., ProcessBackend], mode: str, reason: str, *, present: bool
) -> None:
    info = wait(launch(mode)).info
    assert ("chat" in info.capabilities) is present
    assert reason in info.absent.get("chat", "")


def test_two_tokens_for_one_are_refused(launch: Callable[..., ProcessBackend]) -> None:
    with pytest.raises(LaunchFailed, match="did not give one token: status 200"):
        wait(launch("two-tokens"))


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("html", r"/v1/models lists no model: status 200, text/html, '<html><body>It works!"),
        ("not-vllm", r"/version gave status 404, application/json"),
    ],
)
def test_what_is_no_vllm_server(
    attach: Callable[[str], ReadyServer],
    launch: Callable[..., ProcessBackend],
    mode: str,
    words: str,
) -> None:
    with pytest.raises(TargetError, match=words) as caught:
        attach(mode)
    assert "--vllm-url" in caught.value.advice
    with pytest.raises(LaunchFailed, match=words):
        wait(launch(mode))


def test_a_sick_server_of_somebody_else_fails(attach: Callable[[str], ReadyServer]) -> None:
    with pytest.raises(LaunchFailed, match=r"not healthy: .*status 500"):
        attach("sick")


def test_attached_is_not_owned(attach: Callable[[str], ReadyServer]) -> None:
    info = attach("serve").info
    assert (info.owned, info.launch_model) == (False, "")


def test_a_closed_port_is_the_hosts_fault(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        target = make_target(url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        backend = make_backend(target, workdir=tmp_path, run_id="t")
        with pytest.raises(HostError, match="cannot be tested: no reply"):
            wait_until_ready(backend, target, on_phase=lambda *_: None)


def test_a_name_that_does_not_resolve_is_the_hosts_fault(tmp_path: Path) -> None:
    target = make_target(url="http://no-such-host.invalid:8000")
    backend = make_backend(target, workdir=tmp_path, run_id="t")
    with pytest.raises(HostError, match=r"no-such-host.invalid"):
        wait_until_ready(backend, target, on_phase=lambda *_: None)


def test_an_api_key_is_asked_for_and_used(
    attach: Callable[[str], ReadyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "right")
    assert attach("key").info.api_key_env == "VLLM_API_KEY"


def test_a_missing_api_key_names_the_option(
    launch: Callable[..., ProcessBackend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "right")
    running = launch("key", api_key_env="NOT_SET")
    with pytest.raises(LaunchFailed, match="wants an API key, and there is none in NOT_SET"):
        wait(running)
    target = make_target(url=str(running.url), api_key_env="NOT_SET")
    backend = make_backend(target, workdir=tmp_path, run_id="t")
    with pytest.raises(TargetError, match="--vllm-api-key-env"):
        wait_until_ready(backend, target, on_phase=lambda *_: None)
    monkeypatch.setenv("NOT_SET", "wrong")
    with pytest.raises(TargetError, match=r"refuses the key in NOT_SET .status 401"):
        wait_until_ready(backend, target, on_phase=lambda *_: None)


@pytest.fixture
def short_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a try end before the stand-in says something after it stood still."""
    for name in ("PROBE_S", "CAPABILITY_S"):
        monkeypatch.setattr(ready, name, 0.2)


@pytest.mark.usefixtures("short_tries")
def test_a_host_that_stands_still_is_asked_again(launch: Callable[..., ProcessBackend]) -> None:
    """One late answer is no broken server, and lets no capability count as present."""
    info = wait(launch("stalls")).info
    assert (info.version, info.served_names[1:]) == ("0.0.1", ("second",))
    assert "metrics" in info.absent


@pytest.mark.usefixtures("short_tries")
def test_lasting_silence_names_the_limit(launch: Callable[..., ProcessBackend]) -> None:
    with pytest.raises(LaunchFailed, match=r"is healthy but /v1/models gave no reply") as caught:
        wait(launch("silent-models", phase_timeout=["ready=1"]))
    assert "if it only needs longer: --vllm-phase-timeout=ready=2" in caught.value.advice
