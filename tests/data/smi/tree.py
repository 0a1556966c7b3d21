"""Makes trees of files as the kernel shows GPUs in `/sys` and processes in `/proc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MI300X_BYTES = 206141652992


def write(folder: Path, **files: object) -> None:
    """Write one small file for each value, with a line end as the kernel has it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n", encoding="utf-8")


def add_card(
    root: Path, number: int, *, bdf: str = "", driver: str = "amdgpu", **files: object
) -> Path:
    """Write what the amdgpu driver shows for one card, and its connectors; return its folder."""
    device = root / f"class/drm/card{number}/device"
    (device / f"drm/renderD{128 + number}").mkdir(parents=True)
    (device / f"drm/card{number}").mkdir()
    (root / f"class/drm/card{number}-DP-1").mkdir()
    (root / f"class/drm/renderD{128 + number}").mkdir()
    told = {
        "uevent": f"DRIVER={driver}\nPCI_CLASS=38000\nPCI_ID=1002:74A1\nPCI_SLOT_NAME={bdf}",
        "vendor": "0x1002",
        "product_name": "AMD Instinct MI300X OAM",
        "mem_info_vram_total": MI300X_BYTES,
        "mem_info_vram_used": 297771008,
    }
    write(device, **{**told, **files})
    return device


def add_sensors(device: Path, **files: object) -> None:
    """Write the sensors of a card: hwmon of an MI300X unless told otherwise."""
    told: dict[str, object] = {
        "name": "amdgpu",
        "power1_input": 145_000_000,
        "temp1_label": "edge",
        "temp1_input": 40_000,
        "temp2_label": "junction",
        "temp2_input": 47_000,
        "temp3_label": "mem",
        "temp3_input": 39_000,
        "freq1_label": "sclk",
        "freq1_input": 132_000_000,
        "freq2_label": "mclk",
        "freq2_input": 900_000_000,
    }
    kept = {name: value for name, value in (told | files).items() if value is not None}
    write(device / "hwmon/hwmon3", **kept)
    write(device, gpu_busy_percent=7)
    write(device / "ras", umc_err_count="ue: 2\nce: 9", gfx_err_count="ue: 1\nce: 0")


def add_node(
    root: Path,
    number: int,
    *,
    gfx: int,
    minor: int,
    bdf: str = "",
    partition: int = 0,
    gpu_id: int = 0,
    memory: int = 0,
) -> None:
    """Write one node of KFD's topology; node 0 is the CPU."""
    node = root / f"class/kfd/kfd/topology/nodes/{number}"
    domain, bus, rest = (bdf or "0000:00:00.0").split(":")
    device, function = rest.split(".")
    location = int(bus, 16) << 8 | int(device, 16) << 3 | int(function) | partition << 28
    write(
        node,
        properties=f"cpu_cores_count 0\nsimd_count 1216\ngfx_target_version {gfx}\n"
        f"vendor_id 4098\nlocation_id {location}\ndomain {int(domain, 16)}\n"
        f"drm_render_minor {minor}\nunique_id 18446744073709551615",
        gpu_id=gpu_id,
    )
    if memory:
        write(node / "mem_banks/0", properties=f"heap_type 1\nsize_in_bytes {memory}\nflags 0")
