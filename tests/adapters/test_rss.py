"""The memory of real processes: families, what they hold, and who listens on a port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_vllm.adapters.rss import family, held_bytes, is_in_container, living, server_behind

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
HOLDER = """
import subprocess, sys
block = bytearray(b"x") * (int(sys.argv[1]) * 2**20)
child = None
if len(sys.argv) > 2:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], "64"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    child.stdout.readline()
print("up", flush=True)
sys.stdin.readline()
if child:
    child.stdin.close()
    child.wait()
"""
LISTENER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.readline()
"""


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python code that says a line when it is up and ends when its input does."""
    with subprocess.Popen(
        [sys.executable, "-c", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()


def said(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_family_holds_what_its_members_took() -> None:
    """96 MiB of a process and 64 of its child are seen, and little more."""
    with running(HOLDER, "96", HOLDER) as process:
        assert said(process) == b"up"
        members = family(process.pid)
        assert len(members) == 2
        assert 160 * MIB <= held_bytes(members) <= 220 * MIB
        assert living(members) == members
    assert family(process.pid) == ()
    assert held_bytes(members) == 0
    assert living(members) == ()


def test_a_process_is_told_from_that_of_a_container() -> None:
    """This process is in no container of that ID, and one that has ended in none at all."""
    assert not is_in_container(os.getpid(), "f" * 64)
    assert not is_in_container(2**22 + 1, "f" * 64)


def test_a_vllm_server_is_found_behind_its_port() -> None:
    """The listener is found when its command names vLLM."""
    with running(LISTENER, "vllm serve") as process:
        assert server_behind(int(said(process))) == (process.pid, "")


def test_what_is_no_vllm_server_is_not_taken_for_one() -> None:
    """Neither another Python program nor a free port; each with its reason."""
    with running(LISTENER, "proxy") as process:
        pid, why = server_behind(int(said(process)))
        assert pid is None
        assert f"process {process.pid}" in why
        assert "no vLLM server" in why
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and nobody listens
        pid, why = server_behind(free.getsockname()[1])
    assert pid is None
    assert "listens on port" in why
