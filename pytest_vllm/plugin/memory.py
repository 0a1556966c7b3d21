"""What a run can see of its server's memory: the forecast, the log, the GPUs, the processes."""

from __future__ import annotations

import ipaddress
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_vllm.adapters.rss import family, held_bytes, is_in_container, server_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_vllm.adapters.gpus import GpuMonitor
    from pytest_vllm.domain.server import ServerInfo
    from pytest_vllm.domain.server_facts import ServerFacts
    from pytest_vllm.plugin.state import RunState

HOST = "host memory"
"""Name of the memory of the server's processes among what is looked at; others are GPUs."""

_GIB = 2**30
_EVERY_S = 1.0


@dataclass(slots=True)
class Watch:
    """Looks at memory while something goes on.

    Attributes:
        looks: By what was looked at: how far the work was, and bytes in use.
    """

    looks: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def most(self) -> dict[str, int]:
        """Return the largest use that was seen, by what was looked at."""
        return {name: int(max(use for _, use in looks)) for name, looks in self.looks.items()}

    def note(self, at: float, seen: Mapping[str, int]) -> None:
        """Take in a look."""
        for name, use in seen.items():
            self.looks.setdefault(name, []).append((at, float(use)))


class ServerMemory:
    """The memory of the server under test.

    Args:
        state: What the run knows.
        server: The server.

    Attributes:
        forecast: What was expected before the launch, as `pytest-vllm fit --json` prints it.
        said: What the server's log tells, `None` for a server that was only attached to.
        gpus: GPUs of this host by address, as seen before the launch.
        owned: Whether this run launched the server.
    """

    def __init__(self, state: RunState, server: ServerInfo) -> None:
        self.forecast: Mapping[str, Any] = state.forecast
        self.said: ServerFacts | None = state.server_facts
        self.gpus: dict[str, dict[str, Any]] = _by_address(state.gpus)
        self.owned = server.owned
        self.monitor_says = str(state.gpus.get("reason") or "")
        self._target = state.target
        self._pid, self.unseen = _server_process(state, server)
        self._monitor: GpuMonitor | None = None

    @property
    def device(self) -> str:
        """Where the model runs: `gpu`, `cpu`, or empty when nobody says."""
        told = self.said.device if self.said is not None else ""
        if not told:
            return ""
        return "cpu" if told == "cpu" else "gpu"

    @property
    def loaded_bytes(self) -> int | None:
        """What the heaviest rank loads by the forecast: weights and what comes with them."""
        return int(self.forecast.get("weights_bytes_per_rank") or 0) or None

    @property
    def rank_gpus(self) -> tuple[str, ...]:
        """Addresses of the GPUs that the ranks run on, as far as they are known."""
        named = [str(entry.get("bdf") or "") for entry in self.forecast.get("devices") or ()]
        return tuple(bdf for bdf in named if bdf in self.gpus)

    @property
    def handed_over(self) -> tuple[str, ...]:
        """Addresses of the GPUs that the server may use."""
        chosen = self._target.gpus
        if chosen == "all" or self._target.backend == "attach":
            return tuple(self.gpus)
        wanted = set(chosen.split(","))
        ordered = sorted(self.gpus, key=lambda bdf: str(self.gpus[bdf].get("render_node") or bdf))
        return tuple(bdf for number, bdf in enumerate(ordered) if str(number) in wanted)

    def before(self, bdf: str) -> int:
        """Return the bytes that were in use on a GPU before the launch."""
        return int(self.gpus[bdf].get("vram_used_bytes") or 0)

    def processes(self) -> tuple[int, ...]:
        """Return the server's processes, none where they cannot be seen."""
        return () if self._pid is None else family(self._pid)

    def use(self) -> dict[str, int]:
        """Look now: bytes in use by GPU address, and of the server's processes as `HOST`."""
        seen = self._use_of_gpus() if self.gpus and self._on_this_host else {}
        if members := self.processes():
            seen[HOST] = held_bytes(members)
        return seen

    @contextmanager
    def watched(
        self, progress: Callable[[], float] = time.monotonic, *, every_s: float = _EVERY_S
    ) -> Iterator[Watch]:
        """Look again and again, on a thread, while the body runs.

        Args:
            progress: How far the work is; noted with each look.
            every_s: Seconds between two looks.
        """
        watch, end = Watch(), threading.Event()

        def look() -> None:
            while not end.wait(every_s):
                watch.note(progress(), self.use())

        watch.note(progress(), self.use())
        thread = threading.Thread(target=look, name="vllm-memory", daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            end.set()
            thread.join()
            watch.note(progress(), self.use())

    def close(self) -> None:
        """Let go of the monitor."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()

    @property
    def _on_this_host(self) -> bool:
        return self.owned or self._pid is not None

    def _use_of_gpus(self) -> dict[str, int]:
        if self._monitor is None:
            from pytest_vllm.adapters.gpus import probe  # noqa: PLC0415 - only with GPUs

            self._monitor = probe(self._target.text("monitor"))
        readings = self._monitor.sample(rare=False).readings
        used = {bdf: reading.get("vram_used_bytes") for bdf, reading in readings.items()}
        return {bdf: int(count) for bdf, count in used.items() if count is not None}


def gib(count: float) -> str:
    """Write bytes for a person."""
    return f"{count / _GIB:.2f} GiB"


def _by_address(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {str(gpu["bdf"]): gpu for gpu in facts.get("gpus") or () if gpu.get("bdf")}


def _server_process(state: RunState, server: ServerInfo) -> tuple[int | None, str]:
    """Return the first process of the server, or `None` and why it cannot be seen."""
    if state.target.backend == "attach":
        return _listener(server.url)
    pid, container = state.server_pid, state.container
    if pid is None:
        return None, "the launch did not tell a process"
    if container and not is_in_container(pid, container):
        return None, "the container's processes cannot be seen from here (/proc of another host)"
    return pid, ""


def _listener(url: str) -> tuple[int | None, str]:
    parts = urlsplit(url)
    if not _is_loopback(parts.hostname or ""):
        return None, f"{url} is not an address of this host"
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return server_behind(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
