"""Every way in which AMD's library can fail, with the real wheels: one clear reason, no harm."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.gpus.amd import AmdMonitor
from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from tests.data.smi.standin import HOSTS, MI300X

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.data.smi.standin import State

    Use = Callable[[str, str], State]

NEWEST, OLDER = "7.0.2", "6.4.4"


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[AmdMonitor]:
    """A monitor that sees nothing of this machine's own files."""
    with closing(AmdMonitor(SysfsMonitor(tmp_path / "sys", proc=tmp_path / "proc"))) as made:
        yield made


@pytest.mark.parametrize("version", [OLDER, NEWEST])
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "AMD SMI sees no GPU"),
        (("init=34",), "driver amdgpu is not loaded"),
        (("init=10",), "no permission: this user may not use the GPUs"),
        (("init=32",), "was not initialised"),
        (("init=7",), "AMDSMI_STATUS_API_FAILED"),
        (("do=abort",), "AMD SMI ended with signal 6 (do amdsmi {version} and ROCm fit?)"),
        (("do=segfault", "say=last words"), "ended with signal 11 (do amdsmi {version} and ROCm"),
        (("do=hang",), "AMD SMI did not answer within 1.5 s; see dmesg"),
    ],
)
def test_every_failure_is_one_clear_reason(
    version: str,
    lines: tuple[str, ...],
    words: str,
    use_smi: Use,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    state = use_smi(version, version)
    broken = any(line.startswith("do=") for line in lines)
    state.show(*HOSTS["MI355X x1"] if broken else (), lines=lines)
    timeout_s = 1.5 if "do=hang" in lines else 20
    with closing(AmdMonitor(SysfsMonitor(tmp_path), timeout_s=timeout_s)) as monitor:
        facts = monitor.facts()
    assert facts["gpus"] == []
    assert words.format(version=version) in facts["reason"]
    assert "last words" in facts["reason"] or "say=last words" not in lines
    assert facts["reason"].isprintable()
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_library_that_prints_for_ever_hangs_all_the_same(use_smi: Use, tmp_path: Path) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI355X x1"], lines=("do=chatter",))
    with closing(AmdMonitor(SysfsMonitor(tmp_path), timeout_s=1.0)) as monitor:
        reason = monitor.facts()["reason"]
    assert reason == "AMD SMI did not answer within 1 s; see dmesg for a GPU that hangs"


@pytest.mark.parametrize("version", [OLDER, NEWEST])
def test_without_the_library_the_reason_says_so(
    version: str, use_smi: Use, monitor: AmdMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_smi(version, version)
    monkeypatch.setenv("ROCM_PATH", "/nonexistent")
    assert monitor.facts()["reason"] == "ROCm's library libamd_smi.so is not installed"


@pytest.mark.parametrize(
    ("wheel", "library", "symbol"),
    [
        (NEWEST, OLDER, "amdsmi_get_cpu_affinity_with_scope"),  # a newer wheel, as pip installs it
        (OLDER, NEWEST, "amdsmi_get_power_info_v2"),
        ("6.2.4", NEWEST, "amdsmi_reset_gpu_compute_partition"),
    ],
)
def test_a_wheel_of_another_release_says_what_is_missing(
    wheel: str, library: str, symbol: str, use_smi: Use, monitor: AmdMonitor
) -> None:
    use_smi(wheel, library).show(*HOSTS["MI300X x8"])
    assert monitor.facts()["reason"] == (
        f"amdsmi {wheel} does not fit ROCm's libamd_smi.so (undefined symbol: {symbol}); install "
        "the wheel of ROCm's version (/opt/rocm/.info/version)"
    )


@pytest.mark.parametrize("library", [OLDER, NEWEST])
def test_an_older_wheel_that_loads_is_not_overrun_by_a_newer_library(
    library: str, use_smi: Use, monitor: AmdMonitor
) -> None:
    """Every symbol of 6.3 is in later libraries, whose structures are larger: none may be asked."""
    state = use_smi("6.3.3", library)
    state.show(*HOSTS["MI300X x8"])
    assert [gpu["vram_used_bytes"] for gpu in monitor.facts()["gpus"]] == [MI300X["used"]] * 8
    for _ in range(20):
        look = monitor.sample(rare=True)
        assert look.problem == ""
        assert look.readings["0000:e5:00.0"]["gfx_clock_mhz"] == MI300X["sclk"]


def test_a_library_that_dies_between_samples_is_started_again_a_few_times(
    use_smi: Use, monitor: AmdMonitor
) -> None:
    state = use_smi(NEWEST, NEWEST)
    state.show(*HOSTS["MI355X x1"])
    assert monitor.sample(rare=False).problem == ""
    state.show(*HOSTS["MI355X x1"], lines=("do=abort",))
    assert "ended with signal 6" in monitor.sample(rare=False).problem
    state.show(*HOSTS["MI355X x1"])
    assert monitor.sample(rare=False).problem == ""
    state.show(*HOSTS["MI355X x1"], lines=("do=abort",))
    problems = [monitor.sample(rare=False).problem for _ in range(8)]
    assert "(5 times; it is not asked again)" in problems[-1]
    state.show(*HOSTS["MI355X x1"])
    assert monitor.sample(rare=False).problem == problems[-1]


def test_the_process_that_asks_is_one_and_ends_with_the_monitor(use_smi: Use) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI355X x1"])
    monitor = AmdMonitor()
    pids = set()
    for _ in range(5):
        assert monitor.facts()["reason"] == ""
        assert monitor.sample(rare=False).problem == ""
        child: Any = monitor._companion._child
        pids.add(child.pid)
    assert len(pids) == 1
    monitor.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pids.pop(), signal.SIG_DFL)
    assert "is asked no more" in monitor.sample(rare=False).problem


HANGING = """
import sys
from pathlib import Path
from pytest_vllm.adapters.gpus.amd import AmdMonitor
monitor = AmdMonitor(timeout_s=3600)
assert monitor.facts()["gpus"]
print(monitor._companion._child.pid, flush=True)
sys.stdin.readline()
monitor.facts()
"""


def test_a_library_that_hangs_does_not_outlive_a_run_that_is_killed(
    use_smi: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that asks ends when nobody listens, also in the middle of a call."""
    state = use_smi(NEWEST, NEWEST)
    state.show(*HOSTS["MI355X x1"])
    os.mkfifo(tmp_path / "hangs")
    monkeypatch.setenv("SMI_HANGS", str(tmp_path / "hangs"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HANGING], **pipes) as run:  # type: ignore[call-overload]
        child = os.pidfd_open(int(run.stdout.readline()))
        state.show(*HOSTS["MI355X x1"], lines=("do=hang",))
        run.stdin.write("go on\n")
        run.stdin.flush()
        (tmp_path / "hangs").read_text(encoding="utf-8")  # returns when the library hangs
        assert select.select([child], [], [], 0) == ([], [], [])
        run.kill()
        assert select.select([child], [], [], 30)[0] == [child], "it is still there"
        os.close(child)
