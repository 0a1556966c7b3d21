"""A server as a process: start, log, exit, and that nothing survives the stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.backends import make_backend
from pytest_vllm.adapters.backends import process as process_module
from pytest_vllm.adapters.backends.port import lease_port
from pytest_vllm.adapters.backends.process import ProcessBackend, command_line
from pytest_vllm.adapters.backends.session import describe_holder
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import Target, build_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAND_IN = Path(__file__).parent.parent / "data" / "stand_in"
LIMIT_S = 20.0


def make_target(model: Path | str, *args: str, **options: object) -> Target:
    given = {key.replace("_", "-"): value for key, value in options.items()}
    names = {"backend": "process", "model": str(model), "serve-arg": list(args), **given}
    settings = resolve(Sources(options=names, env={}, ini={}), profile={}, profile_name="default")
    return build_target(settings, known_suites=())


def until(condition: Callable[[], object]) -> None:
    """Poll until something holds, and fail when it does not."""
    pause = threading.Event()
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "waited too long"
        pause.wait(0.02)


def alive(backend: ProcessBackend) -> tuple[int, ...]:
    assert backend._session is not None
    return backend._session.members()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def launch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ProcessBackend]]:
    """Launch the stand-in of vLLM's module; all are stopped at the end."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    backends: list[ProcessBackend] = []

    def start(*args: str, **options: object) -> ProcessBackend:
        target = make_target(model, *args, **options)
        backend = make_backend(target, workdir=tmp_path, run_id="t1")
        assert isinstance(backend, ProcessBackend)
        backends.append(backend)
        backend.launch()
        return backend

    yield start
    for backend in backends:
        backend.stop()


def test_a_server_starts_on_a_free_port_and_stops(launch: Callable[..., ProcessBackend]) -> None:
    backend = launch("--mode=serve")
    until(lambda: backend.url)
    assert backend.exit_status() is None
    assert [line.text for line in backend.log] == ["non-default args: none"]
    port = int(str(backend.url).rpartition(":")[2])
    assert f"PID {backend.facts()['pid']}" in describe_holder(port)
    backend.stop()
    assert alive(backend) == ()
    assert describe_holder(port) == ""
    status = backend.exit_status()
    assert status is not None
    assert status.code == 128 + signal.SIGTERM
    assert "SIGTERM" in status.note
    backend.stop()


def test_no_url_while_somebody_else_listens(launch: Callable[..., ProcessBackend]) -> None:
    """Another program that took the port meanwhile is not mistaken for our server."""
    backend = launch("--mode=hang")
    assert backend._lease is not None
    until(lambda: backend.log)
    with socket.create_server(("127.0.0.1", backend._lease.port)):
        assert backend.url is None


def test_the_exit_code_and_the_whole_log_come_together(
    launch: Callable[..., ProcessBackend],
) -> None:
    backend = launch("--mode=raise")
    until(backend.exit_status)
    status = backend.exit_status()
    assert status is not None
    assert status.code == 1
    assert backend.log[-1].text == "ValueError: no such quantization"


def test_bytes_that_are_no_text_and_progress_bars_become_lines(
    launch: Callable[..., ProcessBackend],
) -> None:
    backend = launch("--mode=binary")
    until(lambda: len(backend.log) == 3)
    assert [line.text for line in backend.log][1:] == ["\ufffd\ufffd 10%", " 20%"]


def test_children_that_leave_the_session_and_ignore_sigterm_are_killed(
    launch: Callable[..., ProcessBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_GRACE_S", 0.5)
    backend = launch("--mode=stubborn")
    until(lambda: len(alive(backend)) == 2 and backend.url)
    backend.stop()
    assert alive(backend) == ()
    status = backend.exit_status()
    assert status is not None
    assert status.code == 128 + signal.SIGKILL


def test_an_orphan_of_a_dead_server_is_ended(launch: Callable[..., ProcessBackend]) -> None:
    backend = launch("--mode=orphan")
    until(backend.exit_status)
    assert len(alive(backend)) == 1
    backend.stop()
    assert alive(backend) == ()


def test_a_port_in_use_names_its_holder(launch: Callable[..., ProcessBackend]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(HostError, match=rf"port {port} .* in use by PID {os.getpid()}"):
            launch(f"--port={port}")


def test_the_users_port_is_used(launch: Callable[..., ProcessBackend]) -> None:
    lease = lease_port("127.0.0.1")
    lease.release()
    backend = launch("--port", str(lease.port))
    until(lambda: backend.url)
    assert backend.url == f"http://127.0.0.1:{lease.port}"
    assert backend.facts()["command"].count("--port") == 1


def test_two_leases_never_share_a_port() -> None:
    leases = [lease_port("127.0.0.1") for _ in range(20)]
    try:
        assert len({lease.port for lease in leases}) == 20
        assert all(lease.port < 32_768 for lease in leases)
    finally:
        for lease in leases:
            lease.release()


def test_an_interpreter_without_vllm_is_told(model: Path, tmp_path: Path) -> None:
    backend = make_backend(make_target(model, python=sys.executable), workdir=tmp_path, run_id="t2")
    with pytest.raises(TargetError, match=r"has no vLLM\n  fix: .*-m pip install vllm"):
        backend.launch()
    backend.stop()


@pytest.mark.parametrize(
    ("python", "words"),
    [("/no/such/python", "no program that can be run"), ("/bin/false", "does not run Python code")],
)
def test_a_wrong_interpreter(model: Path, tmp_path: Path, python: str, words: str) -> None:
    backend = make_backend(make_target(model, python=python), workdir=tmp_path, run_id="t3")
    with pytest.raises(TargetError, match=words):
        backend.launch()


def test_vllm_serve_must_be_beside_the_interpreter(model: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    target = make_target(model, python=str(python), entrypoint="vllm")
    with pytest.raises(TargetError, match="use --vllm-entrypoint=module"):
        command_line(target)
    (tmp_path / "vllm").touch()
    assert command_line(target).startswith(f"{tmp_path}/vllm serve {model} --host 127.0.0.1")


def test_a_relative_model_is_made_absolute(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    line = command_line(make_target("./model", "--x 'a b'", env=["A=1 2", "HOME"]))
    assert line == (
        f"A='1 2' {sys.executable} -m vllm.entrypoints.openai.api_server --model {model} "
        "--host 127.0.0.1 --port 8000 --x 'a b'\n"
    )
