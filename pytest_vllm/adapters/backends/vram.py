"""Memory of GPUs that a server has used: it comes back some time after the server has gone.

A vLLM issue reports a test that met 165 GiB of the test before it (vllm#49242), and vLLM's own
tests wait for up to 120 s (vllm#37230).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pytest_vllm.adapters.gpus import GpuFacts

LIMIT_S = 120.0
_STEADY_S = 10.0
_POLL_S = 0.5
_GIB = 2**30
_TOLERANCE_BYTES = _GIB
_TOLERANCE_SHARE = 0.02
_NOISE_BYTES = 64 * 2**20


class VramWatch:
    """Looks at the memory of the GPUs of one run.

    Args:
        look: Gathers the facts of all GPUs.
        nodes: Render nodes of the GPUs that the run has; others are other people's.
        clock: Seconds that only grow.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        look: Callable[[], GpuFacts],
        *,
        nodes: Collection[str],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._look = look
        self._nodes = {Path(node).name for node in nodes}
        self._clock = clock
        self._sleep = sleep
        self._before: dict[str, int] = {}

    def settle(self, on_wait: Callable[[str], None]) -> None:
        """Wait before the start while memory is still coming back; what is in use then stays so.

        That is over when little is in use, when nothing has come back for 10 s (a tenant who
        stays), or after 120 s.

        Args:
            on_wait: Told what is waited for, at each look.
        """
        end = self._clock() + LIMIT_S
        seen = self._gpus()
        lowest, since = _used(seen), self._clock()
        while over := _above(seen, {}):
            if self._clock() >= end or self._clock() - since >= _STEADY_S:
                break
            on_wait(f"waiting: {_sum(over)} of VRAM in use, is it released?")
            self._sleep(_POLL_S)
            seen = self._gpus()
            used = _used(seen)
            if any(used[name] < lowest.get(name, 0) - _NOISE_BYTES for name in used):
                lowest, since = used, self._clock()
        self._before = _used(seen)

    def check_release(self, on_wait: Callable[[str], None]) -> tuple[Finding, ...]:
        """Wait after the stop until the memory is back; a finding when it is not after 120 s.

        Args:
            on_wait: Told what is waited for, at each look.
        """
        begin = self._clock()
        while over := _above(self._gpus(), self._before):
            if self._clock() - begin >= LIMIT_S:
                return (_leak(over),)
            on_wait(f"waiting: {_sum(over)} of VRAM not released yet")
            self._sleep(_POLL_S)
        return ()

    def _gpus(self) -> dict[str, tuple[int, int]]:
        """Return used and total bytes of our GPUs by render node; unknown ones are left out.

        Partitions of a GPU all tell the same, that of the whole GPU, so the first stands for all.
        """
        found = {}
        counted = set()
        for gpu in self._look()["gpus"]:
            name = Path(gpu.get("render_node") or "").name
            used, total = gpu.get("vram_used_bytes"), gpu.get("vram_total_bytes")
            package = gpu.get("socket") if gpu.get("shared_with") else name
            if name in self._nodes and used is not None and package not in counted:
                counted.add(package)
                found[name] = (int(used), int(total or 0))
        return found


def _used(seen: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    return {name: used for name, (used, _) in seen.items()}


def _above(seen: Mapping[str, tuple[int, int]], floor: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes above a floor, for the GPUs where they are more than noise."""
    return {
        name: used - floor.get(name, 0)
        for name, (used, total) in seen.items()
        if used - floor.get(name, 0) > max(_TOLERANCE_BYTES, total * _TOLERANCE_SHARE)
    }


def _leak(over: Mapping[str, int]) -> Finding:
    each = ", ".join(f"{name} {value / _GIB:.1f} GiB" for name, value in sorted(over.items()))
    return Finding(
        id="gpu.vram-not-released",
        severity=Severity.WARNING,
        fault=Fault.HOST,
        seen=f"{LIMIT_S:g} s after the server ended, more VRAM is in use than before its start: "
        f"{each}",
        cure="look who holds it (fuser -v /dev/kfd); with nobody there the driver leaks: reload "
        "amdgpu or reboot before the next run",
        ref="G7",
    )


def _sum(over: Mapping[str, int]) -> str:
    return f"{sum(over.values()) / _GIB:.1f} GiB"
