"""GPU facts: out of a tree of files, out of AMD SMI, and clear words where there are none."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version
from importlib.util import find_spec
from shutil import copyfile
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.gpus import UNKNOWN_GPU, probe
from pytest_vllm.adapters.gpus.amd import AmdMonitor
from pytest_vllm.adapters.gpus.kfd import gfx_name
from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from tests.data.smi.tree import MI300X_BYTES, add_card, add_node

if TYPE_CHECKING:
    from pathlib import Path

ROOM = 'import sys, types\nclass AmdSmiMemoryType:\n    VRAM = "vram"\n'
CALLS = """
def amdsmi_init(): print("noise on stdout"); print("noise on stderr", file=sys.stderr)
def amdsmi_get_processor_handles(): return ["0000:26:00.0", "0000:05:00.0"]
def amdsmi_get_gpu_device_bdf(handle): return handle.upper()
def amdsmi_get_gpu_memory_total(handle, kind): return 206141652992
def amdsmi_get_gpu_memory_usage(handle, kind): return 297771008
def amdsmi_shut_down(): print("noise without line end", end="")
"""
HANGING = """
import itertools, os
asked = itertools.count()
def amdsmi_get_gpu_memory_usage(handle, kind): return next(asked) < 2 or os.read(os.pipe()[0], 1)
"""


def test_cards_are_read_by_address(tmp_path: Path) -> None:
    add_card(tmp_path, 1, bdf="0000:26:00.0")
    add_card(tmp_path, 2, bdf="0000:05:00.0", mem_info_vram_used="1")
    add_node(tmp_path, 0, gfx=0, minor=0)
    add_node(tmp_path, 1, gfx=90402, minor=129)
    add_node(tmp_path, 2, gfx=90010, minor=130)
    facts = SysfsMonitor(tmp_path).facts()
    assert (facts["monitor"], facts["reason"]) == ("sysfs", "")
    first, second = facts["gpus"]
    assert first | {"driver": ""} == UNKNOWN_GPU | {
        "index": 0,
        "name": "AMD Instinct MI300X OAM",
        "vendor": "amd",
        "gfx": "gfx90a",
        "bdf": "0000:05:00.0",
        "vram_total_bytes": MI300X_BYTES,
        "vram_used_bytes": 1,
        "render_node": "/dev/dri/renderD130",
        "hip_index": None,
        "socket": "0000:05:00",
        "shared_with": [],
    }
    assert first["driver"].startswith("of kernel ")
    assert (second["index"], second["bdf"], second["gfx"]) == (1, "0000:26:00.0", "gfx942")
    assert second["vram_used_bytes"] == 297771008
    assert second["render_node"] == "/dev/dri/renderD129"


def test_what_a_driver_does_not_tell_is_not_known(tmp_path: Path) -> None:
    add_card(tmp_path, 0, bdf="0000:03:00.0", mem_info_vram_total="", product_name="")
    (tmp_path / "class/drm/card0/device/mem_info_vram_used").unlink()
    gpu = SysfsMonitor(tmp_path).facts()["gpus"][0]
    assert gpu["vram_total_bytes"] is None
    assert gpu["vram_used_bytes"] is None
    assert (gpu["name"], gpu["gfx"]) == ("", "")


def test_cards_of_others_do_not_count(tmp_path: Path) -> None:
    add_card(tmp_path, 0, driver="nvidia", vendor="0x10de")
    add_card(tmp_path, 1, driver="vfio-pci")
    facts = SysfsMonitor(tmp_path).facts()
    assert facts["gpus"] == []
    assert "no card of driver amdgpu" in facts["reason"]
    assert "2 cards of other drivers" in facts["reason"]


def test_without_a_folder_of_cards_sysfs_says_so(tmp_path: Path) -> None:
    assert SysfsMonitor(tmp_path).facts()["reason"] == f"there is no {tmp_path}/class/drm"


def test_rubbish_is_no_crash(tmp_path: Path) -> None:
    add_card(tmp_path, 0, bdf="0000:03:00.0", mem_info_vram_total="many", vendor="0x1002")
    (tmp_path / "class/kfd/kfd/topology/nodes/0").mkdir(parents=True)
    (tmp_path / "class/kfd/kfd/topology/nodes/0/properties").write_bytes(b"\xff\x00gfx x\n")
    assert SysfsMonitor(tmp_path).facts()["gpus"][0]["vram_total_bytes"] is None


@pytest.mark.parametrize(
    ("number", "name"),
    [(90402, "gfx942"), (90010, "gfx90a"), (90500, "gfx950"), (110000, "gfx1100")],
)
def test_instruction_sets_have_their_usual_names(number: int, name: str) -> None:
    assert gfx_name(number) == name


def test_the_real_wheel_without_rocm_is_a_clear_reason_and_no_noise(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel prints to standard output and raises KeyError."""
    assert version("amdsmi")
    monkeypatch.setenv("ROCM_PATH", "/nonexistent")
    facts = AmdMonitor().facts()
    assert facts["monitor"] == "amd"
    assert facts["gpus"] == []
    assert facts["reason"] == "ROCm's library libamd_smi.so is not installed"
    assert tuple(capfd.readouterr()) == ("", "")
    assert "amdsmi" not in sys.modules


