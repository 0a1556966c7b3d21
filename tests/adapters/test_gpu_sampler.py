"""Samples in the background: what they show, and what they cost."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.gpus.amd import AmdMonitor
from pytest_vllm.adapters.gpus.sampler import Sampler
from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from pytest_vllm.domain.gpu_samples import SHARE, Look
from tests.data.smi.standin import HOSTS
from tests.data.smi.tree import add_card, add_sensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from tests.data.smi.standin import State

NEWEST = "7.0.2"
ENDS_S = 30


class Gate:
    """Waits, with a limit, until so many samples were taken."""

    def __init__(self) -> None:
        self._seen = threading.Condition()
        self._count = 0

    def __call__(self, count: int) -> None:
        """Be told by the sampler."""
        with self._seen:
            self._count = count
            self._seen.notify_all()

    def wait(self, more: int = 2) -> None:
        """Wait until a sample has begun and ended after this call."""
        self.reach(self._count + more)

    def reach(self, goal: int) -> None:
        """Wait until so many samples were taken in all."""
        with self._seen:
            assert self._seen.wait_for(lambda: self._count >= goal, ENDS_S)


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """One card; what it uses is a file."""
    device = add_card(tmp_path, 0, bdf="0000:05:00.0", mem_info_vram_used=100)
    add_sensors(device)
    return device


def test_the_memory_of_a_run_is_seen_to_come_and_go(tmp_path: Path, card: Path) -> None:
    used = card / "mem_info_vram_used"
    monitor = SysfsMonitor(tmp_path)
    gate = Gate()
    gpus = monitor.facts()["gpus"]
    sampler = Sampler(monitor, gpus, interval_s=0.005, on_sample=gate)
    sampler.start()
    for value in (100, 9000, 120):
        used.write_text(f"{value}\n", encoding="ascii")
        gate.wait()
    live = sampler.columns()
    plain = sampler.stop()
    seen = [value for value in plain["gpus"][0]["vram_used_bytes"] if value is not None]
    assert list(dict.fromkeys(seen)) == [100, 9000, 120]
    assert plain["gpus"][0]["vram_peak_bytes"] == 9000
    assert len(plain["time_s"]) >= len(live["time_s"]) >= 3
    assert plain["monitor"] == "sysfs"
    assert plain["gpus"][0]["ecc_errors"][-1] == 3
    assert not [thread for thread in threading.enumerate() if "gpu-sampler" in thread.name]


def test_the_last_sample_is_taken_at_the_end(tmp_path: Path, card: Path) -> None:
    """Long intervals must not hide that the memory came back."""
    gate = Gate()
    monitor = SysfsMonitor(tmp_path)
    sampler = Sampler(monitor, monitor.facts()["gpus"], interval_s=3600, on_sample=gate)
    sampler.start()
    gate.reach(1)
    (card / "mem_info_vram_used").write_text("7\n", encoding="ascii")
    assert sampler.stop()["gpus"][0]["vram_used_bytes"] == [100, 7]


class Failing(SysfsMonitor):
    """A monitor that breaks its promise never to raise."""

    def sample(self, *, rare: bool) -> Look:
        """Raise."""
        raise RuntimeError(f"boom, rare: {rare}")


def test_a_monitor_that_raises_ends_neither_samples_nor_run(tmp_path: Path, card: Path) -> None:
    assert card.is_dir()
    gate = Gate()
    monitor = Failing(tmp_path)
    sampler = Sampler(monitor, monitor.facts()["gpus"], interval_s=0.001, on_sample=gate)
    sampler.start()
    gate.wait(3)
    plain = sampler.stop()
    assert any("RuntimeError: boom" in note for note in plain["notes"])


def test_a_library_that_hangs_delays_samples_and_is_noted(
    use_smi: Callable[[str, str], State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the sample that hangs has little time: a new process may take long on a busy host."""
    os.mkfifo(tmp_path / "hangs")
    monkeypatch.setenv("SMI_HANGS", str(tmp_path / "hangs"))
    state = use_smi(NEWEST, NEWEST)
    state.show(*HOSTS["MI355X x1"])
    gate = Gate()
    with closing(AmdMonitor(SysfsMonitor(tmp_path))) as monitor:
        gpus = monitor.facts()["gpus"]
        assert len(gpus) == 1
        sampler = Sampler(monitor, gpus, interval_s=0.01, on_sample=gate)
        sampler.start()
        monkeypatch.setattr(monitor, "_timeout_s", 1.0)
        gate.wait()
        state.show(*HOSTS["MI355X x1"], lines=("do=hang",))
        (tmp_path / "hangs").read_bytes()  # returns when the library hangs
        monkeypatch.setattr(monitor, "_timeout_s", ENDS_S)
        state.show(*HOSTS["MI355X x1"])
        gate.wait()
        plain = sampler.stop()
    assert any("AMD SMI did not answer within 1 s" in note for note in plain["notes"])
    assert plain["gpus"][0]["vram_used_bytes"][-1] == HOSTS["MI355X x1"][0]["used"]


def test_closing_the_monitor_frees_a_sampler_that_hangs(
    use_smi: Callable[[str, str], State], tmp_path: Path
) -> None:
    """A run that ends does not wait for a library that never answers."""
    state = use_smi(NEWEST, NEWEST)
    state.show(*HOSTS["MI355X x1"])
    gate = Gate()
    monitor = AmdMonitor(SysfsMonitor(tmp_path), timeout_s=3600)
    gpus = monitor.facts()["gpus"]
    state.show(*HOSTS["MI355X x1"], lines=("do=hang",))
    sampler = Sampler(monitor, gpus, interval_s=0.01, on_sample=gate)
    sampler.start()
    monitor.close()
    gate.reach(1)
    assert sampler.stop()["notes"]


def test_samples_take_less_than_a_hundredth_of_a_core(
    use_smi: Callable[[str, str], State], tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    """A look at eight GPUs through the real wheel costs less than 10 ms, in both processes.

    So one a second takes less than 1 %. The real library asks the hardware, which costs more: the
    sampler measures itself and becomes slower where that is needed (test_gpu_samples).
    """
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI300X x8"])
    with closing(AmdMonitor(SysfsMonitor(tmp_path))) as monitor:
        assert len(monitor.facts()["gpus"]) == 8
        spent: list[float] = []

        def one_look() -> None:
            before = time.thread_time()
            look = monitor.sample(rare=True)
            spent.append(look.cpu_s + time.thread_time() - before)
            assert len(look.readings) == 8

        benchmark.pedantic(one_look, rounds=100, warmup_rounds=5)
    benchmark.extra_info["cpu_s_per_1000_samples"] = round(sum(spent) / len(spent) * 1000, 3)
    assert sum(spent) / len(spent) < SHARE * 1.0
