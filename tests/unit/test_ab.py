"""What an A/B comparison comes to: exit codes, whose fault it is, and false alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.ab import (
    AbRecord,
    AbRun,
    Blame,
    Comparison,
    SideFacts,
    Stop,
    conditions,
    exit_code,
    failing_side,
    false_alarms,
    to_plain,
)
from pytest_vllm.domain.metric_change import Effect, Form, Judgement, MetricChange
from pytest_vllm.domain.pair_order import Side
from pytest_vllm.reports.ab import closing, run_line

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("x:1", "x:2")


def run(side: Side, pair: int = 0, *, failures: Mapping[str, int] | None = None) -> AbRun:
    return AbRun(
        side=side,
        pair=pair,
        seed=pair,
        begin_s=1.0,
        load_s=2.0,
        figures={"output_tokens_per_s": 100.0, "ttft_p50_ms": 12.5, "tpot_p50_ms": 7.0},
        requests=100,
        prompts=f"p{pair}",
        failures=failures or {},
        output_tokens=1600,
    )


def judged(*effects: Effect, obstacles: tuple[str, ...] = ()) -> Judgement:
    changes = tuple(
        MetricChange(metric=f"m{number}_ms", effect=effect, tolerance=0.03)
        for number, effect in enumerate(effects)
    )
    return Judgement(form=Form.PAIRS, changes=changes, repeats=6, obstacles=obstacles)


def compared(judgement: Judgement | None, *runs: AbRun, seconds: float = 60.0) -> Comparison:
    return Comparison(runs=runs, judgement=judgement, seconds=seconds)


@pytest.mark.parametrize(
    ("effects", "code"),
    [
        ((Effect.NO_CHANGE, Effect.BETTER), 0),
        ((Effect.WORSE, Effect.BETTER), 1),
        ((Effect.WORSE, Effect.CANNOT_TELL), 1),
        ((Effect.CANNOT_TELL, Effect.BETTER), 75),
    ],
)
def test_the_exit_code_follows_the_weightiest_effect(
    effects: tuple[Effect, ...], code: int
) -> None:
    assert exit_code(compared(judged(*effects))) == code


def test_only_a_candidate_that_fails_alone_is_rejected_without_figures() -> None:
    bad = {"reset": 2}
    found = judged(obstacles=("2 of 100 requests failed",))
    alone = compared(found, run(Side.BASE), run(Side.CANDIDATE, failures=bad))
    both = compared(found, run(Side.BASE, failures=bad), run(Side.CANDIDATE, failures=bad))
    base = compared(found, run(Side.BASE, failures=bad), run(Side.CANDIDATE))
    assert [failing_side(one) for one in (alone, both, base)] == [
        Blame.CANDIDATE, Blame.HOST, Blame.BASE,
    ]  # fmt: skip
    assert [exit_code(one) for one in (alone, both, base)] == [1, 75, 75]
    assert exit_code(compared(found, run(Side.BASE), run(Side.CANDIDATE))) == 75


def test_a_stop_ends_by_its_blame_or_its_signal() -> None:
    codes = [Stop(text="x", blame=blame).exit_code for blame in Blame]
    assert dict(zip(Blame, codes, strict=True)) == {
        Blame.CANDIDATE: 1, Blame.BASE: 75, Blame.HOST: 75,
    }  # fmt: skip
    assert Stop(text="x", blame=Blame.HOST, code=130).exit_code == 130


def test_conditions_are_those_of_all_runs_of_a_side() -> None:
    found = conditions(
        [run(Side.BASE), run(Side.BASE, 1, failures={"status": 1})],
        SideFacts(name="x", same={"GPUs": "MI300X"}),
    )
    assert found.facts == {"GPUs": "MI300X", "prompts": "p0,p1"}
    assert (found.requests, found.failed, found.output_tokens) == (200, 1, 3200)


def test_false_alarms_count_comparisons_and_not_metrics() -> None:
    alarms = false_alarms(
        [
            compared(judged(Effect.WORSE, Effect.WORSE)),
            compared(judged(Effect.NO_CHANGE, Effect.BETTER)),
            compared(judged(Effect.CANNOT_TELL, Effect.NO_CHANGE)),
            compared(judged(Effect.NO_CHANGE, Effect.NO_CHANGE), seconds=120.0),
            compared(judged(obstacles=("the client was the limit",))),
        ]
    )
    told = (alarms.worse.right, alarms.better.right, alarms.undecided.right, alarms.worse.total)
    assert told == (1, 1, 1, 4)
    assert (alarms.void, alarms.by_metric) == (1, {"m0_ms": 1, "m1_ms": 1})
    assert (alarms.pairs, alarms.seconds) == ((6, 6, 6, 6), (60.0, 60.0, 60.0, 120.0))


def record(**fields: object) -> AbRecord:
    settled = {"run_id": "r", "started": "s", "duration_s": 1.0, "servers": "restart"}
    return AbRecord(**{**settled, "request": {}, **fields})  # type: ignore[arg-type]


def test_the_end_says_what_it_means() -> None:
    worse = record(comparisons=(compared(judged(Effect.WORSE)),), exit_code=1)
    open_ = record(comparisons=(compared(judged(Effect.CANNOT_TELL)),), exit_code=75)
    garbage = record(stop=Stop(text="the candidate: garbage", blame=Blame.CANDIDATE), exit_code=1)
    ended = record(stop=Stop(text="by a signal", blame=Blame.HOST, code=130), exit_code=130)
    texts = [closing(one, names=NAMES, width=100) for one in (worse, open_, garbage, ended)]
    assert "ab: the candidate is worse (exit code 1)" in texts[0]
    assert "cannot be told whether the candidate is worse (exit code 75)" in texts[1]
    assert "rejected without a comparison (exit code 1)" in texts[2]
    assert "garbage" in texts[2]
    assert "nothing is said of the candidate (exit code 130)" in texts[3]


def test_the_false_alarm_rate_is_told_with_its_interval() -> None:
    found = [compared(judged(Effect.NO_CHANGE)) for _ in range(19)]
    alarms = false_alarms([*found, compared(judged(Effect.WORSE))])
    text = closing(record(alarms=alarms, exit_code=0), names=NAMES, width=100)
    assert "told worse       1 of 20:  5.0 % (0.9 to 23.6 %, Wilson 95 %)" in text
    assert "each took 6 pairs and 1.0 minutes (medians)" in text


def test_a_run_is_told_on_a_line() -> None:
    line = run_line(run(Side.CANDIDATE, failures={"reset": 3}), number=2, of=12)
    assert line == (
        "run  2/12 B candidate tokens/s 100, TTFT p50 12.5 ms, TPOT p50 7.00 ms, 3 of 100 failed"
    )


def test_the_record_is_plain_data() -> None:
    plain = to_plain(record(comparisons=(compared(judged(Effect.WORSE), run(Side.BASE)),)))
    assert (plain["schema"], plain["kind"]) == (1, "ab")
    assert plain["comparisons"][0]["runs"][0]["side"] == "base"
    assert plain["comparisons"][0]["judgement"]["changes"][0]["effect"] == "worse"