def test_the_real_wheel_with_a_library_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libamd_smi.so").write_bytes(b"this is no ELF file")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    reason = AmdMonitor().facts()["reason"]
    assert reason.startswith("ROCm's library libamd_smi.so cannot be loaded (")
    assert "\n" not in reason


def test_the_real_wheel_with_a_library_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any library stands for one that lacks the functions that the wheel binds at import."""
    library = find_spec("rpds.rpds")
    assert library is not None
    assert library.origin is not None
    (tmp_path / "lib").mkdir()
    copyfile(library.origin, tmp_path / "lib/libamd_smi.so")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    reason = AmdMonitor().facts()["reason"]
    assert re.fullmatch(
        r"amdsmi [\d.]+ does not fit ROCm's libamd_smi.so \(undefined symbol: \w+\); install .*",
        reason,
    )


def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put a module in place of the wheel, for ways of AMD SMI that need hardware."""
    (tmp_path / "amdsmi.py").write_text(ROOM + CALLS + code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_gpus_of_amd_smi_get_their_names_from_sysfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    use(tmp_path, monkeypatch, "")
    add_card(tmp_path, 0, bdf="0000:05:00.0", mem_info_vram_used="5")
    add_node(tmp_path, 1, gfx=90402, minor=128)
    facts = AmdMonitor(SysfsMonitor(tmp_path)).facts()
    assert facts["reason"] == ""
    first, second = facts["gpus"]
    assert first["name"] == "AMD Instinct MI300X OAM"
    assert first["gfx"] == "gfx942"
    assert first["bdf"] == "0000:05:00.0"
    assert first["vram_used_bytes"] == 297771008, "AMD SMI is asked, not sysfs"
    assert first["render_node"] == "/dev/dri/renderD128"
    assert (second["index"], second["bdf"]) == (1, "0000:26:00.0")
    assert (second["name"], second["gfx"], second["render_node"]) == ("", "", "")
    assert second["vram_total_bytes"] == MI300X_BYTES
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def amdsmi_get_processor_handles(): return []", "AMD SMI sees no GPU"),
        ("raise AttributeError('x.so: undefined symbol: amdsmi_new')", "undefined symbol"),
        ("raise OSError('GLIBC_2.99 not found')", "cannot be used (OSError: GLIBC_2.99 not found)"),
        ("raise SystemExit(3)", "cannot be used (SystemExit: 3)"),
        ("import os; os._exit(7)", "ended with exit code 7"),
        ("import ctypes; ctypes.string_at(0)", "ended with signal 11"),
        ("import ctypes; print('last words', flush=True); ctypes.string_at(0)", "last words"),
        ("def amdsmi_init(): e = Exception('x'); e.err_code = 34; raise e", "is not loaded"),
        ("def amdsmi_init(): e = Exception('x'); e.err_code = 10; raise e", "no permission"),
        ("def amdsmi_init(): e = Exception('\\x1b[31mx\\ny'); e.err_code = 99; raise e", "x y (e"),
    ],
)
def test_every_way_to_fail_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    use(tmp_path, monkeypatch, code)
    facts = AmdMonitor(SysfsMonitor(tmp_path)).facts()
    assert facts["gpus"] == []
    assert words in facts["reason"]
    assert facts["reason"].isprintable()


def test_a_gpu_without_counters_is_still_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tmp_path, monkeypatch, "del amdsmi_get_gpu_memory_usage")
    use(tmp_path, monkeypatch, "def amdsmi_get_gpu_memory_usage(*_): raise RuntimeError")
    gpu = AmdMonitor(SysfsMonitor(tmp_path)).facts()["gpus"][0]
    assert gpu["vram_used_bytes"] is None
    assert gpu["vram_total_bytes"] == MI300X_BYTES


def test_a_library_that_hangs_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers once, however long its process takes to start, and only then it has a limit."""
    use(tmp_path, monkeypatch, HANGING)
    monitor = AmdMonitor(SysfsMonitor(tmp_path))
    assert len(monitor.facts()["gpus"]) == 2
    child = monitor._companion._child
    assert child is not None
    monitor._timeout_s = 1.0
    assert "did not answer within 1 s" in monitor.facts()["reason"]
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_auto_names_every_reason_and_a_forced_monitor_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROCM_PATH", "/nonexistent")
    monitor = probe("auto")
    facts = monitor.facts()
    assert facts["monitor"] == monitor.name
    if not facts["gpus"]:  # on a machine with an AMD GPU, sysfs sees it
        assert monitor.name == "none"
        assert "amd: ROCm's library" in facts["reason"]
        assert "sysfs: " in facts["reason"]
        assert probe("sysfs").facts()["reason"] in facts["reason"]
    assert probe("amd").facts()["reason"] == "ROCm's library libamd_smi.so is not installed"


def test_none_looks_at_nothing() -> None:
    assert probe("none").facts() == {
        "monitor": "none",
        "reason": "--vllm-monitor=none",
        "source": "",
        "gpus": [],
    }
