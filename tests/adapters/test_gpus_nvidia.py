"""The real nvidia-ml-py over a stand-in of NVIDIA's library, and without any."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from pytest_vllm.adapters.gpus import probe
from pytest_vllm.adapters.gpus.nvidia import NvidiaMonitor
from pytest_vllm.domain.devices import usable_devices

SOURCE = Path(__file__).parents[1] / "data/smi/nvml.c"
MIB = 2**20
H100 = (81559 * MIB, 478 * MIB)
"""What an H100 80GB has in all, and what its driver keeps of that."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the stand-in."""
    folder = tmp_path_factory.mktemp("nvml")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", target, SOURCE], check=True)
    return folder


@pytest.fixture
def state(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says what the stand-in shows."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("NVML_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def line(bus: str, *, used: int, lost: str = "") -> str:
    """Describe an H100."""
    return f"00000000:{bus}:00.0 {H100[0]} {H100[1]} {used} {lost}\n"


def test_gpus_are_told_as_cuda_counts_them(state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The memory is what CUDA gives, without what the driver keeps: 79.18 of 79.65 GiB."""
    state.write_text(line("0F", used=5 * MIB) + line("CB", used=70_000 * MIB), encoding="utf-8")
    with closing(NvidiaMonitor()) as monitor:
        facts = monitor.facts()
        look = monitor.sample(rare=True)
    assert (facts["monitor"], facts["reason"]) == ("nvidia", "")
    assert facts["source"].startswith("nvidia-ml-py ")
    idle, busy = facts["gpus"]
    assert idle == {
        "index": 0,
        "name": "NVIDIA H100 80GB HBM3",
        "vendor": "nvidia",
        "gfx": "",
        "compute_capability": "9.0",
        "device_id": "0x2330",
        "uuid": "GPU-5a1d",
        "driver": "575.57.08",
        "bdf": "0000:0f:00.0",
        "render_node": "",
        "hip_index": 0,
        "vram_total_bytes": H100[0] - H100[1],
        "vram_used_bytes": 5 * MIB,
        "hip_total_bytes": None,
        "partition": "",
        "processes": [],
        "socket": "0000:0f:00",
        "shared_with": [],
    }
    assert busy["processes"] == [
        {"pid": 4242, "name": "VLLM::Worker_4242", "vram_used_bytes": 69_999 * MIB}
    ]
    assert round(usable_devices(facts)[0].total_bytes / 2**30, 2) == 79.18
    assert look.readings["0000:cb:00.0"] == {
        "vram_used_bytes": 70_000 * MIB,
        "activity_percent": 97,
        "power_w": pytest.approx(121.5),
        "temperature_c": 36,
        "memory_temperature_c": None,
        "gfx_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "ecc_errors": 0,
    }
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_driver_before_510_counts_its_own_share_as_used(state: Path) -> None:
    state.write_text(f"old\n{line('0F', used=5 * MIB)}", encoding="utf-8")
    with closing(NvidiaMonitor()) as monitor:
        gpu = monitor.facts()["gpus"][0]
    assert (gpu["vram_total_bytes"], gpu["vram_used_bytes"]) == (H100[0], 483 * MIB)


def test_a_gpu_that_is_lost_falls_silent(state: Path) -> None:
    state.write_text(line("0F", used=5 * MIB) + line("CB", used=MIB), encoding="utf-8")
    with closing(NvidiaMonitor()) as monitor:
        assert monitor.sample(rare=False).readings["0000:0f:00.0"]["vram_used_bytes"] == 5 * MIB
        lost = line("0F", used=5 * MIB, lost="lost")
        state.write_text(lost + line("CB", used=2 * MIB), encoding="utf-8")
        look = monitor.sample(rare=True)
    assert not any(value is not None for value in look.readings["0000:0f:00.0"].values())
    assert look.readings["0000:cb:00.0"]["vram_used_bytes"] == 2 * MIB


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "NVML sees no GPU"),
        ("init=9\n", "NVML: driver nvidia is not loaded (error 9)"),
        ("init=4\n", "NVML: no permission: this user may not use /dev/nvidiactl (error 4)"),
        (
            "init=18\n",
            "NVML: driver and library differ in version: reload the driver or reboot (error 18)",
        ),
    ],
)
def test_every_failure_is_one_clear_reason(state: Path, text: str, reason: str) -> None:
    state.write_text(text, encoding="utf-8")
    with closing(probe("nvidia")) as monitor:
        facts = monitor.facts()
        look = monitor.sample(rare=False)
    assert (facts["gpus"], facts["reason"]) == ([], reason)
    assert not look.readings
    assert look.problem == ("" if not text else reason)


def test_without_the_library_the_reason_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is no library hides a real one, where this runs on a machine that has it."""
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"this is no ELF file")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with closing(NvidiaMonitor()) as monitor:
        reason = monitor.facts()["reason"]
    assert reason == "NVML: the driver's library libnvidia-ml.so.1 is not installed (error 12)"
