"""The words for a load: every figure with its interval, or why there is none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.load.calibration import Calibration
from pytest_vllm.domain.load.columns import CollectorFacts, Ending
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.server_looks import ServerLooks
from pytest_vllm.reports.load import measurement_text, sweep_text
from tests.unit.load_columns import Row, load

if TYPE_CHECKING:
    from pytest_vllm.domain.load.measurement import Measurement

FACTS = CollectorFacts(
    path="epoll",
    clock="kernel",
    cpu_s=0.5,
    wall_s=10,
    peak_rss_bytes=1,
    reads=200,
    coalesced_reads=3,
    events=200,
    lateness_ns=(1000, 400_000, 500_000),
)
OWN = Calibration(
    path="epoll",
    clock="kernel",
    streams=8,
    asked_events_per_s=400,
    events_per_s=399,
    events=1000,
    ttft_error_p50_us=6,
    ttft_error_p99_us=48,
    itl_error_p50_us=5,
    itl_error_p99_us=61,
    cpu_share=0.1,
    cpu_us_per_event=20,
    wait_share=0.0,
    coalesced_share=0.0,
    lateness_p50_us=80,
    lateness_p99_us=300,
    capacity_events_per_s=180_000,
    flood_events_per_s=90_000,
    peak_rss_bytes=1,
    seconds=2,
)


def measured(count: int, *, failed: int = 0, opened: bool = False) -> Measurement:
    """One place; TTFT from 50 ms up, gaps of 20 ms."""
    rows = [
        Row(
            send=1000 * n,
            events=[1000 * n + 50 + n % 40 + 20 * k for k in range(4)],
            ending=Ending.RESET if n < failed else Ending.DONE,
            opened=opened,
        )
        for n in range(count)
    ]
    plan, columns = load(*rows)
    columns.facts = FACTS
    return measure(plan, columns, slo=Slo(ttft_ms=80, tpot_ms=25))


@pytest.mark.parametrize("width", [20, 80, 100, 120, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    most = max(width, 80)
    text = measurement_text(measured(200, failed=3), title="x" * 300, calibration=OWN, width=width)
    assert max(map(len, text.splitlines())) <= most
    levels = [(str(n), measured(n, failed=1)) for n in (20, 100, 700)]
    swept = sweep_text(levels, calibrations={"20": OWN}, width=width)
    assert max(map(len, swept.splitlines())) <= most


def test_percentiles_have_intervals_or_say_what_they_need() -> None:
    text = measurement_text(measured(200))
    assert "TTFT ms" in text
    assert "69.00 [67.00-72.00]" in text
    assert "refused: 200 of 662" in text
    assert "p99 [95 %]" in measurement_text(measured(662))
    assert "of 662" not in measurement_text(measured(662))


def test_a_refused_percentile_is_nowhere() -> None:
    """The 198th of 200 requests took 247 ms."""
    rows = [Row(send=1000 * n, events=(1000 * n + 50 + n,)) for n in range(200)]
    text = measurement_text(measure(*load(*rows)), width=120)
    assert "247" not in text
    assert "239" in text  # p95
    assert "refused: 200 of 662" in text


def test_the_clients_error_is_beside_each_latency() -> None:
    narrow = measurement_text(measured(200), calibration=OWN)
    assert "of a time 48 us, of a gap" in " ".join(narrow.split())
    wide = measurement_text(measured(200), calibration=OWN, width=120)
    rows = {line.split()[0]: line.split()[-1] for line in wide.splitlines() if " ms " in line}
    assert (rows["TTFT"], rows["TPOT"], rows["ITL"]) == ("48", "61", "61")


def test_failures_are_named_and_adjusted() -> None:
    text = " ".join(measurement_text(measured(200, failed=120)).split())
    assert "200 issued, 120 failed: 120 reset" in text
    assert "with the 120 failed as infinitely slow: TTFT p50 infinite" in text
    assert "Adjusted" not in measurement_text(measured(200))


def test_goodput_says_of_what() -> None:
    text = " ".join(measurement_text(measured(200)).split())
    assert "77.5% of all issued: TTFT <= 80 ms, TPOT <= 25 ms" in text
    assert "Goodput" not in measurement_text(replace(measured(200), figures={}))


def test_open_loops_tell_latencies_from_the_schedule() -> None:
    text = measurement_text(measured(200, opened=True))
    assert "TTFT sched. ms" in text
    assert "when the request was due" in " ".join(text.split())
    assert "TTFT sched." in sweep_text([("1/s", measured(200, opened=True))])


def test_no_sound_request() -> None:
    text = measurement_text(measured(20, failed=20))
    assert "No latencies" in text
    assert "20 failed" in text


def test_words_of_a_server_are_made_harmless() -> None:
    plan, columns = load(Row(events=(50, 70)))
    told = ServerLooks(notes=("\x1b[31mred\nand more",))
    text = measurement_text(measure(plan, columns, server=told))
    assert "\x1b" not in text
    assert "red and more" in text


def test_sweep_marks_what_is_not_steady_and_what_is_not_known() -> None:
    short = replace(measured(20), steady=False)
    text = sweep_text([("8", short), ("16", measured(700))])
    first, second = (line for line in text.splitlines() if line.startswith(("8", "16")))
    assert first.startswith("8*")
    assert first.split()[4] == "-"  # p99 of TTFT, of 20 requests
    assert second.split()[4] != "-"
    assert "kept TTFT <= 80 ms, TPOT <= 25 ms" in " ".join(text.split())


def test_only_pure_modules_are_loaded() -> None:
    code = "import sys, pytest_vllm.reports.load; print('rich' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
