"""The files of the amdgpu driver, as whole hosts show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from pytest_vllm.domain.devices import usable_devices
from tests.data.smi.tree import MI300X_BYTES, add_card, add_node, add_sensors, write

if TYPE_CHECKING:
    from pathlib import Path

DIE = {"product_name": "AMD Instinct MI250 (MCM) OAM", "mem_info_vram_total": 68702699520}
BUSES = ("05", "26", "46", "65", "85", "a6", "c6", "e5")


def watch(tmp_path: Path) -> SysfsMonitor:
    return SysfsMonitor(tmp_path / "sys", proc=tmp_path / "proc")


def test_a_host_with_eight_gpus(tmp_path: Path) -> None:
    for number, bus in enumerate(BUSES):
        bdf = f"0000:{bus}:00.0"
        device = add_card(
            tmp_path / "sys",
            number + 1,
            bdf=bdf,
            device="0x74a1",
            unique_id=f"a1b2c3d4e5f6070{number}",
            current_compute_partition="SPX",
            current_memory_partition="NPS1",
        )
        add_sensors(device)
        node = {"minor": 129 + number, "gpu_id": 5000 + number, "memory": MI300X_BYTES}
        add_node(tmp_path / "sys", number + 2, gfx=90402, bdf=bdf, **node)
    write(tmp_path / "sys/module/amdgpu", version="6.14.14")
    facts = watch(tmp_path).facts()
    assert [gpu["bdf"][5:7] for gpu in facts["gpus"]] == list(BUSES)
    assert [gpu["hip_index"] for gpu in facts["gpus"]] == list(range(8))
    last = facts["gpus"][7]
    assert (last["partition"], last["driver"]) == ("SPX/NPS1", "6.14.14")
    assert (last["uuid"], last["device_id"]) == ("GPU-a1b2c3d4e5f60707", "0x74a1")
    assert (last["render_node"], last["shared_with"]) == ("/dev/dri/renderD136", [])
    assert last["hip_total_bytes"] == MI300X_BYTES
    assert len(usable_devices(facts)) == 8


def test_sensors_are_read_in_their_units(tmp_path: Path) -> None:
    add_sensors(add_card(tmp_path / "sys", 0, bdf="0000:05:00.0"))
    monitor = watch(tmp_path)
    reading = {
        "vram_used_bytes": 297771008,
        "activity_percent": 7,
        "power_w": pytest.approx(145),
        "temperature_c": pytest.approx(47),
        "memory_temperature_c": pytest.approx(39),
        "gfx_clock_mhz": 132,
        "memory_clock_mhz": 900,
    }
    assert monitor.sample(rare=False).readings == {"0000:05:00.0": reading}
    assert monitor.sample(rare=True).readings["0000:05:00.0"] == reading | {"ecc_errors": 3}


def test_what_the_firmware_averages_comes_before_the_present_power(tmp_path: Path) -> None:
    device = add_card(tmp_path / "sys", 0, bdf="0000:05:00.0")
    add_sensors(device, power1_average=90_000_000, temp2_label=None, temp3_label="vram")
    reading = watch(tmp_path).sample(rare=False).readings["0000:05:00.0"]
    assert reading["power_w"] == pytest.approx(90)
    assert reading["temperature_c"] == pytest.approx(40), "no hotspot: the edge"
    assert reading["memory_temperature_c"] is None


def test_a_card_that_goes_away_falls_silent(tmp_path: Path) -> None:
    device = add_card(tmp_path / "sys", 0, bdf="0000:05:00.0")
    add_sensors(device)
    monitor = watch(tmp_path)
    assert monitor.sample(rare=True).readings["0000:05:00.0"]["gfx_clock_mhz"] == 132
    device.rename(tmp_path / "gone")
    gone = monitor.sample(rare=True).readings["0000:05:00.0"]
    assert not any(value is not None for value in gone.values())


def test_rubbish_in_sensors_is_not_known(tmp_path: Path) -> None:
    device = add_card(tmp_path / "sys", 0, bdf="0000:05:00.0", mem_info_vram_used="many")
    add_sensors(device, power1_input="", temp2_input="hot", freq1_input="-")
    write(device / "ras", umc_err_count="none", gfx_err_count="")
    (device / "gpu_busy_percent").write_bytes(b"\xff\x00")
    reading = watch(tmp_path).sample(rare=True).readings["0000:05:00.0"]
    assert {name for name, value in reading.items() if value is not None} == {
        "memory_temperature_c",
        "memory_clock_mhz",
    }


def test_the_dies_of_an_mi250_share_nothing(tmp_path: Path) -> None:
    """Four cards are eight devices with addresses of their own, of 64 GiB each."""
    for number, bus in enumerate(BUSES):
        add_card(tmp_path / "sys", number, bdf=f"0000:{bus}:00.0", **DIE)
        bdf = f"0000:{BUSES[7 - number]}:00.0"  # the compute driver lists them the other way round
        add_node(tmp_path / "sys", number + 2, gfx=90010, minor=135 - number, bdf=bdf, gpu_id=9)
    facts = watch(tmp_path).facts()
    assert {gpu["vram_total_bytes"] for gpu in facts["gpus"]} == {68702699520}
    assert [gpu["shared_with"] for gpu in facts["gpus"]] == [[]] * 8
    assert [gpu["hip_index"] for gpu in facts["gpus"]] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert [device.bdf[5:7] for device in usable_devices(facts)] == list(reversed(BUSES))


def test_partitions_come_from_the_topology_and_share_one_memory(tmp_path: Path) -> None:
    """In CPX only the first of eight has a device folder; each would report the whole memory."""
    device = add_card(
        tmp_path / "sys",
        1,
        bdf="0000:05:00.0",
        current_compute_partition="CPX",
        current_memory_partition="NPS4",
    )
    add_sensors(device)
    share = MI300X_BYTES // 8
    for number in range(8):
        (tmp_path / f"sys/class/drm/card{number + 2}/device").mkdir(parents=True)
        where = {"bdf": "0000:05:00.0", "partition": number, "gpu_id": number + 1}
        add_node(tmp_path / "sys", number + 1, gfx=90402, minor=129 + number, memory=share, **where)
    monitor = watch(tmp_path)
    facts = monitor.facts()
    assert [gpu["bdf"] for gpu in facts["gpus"]] == [f"0000:05:00.{n}" for n in range(8)]
    assert [gpu["render_node"][-3:] for gpu in facts["gpus"]] == [f"{129 + n}" for n in range(8)]
    assert facts["gpus"][0]["shared_with"] == [1, 2, 3, 4, 5, 6, 7]
    assert {gpu["vram_total_bytes"] for gpu in facts["gpus"]} == {MI300X_BYTES}
    devices = usable_devices(facts)
    assert {device.total_bytes for device in devices} == {share}
    assert sum(device.free_bytes for device in devices) <= MI300X_BYTES - 297771008
    readings = monitor.sample(rare=False).readings
    assert len(readings) == 8
    assert [reading["power_w"] for reading in readings.values()] == pytest.approx([145] * 8)


def test_processes_are_named_where_they_can_be(tmp_path: Path) -> None:
    """The driver lists processes by their numbers on the host; not all can be seen from here."""
    add_card(tmp_path / "sys", 0, bdf="0000:05:00.0")
    add_node(tmp_path / "sys", 1, gfx=90402, minor=128, bdf="0000:05:00.0", gpu_id=77)
    write(tmp_path / "sys/class/kfd/kfd/proc/4242", vram_77=28991029248, vram_78=5, pasid=1)
    write(tmp_path / "sys/class/kfd/kfd/proc/99", vram_77=4096)
    write(tmp_path / "proc/4242", comm="VLLM::Worker_TP0")
    assert watch(tmp_path).facts()["gpus"][0]["processes"] == [
        {"pid": 4242, "name": "VLLM::Worker_TP0", "vram_used_bytes": 28991029248},
        {"pid": 99, "name": "", "vram_used_bytes": 4096},
    ]


def test_a_gpu_that_a_container_may_not_use_has_no_place_in_hips_order(tmp_path: Path) -> None:
    """Its files in the topology cannot be read, and HIP leaves it out."""
    for number, gpu_id in enumerate((11, 0, 33)):
        bdf = f"0000:{BUSES[number]}:00.0"
        add_card(tmp_path / "sys", number, bdf=bdf)
        add_node(tmp_path / "sys", number, gfx=90402, minor=128 + number, bdf=bdf, gpu_id=gpu_id)
    (tmp_path / "sys/class/kfd/kfd/topology/nodes/1/gpu_id").unlink()
    assert [gpu["hip_index"] for gpu in watch(tmp_path).facts()["gpus"]] == [0, None, 1]


def test_a_card_without_a_label_is_named_by_its_device(tmp_path: Path) -> None:
    add_card(tmp_path / "sys", 0, bdf="0000:03:00.0", product_name="", device="0x744c")
    add_card(tmp_path / "sys", 1, bdf="0000:05:00.0", product_name="", device="0xffff")
    known, unknown = watch(tmp_path).facts()["gpus"]
    assert (known["name"], known["gfx"]) == ("AMD Radeon RX 7900 XTX", "gfx1100")
    assert (unknown["name"], unknown["gfx"]) == ("", "")
