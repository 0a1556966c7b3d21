"""The verb `pytest-vllm simulate`, as a process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.cli import main
from pytest_vllm.simulator.defects import DEFECTS

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def simulate(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the verb on a free port; give the process and its URL."""
    command = [sys.executable, "-m", "pytest_vllm", "simulate", "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(filter(None, (re.search(r"http://\S+:\d+", at) for at in process.stdout)))
            yield process, found[0]
        finally:
            process.kill()


def status(url: str) -> int:
    """GET a path; give its status."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - our own server
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_ends_with_0(number: signal.Signals) -> None:
    """Ctrl-C is no error."""
    with simulate() as (process, url):
        assert status(f"{url}/v1/models") == 200
        process.send_signal(number)
        assert process.wait(timeout=10) == 0


def test_it_stands_in_front_of_another_server() -> None:
    """Defects are those of the one in front; both end cleanly."""
    with (
        simulate("--defect", "ping-missing") as (_, behind),
        simulate("--upstream", behind, "--defect", "metrics-missing") as (process, url),
    ):
        assert [status(f"{behind}{path}") for path in ("/ping", "/metrics")] == [404, 200]
        assert [status(f"{url}{path}") for path in ("/ping", "/metrics")] == [404, 404]
        assert status(f"{url}/health") == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def test_it_lists_all_defects(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, with where it sits."""
    assert main(["simulate", "--list-defects"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(DEFECTS)
    assert {line.split()[1] for line in lines} == {"wire", "engine"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--defect", "chunk-droped"], 4, "did you mean chunk-dropped?"),
        (
            ["--defect", "nan-late", "--upstream", "http://127.0.0.1:1"],
            4,
            "--defect nan-late sits in the simulator's engine",
        ),
        (["--upstream", "localhost"], 4, "give it as http://HOST:PORT"),
        (["--upstream", "http://127.0.0.1:1"], 75, "no server answers at 127.0.0.1:1"),
        (["--upstream", "http://127.0.0.1:1", "--block-size", "8"], 4, "option of the simulator"),
    ],
)
def test_mistakes_are_explained(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's mistake has a message and an exit code, never a traceback."""
    assert main(["simulate", "--port", "0", *words]) == code
    assert message in capsys.readouterr().err
