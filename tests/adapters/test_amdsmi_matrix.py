"""The real wheels of amdsmi over a stand-in of ROCm's library, on hosts that we do not have."""

from __future__ import annotations

from contextlib import closing
from shutil import copytree
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.gpus import probe
from pytest_vllm.adapters.gpus.amd import AmdMonitor
from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from pytest_vllm.domain.devices import usable_devices
from tests.data.smi.standin import ABIS, HOSTS, MI300X
from tests.data.smi.tree import add_card, add_node, add_sensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.data.smi.standin import Smi, State

    Use = Callable[[str, str], State]

NEWEST, OLDER = "7.0.2", "6.4.4"
KNOWN = {"0x74a1": ("AMD MI300X", "gfx942"), "0x740c": ("AMD MI250", "gfx90a")}
KNOWN |= {"0x75a3": ("AMD MI355X", "gfx950"), "0x744c": ("AMD Radeon RX 7900 XTX", "gfx1100")}


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[AmdMonitor]:
    """A monitor that sees nothing of this machine's own files."""
    with closing(AmdMonitor(SysfsMonitor(tmp_path / "sys", proc=tmp_path / "proc"))) as made:
        yield made


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("version", ABIS)
def test_every_wheel_reads_every_host(
    version: str,
    host: str,
    use_smi: Use,
    monitor: AmdMonitor,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The wheel, its ctypes structures and the library's interface are those of one release."""
    state = use_smi(version, version)
    shown = HOSTS[host]
    state.show(*shown)
    facts = monitor.facts()
    assert (facts["monitor"], facts["reason"]) == ("amd", "")
    assert facts["source"] == f"amdsmi {version}"
    assert len(facts["gpus"]) == len(shown)
    look = monitor.sample(rare=True)
    assert look.problem == ""
    for index, (gpu, truth) in enumerate(zip(facts["gpus"], shown, strict=True)):
        assert (gpu["index"], gpu["bdf"]) == (index, truth["bdf"])
        assert gpu["vram_total_bytes"] == truth["total"]
        assert gpu["vram_used_bytes"] == truth["used"]
        assert (gpu["device_id"], (gpu["name"], gpu["gfx"])) == (truth["id"], KNOWN[truth["id"]])  # type: ignore[index]
        assert gpu["partition"] == "/".join(
            str(truth[key]) for key in ("compute", "memory") if key in truth
        )
        hip = truth["hip"] if ABIS[version] >= 64 else None  # older wheels do not know it
        assert gpu["hip_index"] == hip
        assert look.readings[gpu["bdf"]] == {
            "vram_used_bytes": truth["used"],
            "activity_percent": truth["activity"],
            "temperature_c": truth["hotspot"],
            "gfx_clock_mhz": truth["sclk"],
            "memory_clock_mhz": truth["mclk"],
            **({"memory_temperature_c": truth["vram"]} if "vram" in truth else {}),
            **({"ecc_errors": truth["ue"]} if "ue" in truth else {}),
        }
    assert tuple(capfd.readouterr()) == ("", "")


def test_partitions_share_one_memory(use_smi: Use, monitor: AmdMonitor) -> None:
    """Every partition of a GPU in CPX reports all of its memory; a rank may take an eighth."""
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI300X in CPX"])
    facts = monitor.facts()
    assert {gpu["socket"] for gpu in facts["gpus"]} == {"0000:05:00"}
    assert facts["gpus"][3]["shared_with"] == [0, 1, 2, 4, 5, 6, 7]
    assert facts["gpus"][3]["partition"] == "CPX/NPS4"
    devices = usable_devices(facts)
    total, used = int(str(MI300X["total"])), int(str(MI300X["used"]))
    assert len(devices) == 8
    assert sum(device.total_bytes for device in devices) <= total
    assert sum(device.free_bytes for device in devices) <= total - used
    assert devices[0].total_bytes == total // 8


def test_the_dies_of_an_mi250_are_devices_of_their_own(use_smi: Use, monitor: AmdMonitor) -> None:
    """Four cards are eight devices of 64 GiB; HIP may count them in another order."""
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI250 x4"])
    facts = monitor.facts()
    assert [gpu["shared_with"] for gpu in facts["gpus"]] == [[]] * 8
    devices = usable_devices(facts)
    assert [device.total_bytes for device in devices] == [68702699520] * 8
    assert [device.bdf for device in devices[:2]] == ["0000:26:00.0", "0000:05:00.0"]


def test_what_a_gpu_does_not_tell_is_not_known(use_smi: Use, monitor: AmdMonitor) -> None:
    state = use_smi(NEWEST, NEWEST)
    state.show({"bdf": "0000:05:00.0"}, {"bdf": "0000:26:00.0", **MI300X})
    silent, told = monitor.facts()["gpus"]
    assert (silent["vram_total_bytes"], silent["vram_used_bytes"]) == (None, None)
    assert (silent["partition"], silent["hip_index"], silent["device_id"]) == ("", None, "")
    assert told["vram_total_bytes"] == MI300X["total"]
    readings = monitor.sample(rare=True).readings
    assert not any(value is not None for value in readings["0000:05:00.0"].values())
    assert readings["0000:26:00.0"]["temperature_c"] == MI300X["hotspot"]


def test_a_gpu_that_is_lost_falls_silent_and_the_others_do_not(
    use_smi: Use, monitor: AmdMonitor
) -> None:
    state = use_smi(NEWEST, NEWEST)
    state.show(*HOSTS["MI300X x8"])
    assert monitor.sample(rare=True).readings["0000:46:00.0"]["activity_percent"] == 3
    state.change(2, lost=1)
    state.change(3, used=28991029248)
    look = monitor.sample(rare=True)
    assert look.problem == ""
    assert look.readings["0000:46:00.0"] == {}
    assert look.readings["0000:65:00.0"]["vram_used_bytes"] == 28991029248
    state.change(2, lost=None)
    assert monitor.sample(rare=True).readings["0000:46:00.0"]["activity_percent"] == 3


def test_a_gpu_that_is_lost_from_the_start_hides_no_other(
    use_smi: Use, monitor: AmdMonitor
) -> None:
    state = use_smi(NEWEST, NEWEST)
    state.show(*HOSTS["MI300X x8"])
    state.change(2, lost=1)
    facts = monitor.facts()
    assert len(facts["gpus"]) == 7
    assert facts["reason"] == "AMD SMI sees 1 GPUs that tell no address; see dmesg"


def test_a_sensor_that_a_gpu_lacks_is_not_asked_again(use_smi: Use, monitor: AmdMonitor) -> None:
    """The hottest spot is preferred; a GPU without it tells the temperature of its edge."""
    state = use_smi(NEWEST, NEWEST)
    state.show({"bdf": "0000:05:00.0", "edge": 33})
    assert monitor.sample(rare=False).readings["0000:05:00.0"]["temperature_c"] == 33
    state.change(0, hotspot=90)
    assert monitor.sample(rare=False).readings["0000:05:00.0"]["temperature_c"] == 33


def test_sysfs_adds_what_the_library_has_no_stable_call_for(
    use_smi: Use, tmp_path: Path, monitor: AmdMonitor
) -> None:
    """Name, driver, render node, instruction set and power come out of files."""
    use_smi(NEWEST, NEWEST).show({"bdf": "0000:05:00.0", **MI300X})
    device = add_card(tmp_path / "sys", 1, bdf="0000:05:00.0", unique_id="a1b2", device="0x74a1")
    add_sensors(device)
    add_node(tmp_path / "sys", 1, gfx=90402, minor=129, bdf="0000:05:00.0", gpu_id=7)
    gpu = monitor.facts()["gpus"][0]
    assert (gpu["name"], gpu["gfx"]) == ("AMD Instinct MI300X OAM", "gfx942")
    assert (gpu["render_node"], gpu["uuid"]) == ("/dev/dri/renderD129", "GPU-a1b2")
    assert gpu["vram_used_bytes"] == MI300X["used"], "the library is believed first"
    reading = monitor.sample(rare=True).readings["0000:05:00.0"]
    assert reading["power_w"] == pytest.approx(145)
    assert reading["temperature_c"] == MI300X["hotspot"]


def test_rocms_own_package_is_preferred_to_the_wheel(
    smi: Smi, use_smi: Use, monitor: AmdMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fits the library that it came with; here the wheel beside it does not."""
    use_smi(OLDER, NEWEST).show(*HOSTS["MI355X x1"])
    rocm = tmp_path / "rocm"
    copytree(smi.library(NEWEST), rocm)
    copytree(smi.wheel(NEWEST) / "amdsmi", rocm / "share/amd_smi/amdsmi")
    monkeypatch.setenv("ROCM_PATH", str(rocm))
    facts = monitor.facts()
    assert facts["reason"] == ""
    assert facts["source"] == f"ROCm's package in {rocm}/share/amd_smi"


def test_a_package_of_rocms_that_cannot_be_imported_gives_way_to_the_wheel(
    use_smi: Use, monitor: AmdMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smi: Smi
) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI355X x1"])
    rocm = tmp_path / "rocm"
    copytree(smi.library(NEWEST), rocm)
    (rocm / "share/amd_smi/amdsmi").mkdir(parents=True)
    broken = "print('noise')\nraise ImportError('made for another Python')\n"
    (rocm / "share/amd_smi/amdsmi/__init__.py").write_text(broken, encoding="utf-8")
    monkeypatch.setenv("ROCM_PATH", str(rocm))
    facts = monitor.facts()
    assert (facts["reason"], facts["source"]) == ("", f"amdsmi {NEWEST}")


def test_auto_takes_amd_smi_where_it_sees_a_gpu(use_smi: Use) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI300X x8"])
    with closing(probe("auto")) as monitor:
        assert monitor.name == "amd"
        assert len(monitor.facts()["gpus"]) == 8
