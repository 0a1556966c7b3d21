"""The benchmarks' own reckoning: errors against the truth, costs, and what was to be reached."""

from __future__ import annotations

import json
from array import array
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.page import render
from benchmarks.reckoning import event_us
from benchmarks.report import Times, figures, rank, read_times, report_of
from benchmarks.results import Book
from benchmarks.targets import section, targets
from benchmarks.truth import Truth

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000


def _truth() -> Truth:
    """Two requests at 1 ms and 2 ms; events after 10 ms, then every 5 ms."""
    return Truth(
        arrival_ns={0: MS, 1: 2 * MS},
        before_ns={
            0: array("q", [11 * MS, 16 * MS, 21 * MS]),
            1: array("q", [12 * MS, 17 * MS, 22 * MS]),
        },
        late_ns=array("q", [0, 0, 0, 0, 0, 3 * MS]),
    )


def test_a_client_that_is_late_by_the_same_time_has_no_error_of_gaps() -> None:
    """Its events are off by 50 us, its TTFT by 50 us and what its send took, its ITL by nothing."""
    truth = _truth()
    seen = {n: array("q", [t + 50_000 for t in e]) for n, e in truth.before_ns.items()}
    sent = {number: at - 20_000 for number, at in truth.arrival_ns.items()}

    found = figures(report_of(Times(sent_ns=sent, events_ns=seen)), truth)

    assert found["event_error_p50_us"] == found["event_error_p99_us"] == 50.0
    assert found["ttft_error_p99_us"] == 70.0
    assert found["itl_error_p99_us"] == 0.0
    assert (found["true_ttft_p50_ms"], found["told_ttft_p50_ms"]) == (10.0, 10.07)
    assert found["true_itl_p99_ms"] == found["told_itl_p99_ms"] == 5.0
    assert found["true_tokens_per_s"] == pytest.approx(6 / 0.021, abs=0.001)
    assert found["server_late_p99_ms"] == 3.0


def test_a_request_of_which_events_are_missing_is_not_matched() -> None:
    truth = _truth()
    seen = {0: truth.before_ns[0], 1: truth.before_ns[1][:2]}

    found = figures(report_of(Times(sent_ns=truth.arrival_ns, events_ns=seen)), truth)

    assert found["matched_events"] == 3


def test_percentiles_are_by_nearest_rank() -> None:
    assert [rank(range(1, 101), percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert rank([7], 99) == 7


def test_times_are_read_as_the_scripts_save_them(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(array("q", [4, 100, 2, 110, 120, 5, 101, 0]).tobytes())

    times = read_times(path)

    assert times.sent_ns == {4: 100, 5: 101}
    assert [list(times.events_ns[number]) for number in (4, 5)] == [[110, 120], []]


def test_a_book_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    Book(path, fresh=True).add({"client": "a", "work": "idle", "round": 1})

    again = Book(path, fresh=False)

    assert again.has(client="a", work="idle", round=1)
    assert not again.has(client="a", work="idle", round=2)
    assert not Book(path, fresh=True).rows
    assert json.loads(path.read_text("utf-8"))["machine"]["cores"]


def _rows(cpu_s: dict[str, float], **more: float) -> list[dict[str, Any]]:
    works = ("idle", "paced-64", "paced-256", "paced-512", "flood")
    return [
        {
            "client": client,
            "version": "1",
            "work": work,
            "round": number,
            "events": 100_000,
            "cpu_s": 0.5 + (0 if work == "idle" else seconds),
            "load_before": 0.1,
            "pss_mb": 30.0,
            "processes": 2,
            **more,
        }
        for number in (1, 2)
        for work in works
        for client, seconds in cpu_s.items()
    ]


def _own(rate: float, memory_mb: float) -> list[dict[str, Any]]:
    common = {"client": "pytest-vllm", "round": 1, "events": 1_000_000, "cpu_s": 5.0}
    measured = {"true_tokens_per_s": rate, "pss_mb": memory_mb, "collector_peak_rss_mb": memory_mb}
    return [{"part": "one core", "work": "flood-1e6", **common, **measured}]


def test_targets_are_held_against_medians_of_rounds() -> None:
    """Ours takes 10 us, the floor 8, the best peer 30; of ours, the collector 9."""
    good = _rows({"pytest-vllm": 1.0, "bare epoll loop": 0.8, "a": 3.0, "b": 9.0})
    for row in good:
        row["event_error_p99_us"] = 24.0
        row["collector_cpu_s"] = 0.9
        if row["work"] == "paced-64":  # half of the work, so half of the CPU
            row["events"] //= 2
            row["cpu_s"], row["collector_cpu_s"] = 0.5 + (row["cpu_s"] - 0.5) / 2, 0.45

    text = "\n".join(section(targets(good, _own(150_000, 80))))

    assert "**no**" not in text
    assert text.count("| 1.25x | yes |") == 3  # all processes
    assert text.count("| 1.12x | yes |") == 3  # the collector: 9 by 8
    assert text.count("| 0.33x | yes |") == 1  # one more event
    assert text.count("| 0.43x | yes |") == 3  # in all: 1.5 s by 3.5 s


def test_a_target_that_is_missed_or_not_measured_is_not_reached() -> None:
    bad = _rows({"pytest-vllm": 2.0, "bare epoll loop": 0.8, "a": 3.0})
    for row in bad:
        row["collector_cpu_s"] = 1.9

    text = "\n".join(section(targets(bad, _own(99_000, 121))))

    assert "yes" not in text
    assert "| not measured | **no** |" in text
    assert "| 99,000/s | **no** |" in text
    assert text.count("| 121 MB | **no** |") == 2


def test_a_cost_below_what_a_start_varies_by_is_not_told() -> None:
    idle = [{"cpu_s": 9.0}, {"cpu_s": 12.0}]

    assert event_us([{"cpu_s": 14.0, "events": 1000}], idle) == []
    assert event_us([{"cpu_s": 20.5, "events": 1_000_000}], idle) == [pytest.approx(10.0)]


def test_cpu_before_the_first_request_is_not_that_of_events() -> None:
    """However much it varies."""
    idle = [{"cpu_s": 9.1, "start_cpu_s": 9.0}, {"cpu_s": 12.1, "start_cpu_s": 12.0}]
    row = {"cpu_s": 11.1, "start_cpu_s": 10.0, "events": 100_000}

    assert event_us([row], idle) == [pytest.approx(10.0)]


def test_the_page_has_a_line_for_each_client_of_each_work(tmp_path: Path) -> None:
    book = Book(tmp_path / "peers.json", fresh=True)
    for row in _rows({"pytest-vllm": 1.0, "bare epoll loop": 0.8, "a": 3.0}):
        book.add(row)
    own = Book(tmp_path / "own.json", fresh=True)
    for row in _own(150_000, 80):
        own.add(row)

    page = render(tmp_path)

    assert page.count("\n| **pytest-vllm** | 1.50 | 1.0x | 10.0 (10.0-10.0) |") == 4
    assert page.count("\n| a | 3.50 | 2.3x | 30.0 (30.0-30.0) |") == 4
