"""Debian's docker-registry on loopback: open, with passwords, with tokens, with TLS."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_S = 20
_PORTS = range(10_000, 20_000)
"""Below those that our runs lease (20,000 and up), and Linux gives to whoever asks for any."""


def free_address() -> str:
    """Return an address on which nothing listens, and that the kernel gives to nobody meanwhile."""
    for port in random.sample(_PORTS, k=len(_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"
    raise AssertionError("all ports are taken")


@contextmanager
def debian_registry(
    folder: Path, *, address: str = "", store: Path | None = None, **more: Any
) -> Iterator[str]:
    """Run docker-registry; give `HOST:PORT`.

    Args:
        folder: For its configuration.
        address: Where it listens, a free port by default.
        store: Its images, `folder / "store"` by default.
        more: Keys of its configuration: `auth`, `http`, ...
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.fail("there is no docker-registry; ./dev test installs it as root", pytrace=False)
    address = address or free_address()
    storage = {
        "filesystem": {"rootdirectory": str(store or folder / "store")},
        "delete": {"enabled": True},
    }
    http = {"addr": address, **more.pop("http", {})}
    config = folder / "registry.yml"
    # JSON is YAML.
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": http, **more}))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait(address, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")
    end = time.monotonic() + _START_S
    while True:
        assert process.poll() is None, "docker-registry ended"
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        assert time.monotonic() < end, "docker-registry does not answer"
