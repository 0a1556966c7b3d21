"""GPUs: two runs never share one, and their memory is waited for before and after."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.backends.lease import lease_gpus
from pytest_vllm.adapters.backends.vram import LIMIT_S, VramWatch
from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from pytest_vllm.domain.errors import HostError
from tests.data.smi.tree import add_card, add_node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GIB = 2**30
NODES = ("/dev/dri/renderD128", "/dev/dri/renderD129")


class Clock:
    """Time that passes only while somebody sleeps; then things happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, Callable[[], object]]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for event in [e for e in self.events if e[0] <= self.now]:
            self.events.remove(event)
            event[1]()


def test_a_second_run_fails_or_waits_and_says_for_whom(tmp_path: Path) -> None:
    folder, clock, said = tmp_path / "gpus", Clock(), list[str]()
    first = lease_gpus(NODES[1:], run_id="r1", limit_s=0, on_wait=said.append, folder=folder)
    assert folder.stat().st_mode & 0o7777 == 0o1777
    with pytest.raises(HostError, match=rf"renderD129 is leased by run r1 \(PID {os.getpid()}"):
        lease_gpus(NODES, run_id="r2", limit_s=0, on_wait=said.append, folder=folder)
    # The half that was free is free again, and nobody waited.
    assert [file.name for file in folder.iterdir()] == ["renderD129"]
    assert said == []
    clock.events = [(3.0, first.release)]
    second = lease_gpus(
        NODES, run_id="r2", limit_s=60, on_wait=said.append, folder=folder, clock=clock,
        sleep=clock.sleep,
    )  # fmt: skip
    assert clock.now == 3.0
    assert "run r1" in said[0]
    assert json.loads((folder / "renderD128").read_text())["run"] == "r2"
    second.release()
    assert list(folder.iterdir()) == []


def test_the_wait_for_a_gpu_is_bounded(tmp_path: Path) -> None:
    clock = Clock()
    held = lease_gpus(NODES, run_id="r1", limit_s=0, on_wait=print, folder=tmp_path)
    with pytest.raises(HostError, match=r"run r1 .* after 5 s \(--vllm-timeout\)"):
        lease_gpus(
            NODES, run_id="r2", limit_s=5, on_wait=lambda _: None, folder=tmp_path, clock=clock,
            sleep=clock.sleep,
        )  # fmt: skip
    assert clock.now == 5.0
    held.release()


def test_without_gpus_nothing_is_leased(tmp_path: Path) -> None:
    folder = tmp_path / "gpus"
    lease_gpus((), run_id="r", limit_s=0, on_wait=print, folder=folder).release()
    assert not folder.exists()


def test_a_lock_file_that_cannot_be_used_is_the_hosts_fault(tmp_path: Path) -> None:
    (tmp_path / "renderD128").symlink_to("/etc/passwd")
    with pytest.raises(HostError, match="the lock file .* cannot be used"):
        lease_gpus(NODES, run_id="r", limit_s=0, on_wait=print, folder=tmp_path)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Two GPUs of 64 GiB."""
    for number in (0, 1):
        device = tmp_path / f"class/drm/card{number}/device"
        (device / f"drm/renderD{128 + number}").mkdir(parents=True)
        (device / "uevent").write_text(f"DRIVER=amdgpu\nPCI_SLOT_NAME=0000:0{number}:00.0\n")
        (device / "vendor").write_text("0x1002\n")
        (device / "mem_info_vram_total").write_text(str(64 * GIB))
        (device / "mem_info_vram_used").write_text(str(GIB // 4))
    return tmp_path


def use(sysfs: Path, number: int, gib: float) -> None:
    file = sysfs / f"class/drm/card{number}/device/mem_info_vram_used"
    file.write_text(str(int(gib * GIB)))


def watch(sysfs: Path, clock: Clock) -> VramWatch:
    """Watch the first GPU; the second belongs to somebody else."""
    look = SysfsMonitor(sysfs).facts
    return VramWatch(look, nodes=NODES[:1], clock=clock, sleep=clock.sleep)


def test_memory_that_comes_back_is_waited_for(sysfs: Path) -> None:
    clock, said = Clock(), list[str]()
    vram = watch(sysfs, clock)
    vram.settle(said.append)
    assert (clock.now, said) == (0.0, [])
    use(sysfs, 0, 50)
    use(sysfs, 1, 60)  # another's GPU, and another's business
    clock.events = [(7.0, lambda: use(sysfs, 0, 1.2))]
    assert vram.check_release(said.append) == ()
    assert clock.now == 7.0
    assert said[0] == "waiting: 49.8 GiB of VRAM not released yet"


def test_memory_that_stays_is_a_finding(sysfs: Path) -> None:
    clock = Clock()
    vram = watch(sysfs, clock)
    use(sysfs, 0, 20)
    vram.settle(lambda _: None)
    assert clock.now == 10.0  # a tenant who stays is waited for no longer
    use(sysfs, 0, 50)
    (leak,) = vram.check_release(lambda _: None)
    assert clock.now == 10.0 + LIMIT_S
    assert leak.id == "gpu.vram-not-released"
    assert "renderD128 30.0 GiB" in leak.seen


def test_memory_of_a_run_before_is_waited_for(sysfs: Path) -> None:
    clock, said = Clock(), list[str]()
    use(sysfs, 0, 60)
    clock.events = [(4.0, lambda: use(sysfs, 0, 30)), (12.0, lambda: use(sysfs, 0, 0.3))]
    vram = watch(sysfs, clock)
    vram.settle(said.append)
    assert clock.now == 12.0
    assert said[0].startswith("waiting: 60.0 GiB of VRAM in use")
    use(sysfs, 0, 1.0)
    assert vram.check_release(said.append) == ()


def test_unknown_memory_is_no_leak() -> None:
    clock = Clock()
    vram = VramWatch(
        lambda: {"gpus": [{"render_node": NODES[0], "vram_used_bytes": None}]},
        nodes=NODES,
        clock=clock,
        sleep=clock.sleep,
    )
    vram.settle(print)
    assert vram.check_release(print) == ()
    assert clock.now == 0.0


def test_partitions_of_one_gpu_count_once(tmp_path: Path) -> None:
    """Each of the eight tells the memory of the whole GPU; added up they would be eight GPUs."""
    device = add_card(tmp_path, 0, bdf="0000:05:00.0", current_compute_partition="CPX")
    for number in range(8):
        where = {"bdf": "0000:05:00.0", "partition": number, "gpu_id": number + 1}
        add_node(tmp_path, number + 1, gfx=90402, minor=128 + number, **where)
    monitor = SysfsMonitor(tmp_path)
    nodes = [gpu["render_node"] for gpu in monitor.facts()["gpus"]]
    assert len(nodes) == 8
    clock, said = Clock(), list[str]()
    vram = VramWatch(monitor.facts, nodes=nodes, clock=clock, sleep=clock.sleep)
    vram.settle(said.append)
    (device / "mem_info_vram_used").write_text(str(60 * GIB))
    clock.events = [(3.0, lambda: (device / "mem_info_vram_used").write_text(str(GIB)))]
    assert vram.check_release(said.append) == ()
    assert said[0] == "waiting: 59.7 GiB of VRAM not released yet"
