"""How often the gate is right on noise as hosts make it; docs/regression-gate.md has it in full."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from pytest_vllm.adapters.load.truth import Schedule
from pytest_vllm.domain.metric_change import Effect
from tools.docs import ROOT
from tools.gate.collect import TOKENS, compare, work
from tools.gate.noise import METRICS, Noise
from tools.gate.recorded import FOLDER, Row, Series, disjoint, pairs_of, sliding, stored
from tools.gate.simulate import STRONG, WEAK, count
from tools.gate.trials import simulated_pairs, simulated_stored, tally

GPU_HOST = STRONG[1]
TRIALS = 150


def test_the_strong_form_cries_wolf_in_at_most_two_of_a_hundred() -> None:
    found = tally(GPU_HOST.trial(1.0), TRIALS)
    assert found.effects[Effect.WORSE] <= 0.02 * TRIALS
    assert found.effects[Effect.BETTER] <= 0.02 * TRIALS
    assert found.effects[Effect.NO_CHANGE] > 0.8 * TRIALS


def test_the_strong_form_finds_five_per_cent() -> None:
    found = tally(GPU_HOST.trial(1.05), TRIALS)
    assert found.effects[Effect.WORSE] >= 0.9 * TRIALS
    assert found.effects[Effect.NO_CHANGE] == 0


def test_the_stored_form_is_seldom_wrong_and_finds_thirty_per_cent() -> None:
    """Where two days differ by twice what the rounds of one do."""
    noise = Noise(run=0.01, own=0.005, drift=0.02, between=0.02)
    same = tally(simulated_stored(noise, 1.0, rounds=5, seed="t"), TRIALS)
    assert same.effects[Effect.WORSE] <= 0.02 * TRIALS
    slow = tally(simulated_stored(noise, 1.3, rounds=5, seed="t"), TRIALS)
    assert slow.effects[Effect.WORSE] >= 0.8 * TRIALS
    assert slow.effects[Effect.NO_CHANGE] == 0


def test_noise_on_a_host_that_shares_its_cores_is_not_taken_for_a_verdict() -> None:
    """What so few pairs cannot see is said to be unseen, in place of passed."""
    noise = Noise(run=0.2, drift=0.2)
    found = tally(simulated_pairs(noise, 1.0, seed="t"), 40)
    assert found.effects[Effect.NO_CHANGE] == 0
    assert found.effects[Effect.CANNOT_TELL] >= 36
    assert found.pairs >= 36 * 12


def test_the_counts_on_record_are_what_the_code_counts() -> None:
    """The record holds every cell at every slowdown; the first of each form is counted again."""
    document = json.loads((FOLDER / "simulated.json").read_text(encoding="utf-8"))
    rows = {(row["form"], row["host"], row["factor"]): row for row in document["rows"]}
    assert rows.keys() == {
        ("strong" if cell.strong else "weak", cell.name, factor)
        for cell in (*STRONG, *WEAK)
        for factor in cell.factors
    }
    recorded = rows["strong", STRONG[0].name, 1.0]
    assert count((STRONG[0], 1.0, recorded["trials"])) == recorded


def made_series(slow: float) -> Series:
    """Return a series of quiet blocks, in which 10 % slower takes exactly so much longer."""
    rows = []
    for block in range(30):
        for place, factor in enumerate((1.0, slow, 1.0)):
            level = factor * (1 + 0.001 * ((7 * block + place) % 5))
            figures = {name: 100 * level ** METRICS[name] for name in METRICS}
            rows.append(Row(factor=factor, block=block, seconds=2.0, figures=figures))
    return Series(name="made", header={}, rows=tuple(rows))


def test_a_recorded_series_is_cut_into_comparisons() -> None:
    series = made_series(1.1)
    same, slower = pairs_of(series, 1.0), pairs_of(series, 1.1)
    assert len(same) == len(slower) == 30
    assert all(
        fmean([b["tpot_p50_ms"] / a["tpot_p50_ms"]]) == pytest.approx(1.1, abs=0.01)
        for a, b in slower
    )
    apart = disjoint(slower, both=False)
    assert apart.trials == 3
    assert apart.effects[Effect.WORSE] == 3
    every = sliding(same, both=True)
    assert every.trials == 2 * 19
    assert every.effects[Effect.NO_CHANGE] == every.trials
    assert stored(series, 1.1).trials == 15
    assert stored(series, 1.1).effects[Effect.WORSE] == 0  # 10 % is not past 10 %


def test_a_real_comparison_is_made_and_kept_run_by_run() -> None:
    """Our client against the truth server, three times as slow; every run is on record."""
    quick = Schedule(ttft_us=8_000, itl_us=1_000, tokens=TOKENS)
    row = compare(0, 3.0, schedule=quick)
    assert row["effect"] == "worse"
    assert len(row["runs"]) == 2 * row["pairs"] >= 12
    assert row["seconds"] > 0
    assert sorted(work(3, 1)) == [(0, 1.0), (0, 1.02), (0, 1.05), (0, 1.1), (1, 1.0), (2, 1.0)]


def test_the_page_tells_every_form() -> None:
    """That it is what the record says is shown with the other generated documents."""
    page = (ROOT / "docs" / "regression-gate.md").read_text(encoding="utf-8")
    for words in ("## The rule", "## Strong form: real runs", "## Weak form", "GPU host"):
        assert words in page
