"""Somebody else's server, which looks like ours and must never be touched."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container
    from docker.models.networks import Network

_WAIT = "import signal; signal.pause()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bystander:
    """A container, a network, a process and a segment of shared memory.

    Attributes:
        container: Has the name and labels of a run that nobody knows.
        network: Has the name of its network.
        process: Has the variables of a launch that nobody knows.
        segment: Called like vLLM's shared memory.
    """

    container: Container
    network: Network
    process: subprocess.Popen[bytes]
    segment: Path

    def harmed(self) -> list[str]:
        """Describe what is not as it was."""
        self.container.reload()
        self.network.reload()
        seen = {
            "container": self.container.status == "running",
            "process": self.process.poll() is None,
            "segment": self.segment.exists(),
        }
        return [name for name, well in seen.items() if not well]


@contextmanager
def bystander(image: str) -> Iterator[Bystander]:
    """Start all of it, and remove it in the end."""
    run = f"20200101-000000-{uuid.uuid4().hex[:6]}"
    labels = {
        "com.docker.compose.project": f"pv-{run}",
        "com.docker.compose.service": "vllm",
        "pytest-vllm.run": run,
    }
    client = docker.from_env()
    network = client.networks.create(f"pv-{run}_default", labels=labels)
    container = client.containers.create(
        image,
        ["sleep", "infinity"],
        name=f"pv-{run}-vllm-1",
        network=network.name,
        labels=labels,
    )
    segment = Path(f"/dev/shm/psm_{uuid.uuid4().hex[:8]}")  # noqa: S108 - where vLLM's are
    process = subprocess.Popen(
        ["VLLM::EngineCore", "-S", "-c", _WAIT],
        executable=sys.executable,
        env={**os.environ, "PYTEST_VLLM_LAUNCH": f"{run}-0123456789abcdef"},
        start_new_session=True,
    )
    try:
        container.start()
        segment.write_bytes(b"theirs")
        yield Bystander(container=container, network=network, process=process, segment=segment)
    finally:
        segment.unlink(missing_ok=True)
        process.kill()
        process.wait()
        container.remove(force=True)
        network.remove()
        client.close()
