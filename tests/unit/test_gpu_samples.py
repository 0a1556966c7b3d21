"""Samples as columns: bounded, and saying what is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.gpu_samples import QUANTITIES, Look, SampleColumns

if TYPE_CHECKING:
    from pytest_vllm.domain.gpu_samples import Value

BDF, OTHER = "0000:05:00.0", "0000:26:00.0"
GPUS = [{"index": 0, "bdf": BDF}, {"index": 1, "bdf": OTHER}]


def columns(limit: int = 100, interval_s: float = 1.0) -> SampleColumns:
    return SampleColumns(
        monitor="amd", gpus=GPUS, interval_s=interval_s, limit=limit, started=1_700_000_000.0
    )


def look(used: int | None, **more: Value) -> Look:
    return Look(readings={BDF: {"vram_used_bytes": used, **more}, OTHER: {"vram_used_bytes": 1}})


def test_every_quantity_is_a_list_as_long_as_the_times() -> None:
    made = columns()
    made.add(0.0, look(5, power_w=145.04, ecc_errors=2))
    made.add(1.0004, look(7, power_w=150.06))
    plain = made.plain()
    assert plain["time_s"] == [0.0, 1.0]
    assert plain["started"] == 1_700_000_000.0
    first, second = plain["gpus"]
    assert first["vram_used_bytes"] == [5, 7]
    assert first["power_w"] == [145.0, 150.1]
    assert first["ecc_errors"] == [2, 2], "asked now and then, kept in between"
    assert first["activity_percent"] == [None, None]
    assert second["vram_used_bytes"] == [1, 1]
    assert all(len(gpu[name]) == 2 for gpu in plain["gpus"] for name in QUANTITIES)
    assert json.loads(json.dumps(plain)) == plain


@given(st.integers(2, 12), st.integers(1, 300))
def test_a_long_run_is_thinned_and_says_so(limit: int, count: int) -> None:
    """At most `limit` samples, evenly spread; the highest use is never lost."""
    made = columns(limit)
    peak_at = count // 2
    for at in range(count):
        made.add(float(at), look(10_000 if at == peak_at else at))
    plain = made.plain()
    assert len(made) == len(plain["time_s"]) <= limit
    assert plain["gpus"][0]["vram_peak_bytes"] == 10_000
    assert plain["gpus"][0]["vram_peak_s"] == float(peak_at)
    assert plain["time_s"][0] == 0.0
    assert plain["time_s"] == sorted(plain["time_s"])
    thinned = count > limit
    assert (plain["interval_s"] > 1.0) == thinned
    assert any("sample was kept" in note for note in plain["notes"]) == thinned


def test_a_gpu_that_falls_silent_is_noted_once_and_again_when_it_is_back() -> None:
    made = columns()
    made.add(0.0, look(5))
    made.add(1.0, look(None))
    made.add(2.0, look(None))
    made.add(3.0, look(6))
    plain = made.plain()
    assert plain["gpus"][0]["vram_used_bytes"] == [5, None, None, 6]
    assert plain["notes"] == [
        "at 1 s: GPU 0 (0000:05:00.0) tells nothing",
        "at 3 s: GPU 0 (0000:05:00.0) tells its figures again",
    ]


def test_a_problem_is_noted_when_it_begins_and_notes_are_bounded() -> None:
    made = columns(1000)
    made.add(0.0, Look(problem="AMD SMI did not answer within 5 s"))
    made.add(5.0, Look(problem="AMD SMI did not answer within 5 s"))
    assert sum("did not answer" in note for note in made.plain()["notes"]) == 1
    for at in range(100):
        made.add(float(at), look(5) if at % 2 else Look(problem="x"))
    assert len(made.plain()["notes"]) == 21


def test_looks_that_cost_too_much_become_rarer() -> None:
    """30 ms of a core for a look each second are 3 %; one every 4 s keeps below 1 %."""
    made = columns()
    for at in range(20):
        made.charge(float(at), 0.03)
    assert made.interval_s == 4.0
    plain = made.plain()
    assert plain["cpu_s"] == 0.6
    assert plain["notes"] == [
        "at 19 s: a look takes 30.0 ms of a core, so there is one every 4 s from here on"
    ]
    for at in range(40):
        made.charge(float(at), 0.03)
    assert made.interval_s == 4.0


def test_looks_that_cost_little_keep_their_rate() -> None:
    made = columns()
    for at in range(200):
        made.charge(float(at), 0.009)
    assert (made.interval_s, made.plain()["notes"]) == (1.0, [])
