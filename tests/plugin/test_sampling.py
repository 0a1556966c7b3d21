"""The GPUs of a run in its record and its reports, from before the launch to the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.record import RunRecord, from_json
from tests.data.smi.standin import HOSTS
from tests.defects.acceptance import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.data.smi.standin import State

NEWEST = "7.0.2"
CHECK = """
import os
from pathlib import Path
import pytest
from pytest_vllm import Client, check, suite
pytestmark = suite("own")

@check("own.grows")
def test_grows(vllm: Client) -> None:
    '''It MUST hold.'''
    state = Path(os.environ["SMI_STATE"])
    new = state.with_suffix(".new")
    new.write_text(state.read_text().replace("used=297795584", "used=180000000000"))
    new.replace(state)
    assert vllm.complete("Hello", max_tokens=1).json["object"] == "text_completion"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of a healthy simulator."""
    with serving(None) as url:
        yield url


def run(pytester: pytest.Pytester, server: str, *words: str) -> tuple[pytest.RunResult, RunRecord]:
    pytester.makepyfile(test_own=CHECK)
    result = pytester.runpytest_subprocess("test_own.py", f"--vllm-url={server}", *words)
    (path,) = (pytester.path / ".vllm").glob("*/run.json")
    return result, from_json(path.read_text(), where="run.json")


def test_samples_go_to_the_record_as_columns_and_to_both_reports(
    pytester: pytest.Pytester, server: str, use_smi: Callable[[str, str], State]
) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI300X x8"])
    result, record = run(pytester, server, "--vllm-sample-interval=0.2")
    result.assert_outcomes(passed=1)
    samples = record.gpu_samples
    assert (samples["monitor"], samples["interval_s"]) == ("amd", 0.2)
    assert len(samples["gpus"]) == len(record.gpus["gpus"]) == 8
    assert record.gpus["gpus"][0]["partition"] == "SPX/NPS1"
    first = samples["gpus"][0]
    assert len(first["vram_used_bytes"]) == len(samples["time_s"]) >= 2
    assert first["vram_used_bytes"][0] == 297795584
    assert first["vram_used_bytes"][-1] == first["vram_peak_bytes"] == 180000000000
    assert (first["temperature_c"][0], first["gfx_clock_mhz"][0]) == (41, 132)
    result.stdout.fnmatch_lines(["*GPU use*at most 167.6 GiB of VRAM on 0 (0000:05:00.0)*"])
    (report,) = (pytester.path / ".vllm").glob("*/report.md")
    assert "## GPUs during the run" in report.read_text(encoding="utf-8")


def test_no_samples_on_request(
    pytester: pytest.Pytester, server: str, use_smi: Callable[[str, str], State]
) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI355X x1"])
    result, record = run(pytester, server, "--vllm-sample-interval=0")
    result.assert_outcomes(passed=1)
    assert record.gpu_samples == {}
    assert record.gpus["gpus"][0]["gfx"] == "gfx950"
    result.stdout.no_fnmatch_line("*GPU use*")


def test_a_library_that_crashes_costs_the_run_nothing(
    pytester: pytest.Pytester, server: str, use_smi: Callable[[str, str], State]
) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI355X x1"], lines=("do=segfault",))
    result, record = run(pytester, server, "--vllm-monitor=amd")
    result.assert_outcomes(passed=1)
    assert "ended with signal 11" in record.gpus["reason"]
    assert record.gpu_samples == {}
