"""A simulated server for runs that attach to it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.port import lease_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def simulated(*words: str) -> Iterator[str]:
    """Serve a model of our own on a port that no other test is given; a run waits for it.

    Args:
        words: Words after `pytest-vllm simulate`.
    """
    lease = lease_port("127.0.0.1")
    command = [sys.executable, "-m", "pytest_vllm", "simulate", f"--port={lease.port}", *words]
    try:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                yield f"http://127.0.0.1:{lease.port}"
            finally:
                server.terminate()
    finally:
        lease.release()
