"""The program that tries the way to the hub, run as a process against stand-ins on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.facts.network import (
    Question,
    read_answer,
    try_in_process,
)
from tests.data.hub.server import DOWN, GATED, STRANGER, Hub, Repository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts.network import NetworkFacts

DEAD_DNS_S = 4.2
"""So long the program waits for a name where a server may be alive; starting it comes on top."""
TRIES = 3
"""On a busy host the start alone may take seconds, but not each time."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "config.json").write_text("{}")
    with Hub({"org/small": Repository(folder=tmp_path)}) as stand_in:
        yield stand_in


def tried(hub: str, model: str = "org/small", **values: Any) -> NetworkFacts:
    environment = {"HF_HOME": "/nonexistent", **values.pop("environment", {})}
    question = Question(model=model, hub=hub, environment=environment, **values)
    return try_in_process(sys.executable, question)


def test_a_hub_that_answers_has_gone_through_all_stages(hub: Hub) -> None:
    facts = tried(hub.url())
    assert (facts.stage, facts.model_status, facts.problem) == ("answered", 200, "")
    assert (facts.resolved, facts.reached, facts.token) == (True, True, False)
    assert facts.where == "process"
    assert hub.requests == [("HEAD", "/org/small/resolve/main/config.json", 200)]


def test_the_words_of_a_refusal_are_kept(hub: Hub) -> None:
    facts = tried(hub.url(), GATED, environment={"HF_TOKEN": STRANGER})
    assert (facts.model_status, facts.error_code, facts.token) == (403, "GatedRepo", True)
    assert "not in the authorized list" in facts.error_message


def test_a_hub_that_is_busy_is_asked_twice(hub: Hub) -> None:
    assert tried(hub.url(), DOWN).model_status == 503
    assert len(hub.requests) == 2


def test_the_token_of_a_login_is_sent(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(f"{STRANGER}\n")
    facts = tried(hub.url(), GATED, environment={"HF_HOME": str(home)})
    assert (facts.model_status, facts.token) == (403, True)


def test_nobody_at_the_port_is_no_connection() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        facts = tried(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert (facts.stage, facts.resolved, facts.reached) == ("connect", True, False)
    assert "ECONNREFUSED" in facts.problem


def test_a_certificate_that_nobody_knows_is_no_tls(tmp_path: Path) -> None:
    file = tmp_path / "hub.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-keyout", file, "-out", file], check=True, capture_output=True)
    with Hub({"org/small": Repository(folder=tmp_path)}, certificate=file) as hub:
        facts = tried(hub.url())
    assert facts.stage == "tls"
    assert "CERTIFICATE_VERIFY_FAILED" in facts.problem


def test_a_name_that_does_not_exist_is_no_dns() -> None:
    facts = tried("http://no-such-name.invalid")
    assert (facts.stage, facts.resolved) == ("dns", False)
    assert "no-such-name.invalid cannot be resolved" in facts.problem


@contextmanager
def dns_server(address: str, answers: int) -> Iterator[None]:
    """Answer every question with so many records, none of them spelt out."""
    stopped = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((address, 53))
        door.settimeout(0.1)

        def serve() -> None:
            while not stopped.is_set():
                try:
                    packet, sender = door.recvfrom(4096)
                except TimeoutError:
                    continue
                flags = b"\x81\x80" if answers else b"\x81\x83"
                header = packet[:2] + flags + b"\0\1" + bytes([0, answers]) + b"\0" * 4
                door.sendto(header + packet[12:], sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def test_a_server_of_the_host_that_works_is_found() -> None:
    with dns_server("127.0.0.77", 1), dns_server("127.0.0.78", 0):
        facts = tried(
            "http://no-such-name.invalid", others=("127.0.0.79", "127.0.0.78", "127.0.0.77")
        )
    assert facts.working_dns == "127.0.0.77"


def test_dead_servers_are_not_waited_for() -> None:
    took: list[float] = []
    while len(took) < TRIES and min(took, default=DEAD_DNS_S) >= DEAD_DNS_S:
        started = time.monotonic()
        facts = tried("http://no-such-name.invalid", dns=("127.0.0.79",))
        took.append(time.monotonic() - started)
        assert facts.stage == "dns"
    assert min(took) < DEAD_DNS_S


@pytest.mark.parametrize("output", ["", "sh: 1: python3: not found\n", "\0\n"])
def test_an_attempt_without_an_answer_is_not_known(output: str) -> None:
    facts = read_answer(output, Question(model="m"), where="container", took_s=0.1)
    assert facts.stage == ""
    assert "no answer" in facts.problem


def test_an_interpreter_that_is_not_there_is_not_known() -> None:
    facts = try_in_process("/no/such/python", Question(model="m"))
    assert facts.stage == ""
    assert "/no/such/python could not try" in facts.problem


def test_the_answer_holds_no_token(hub: Hub) -> None:
    facts = tried(hub.url(), environment={"HF_TOKEN": "hf_" + "x" * 30})
    assert "x" * 30 not in repr(facts)


def test_the_program_needs_nothing_but_the_standard_library() -> None:
    package = Path(__file__).parents[2] / "pytest_vllm/adapters/facts/inside/reach_hub.py"
    assert "pytest_vllm" not in package.read_text().replace('"User-Agent": "pytest-vllm"', "")
