"""What the GPUs did in a run, as a line and as a table."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.gpu_samples import QUANTITIES, Look, SampleColumns
from pytest_vllm.reports.facts import gpu_line
from pytest_vllm.reports.gpus import curve, gpu_use_line, gpu_use_rows, sample_notes
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.terminal import summary
from tests.unit.records import HOSTILE, make_record

GIB = 2**30
TOTAL = 192 * GIB
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["gpus", "bdf", "index", "time_s", "notes", "interval_s", *QUANTITIES]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


def record_with(samples: dict[str, Any], gpus: dict[str, Any] | None = None) -> Any:
    known = gpus or {"gpus": [{"bdf": "0000:05:00.0", "vram_total_bytes": TOTAL}]}
    return dataclasses.replace(make_record(), gpu_samples=samples, gpus=known)


def story() -> dict[str, Any]:
    """Launch, run and release of a server on one of two GPUs."""
    made = SampleColumns(
        monitor="amd",
        gpus=[{"index": 0, "bdf": "0000:05:00.0"}, {"index": 1, "bdf": "0000:26:00.0"}],
        interval_s=1.0,
        limit=100,
        started=0.0,
    )
    for at, used in enumerate([1, 60, 150, 177, 177, 177, 1]):
        busy = {"vram_used_bytes": used * GIB, "power_w": 100.0 + used, "temperature_c": 40 + at}
        idle = {"vram_used_bytes": GIB, "power_w": 140.0}
        errors = {"ecc_errors": 3 if at < 6 else 4}
        made.add(float(at), Look(readings={"0000:05:00.0": busy | errors, "0000:26:00.0": idle}))
        made.charge(float(at), 0.002)
    return made.plain()


def test_the_line_names_peak_release_power_heat_and_new_errors() -> None:
    assert gpu_use_line(record_with(story())) == (
        "at most 177.0 GiB of VRAM on 0 (0000:05:00.0), 1.0 GiB before and 1.0 GiB after, 346 W in "
        "the mean of all, 46 °C, 1 MEMORY ERRORS that could not be corrected"
    )


def test_the_table_draws_the_memory_against_all_there_is() -> None:
    first, second = gpu_use_rows(record_with(story()))
    assert first == (
        "0 (0000:05:00.0)",
        "▁▃▇████▁"[:3] + "███▁",
        "1.00, 177.00, 1.00 GiB",
        "",
        "206 W, at most 277 W",
        "46 °C",
        "1",
    )
    assert second[2:] == ("1.00, 1.00, 1.00 GiB", "", "140 W, at most 140 W", "", "")


def test_the_notes_say_how_often_and_at_what_cost() -> None:
    assert sample_notes(record_with(story())) == (
        "7 samples by amd, one every 1 s; they took 0.01 s of a core",
    )


def test_both_reports_tell_it() -> None:
    record = record_with(story())
    text = report_md(record)
    assert "## GPUs during the run" in text
    assert "`1.00, 177.00, 1.00 GiB`" in text
    assert "at most 177.0 GiB" in summary(record, width=100, color=False, evidence="x")


def test_a_run_without_samples_says_nothing() -> None:
    record = record_with({})
    assert (gpu_use_line(record), gpu_use_rows(record), sample_notes(record)) == ("", [], ())
    assert "GPUs during the run" not in report_md(record)


def test_a_curve_keeps_the_highest_of_each_bin_and_marks_the_unknown() -> None:
    assert curve([None, 0, 4, 8], top=8) == "·▁▅█"
    assert curve([0] * 999 + [5], bins=10) == "▁▁▁▁▁▁▁▁▁█"
    assert curve([]) == ""
    assert curve([None, "x"]) == ""


@given(ANYTHING, ANYTHING)
def test_no_record_breaks_a_report(samples: Any, gpus: Any) -> None:
    told = samples if isinstance(samples, dict) else {"gpus": [samples], "time_s": [1]}
    record = record_with(told, gpus if isinstance(gpus, dict) else {})
    assert gpu_use_line(record).isprintable()
    assert all(len(row) == 7 for row in gpu_use_rows(record))
    assert report_md(record_with(told))
    for note in sample_notes(record):
        assert note.isprintable()


def test_partitions_are_not_told_as_so_many_whole_gpus() -> None:
    part = {"name": "AMD MI300X", "gfx": "gfx942", "vram_total_bytes": TOTAL}
    gpus = [part | {"shared_with": [n for n in range(8) if n != index]} for index in range(8)]
    assert gpu_line({"monitor": "amd", "gpus": gpus}) == (
        "8 x AMD MI300X gfx942 1/8 of 192.0 GiB (by amd)"
    )


def test_hostile_words_stay_words() -> None:
    gpu = {"index": HOSTILE, "bdf": HOSTILE, "vram_used_bytes": [1], "ecc_errors": [HOSTILE]}
    samples = {"monitor": HOSTILE, "time_s": [1], "gpus": [gpu], "notes": [HOSTILE]}
    assert "<script>" not in report_md(record_with(samples)).replace("`", "\n`").split("## GPUs")[0]
    assert gpu_use_line(record_with(samples)).isprintable()
