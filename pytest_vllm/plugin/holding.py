"""What a run holds on its host while its server lives: GPUs, their memory, a tidy place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.device import choose_devices
from pytest_vllm.adapters.backends.engine import find_endpoint
from pytest_vllm.adapters.backends.lease import GpuLease, lease_gpus
from pytest_vllm.adapters.backends.removal import EngineApi, Removal
from pytest_vllm.adapters.backends.sweep import sweep_engine, sweep_host, tell
from pytest_vllm.adapters.backends.vram import VramWatch
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.adapters.gpus import GpuMonitor
    from pytest_vllm.domain.finding import Finding
    from pytest_vllm.domain.target import Target


class Holding:
    """Takes what a launched server needs of the host, and gives it back.

    Args:
        target: What is run; it is launched, not attached to.
        run_id: Name of the run.
        monitor: Looks at the GPUs.
        reaper: Is told of lock files.
    """

    def __init__(
        self, target: Target, *, run_id: str, monitor: GpuMonitor, reaper: Reaper | None
    ) -> None:
        self._target = target
        self._run_id = run_id
        self._monitor = monitor
        self._reaper = reaper
        self._lease = GpuLease()
        self._vram: VramWatch | None = None

    def take(self, on_wait: Callable[[str], None]) -> tuple[Finding, ...]:
        """Sweep what dead runs left, lease the GPUs and wait until their memory is back.

        Args:
            on_wait: Told what is waited for.

        Returns:
            What was swept.

        Raises:
            HostError: Another run holds a GPU.
            TargetError: A GPU was named that is not there.
        """
        findings = tell(sweep_host() + self._sweep_engine())
        nodes = [
            device
            for device in choose_devices(self._target.gpus).devices
            if "renderD" in device.rpartition("/")[2]
        ]
        waits = self._target.text("gpu-busy") == "wait"
        self._lease = lease_gpus(
            nodes,
            run_id=self._run_id,
            limit_s=self._target.seconds("timeout") if waits else 0.0,
            on_wait=on_wait,
        )
        if self._reaper is not None:
            for file, _ in self._lease.files:
                self._reaper.lock(file)
        self._vram = VramWatch(self._monitor.facts, nodes=nodes)
        if nodes:
            self._vram.settle(on_wait)
        return findings

    def check_release(self, on_wait: Callable[[str], None]) -> tuple[Finding, ...]:
        """Wait until the memory of the GPUs is back."""
        if self._vram is None:
            return ()
        return self._vram.check_release(on_wait)

    def give_back(self) -> None:
        """Let other runs have the GPUs."""
        lease, self._lease = self._lease, GpuLease()
        lease.release()

    def _sweep_engine(self) -> Removal:
        if self._target.backend != "docker":
            return Removal()
        try:
            endpoint = find_endpoint(os.environ)
        except HostError:
            return Removal()  # the launch tells of it
        return sweep_engine(EngineApi(url=endpoint.url))
