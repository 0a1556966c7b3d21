"""The gate: worse, better, no change, or cannot tell."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.gated import flatten, rules_for
from pytest_vllm.domain.metric_change import Effect, Form, Judgement, MetricChange, Rule
from pytest_vllm.domain.regression import judge_pairs, judge_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TTFT = Rule(metric="ttft_p50_ms", tolerance=0.05)
SPEED = Rule(metric="output_tokens_per_s", tolerance=0.03, bigger_is_better=True)
OPPOSITE = {
    Effect.WORSE: Effect.BETTER,
    Effect.BETTER: Effect.WORSE,
    Effect.NO_CHANGE: Effect.NO_CHANGE,
    Effect.CANNOT_TELL: Effect.CANNOT_TELL,
}
NOISE = (0.004, -0.003, 0.006, -0.005, 0.002, -0.004, 0.001, -0.006, 0.005, -0.002, 0.003, -0.001)
FIGURES = st.lists(st.floats(10, 20), min_size=6, max_size=8)


def runs(*values: float | None, metric: str = "ttft_p50_ms") -> list[dict[str, float]]:
    return [{} if value is None else {metric: value} for value in values]


def noisy(level: float, pairs: int, *, metric: str = "ttft_p50_ms") -> list[dict[str, float]]:
    return [{metric: level * (1 + noise)} for noise in NOISE[:pairs]]


def pairs_of(
    base: Sequence[float | None], candidate: Sequence[float | None], rule: Rule = TTFT
) -> MetricChange:
    """Judge figures of one metric in pairs."""
    sides = (runs(*side, metric=rule.metric) for side in (base, candidate))
    (change,) = judge_pairs(*sides, [rule]).changes
    return change


@pytest.mark.parametrize(
    ("factor", "effect"),
    [
        (1.0, Effect.NO_CHANGE),
        (1.02, Effect.NO_CHANGE),
        (1.08, Effect.WORSE),
        (0.92, Effect.BETTER),
    ],
)
def test_quiet_pairs_tell_at_once(factor: float, effect: Effect) -> None:
    base = [100 * (1 + noise) for noise in NOISE[:6]]
    change = pairs_of(base, [factor * 100 * (1 + noise) for noise in reversed(NOISE[:6])])
    assert change.effect is effect
    assert change.ratio == pytest.approx(factor, rel=0.01)
    assert change.repeats == 6
    assert change.repeats_wanted is None


def test_worse_needs_both_the_tolerance_and_significance() -> None:
    """Four per cent every time is significant and allowed; a rare large one is neither."""
    steady = pairs_of([100.0] * 12, [104.0] * 12)
    assert steady.effect is Effect.NO_CHANGE
    assert steady.p == pytest.approx(2**-12)
    wild = pairs_of([100.0] * 6, [130.0, 80.0, 140.0, 135.0, 85.0, 150.0])
    assert wild.effect is Effect.CANNOT_TELL
    assert wild.ratio is not None
    assert wild.ratio > 1.05


@pytest.mark.parametrize("pairs", [1, 2, 3, 4, 5])
def test_fewer_than_six_pairs_tell_nothing(pairs: int) -> None:
    judgement = judge_pairs(noisy(100, pairs), noisy(300, pairs), [TTFT])
    assert judgement.effect is Effect.CANNOT_TELL
    assert judgement.wants_more
    assert judgement.changes[0].repeats_wanted == 6


def test_a_pass_is_refused_where_the_tolerance_could_not_have_been_seen() -> None:
    """All but a few pairs agree, so the bound is inside; yet MDE80 is above the tolerance."""
    quiet = [1.0, 1.06, 0.94, 1.05, 0.93, 1.055]
    change = pairs_of([100.0] * 6, [100 * ratio for ratio in quiet])
    assert change.detectable is not None
    assert change.detectable > 0.05
    assert change.effect is Effect.CANNOT_TELL
    assert change.repeats_wanted is not None
    assert change.repeats_wanted > 6


def test_more_pairs_are_wanted_until_twelve_or_until_one_is_worse() -> None:
    noise = [1.2, 0.8, 1.25, 0.75, 1.3, 0.78, 1.1, 0.9, 1.2, 0.7, 1.3, 0.8]
    for count in (6, 8, 10, 12):
        judgement = judge_pairs(
            runs(*[100.0] * count), runs(*(100 * n for n in noise[:count])), [TTFT]
        )
        assert judgement.effect is Effect.CANNOT_TELL
        assert judgement.wants_more is (count < 12)
    base = [{**a, **b} for a, b in zip(runs(*[100.0] * 8), noisy(50, 8, metric="x"), strict=True)]
    rules = [TTFT, Rule(metric="x", tolerance=0.03)]
    candidate = [{"ttft_p50_ms": 100 * n, "x": 60.0} for n in noise[:8]]
    judgement = judge_pairs(base, candidate, rules)
    assert [change.effect for change in judgement.changes] == [Effect.CANNOT_TELL, Effect.WORSE]
    assert judgement.effect is Effect.WORSE
    assert not judgement.wants_more


def test_many_metrics_need_more_pairs_for_the_same_certainty() -> None:
    """Six pairs have a p of 0.016 at least: of one metric enough, of two no more (Holm)."""
    base, slow = runs(*[100.0] * 6), runs(*[120.0] * 6)
    assert judge_pairs(base, slow, [TTFT]).effect is Effect.WORSE
    both = [{**run, "x": 1.0} for run in base], [{**run, "x": 1.0} for run in slow]
    judgement = judge_pairs(*both, [TTFT, Rule(metric="x", tolerance=0.03)])
    assert judgement.changes[0].effect is Effect.CANNOT_TELL
    assert judgement.wants_more


def test_pairs_that_could_not_see_the_tolerance_must_be_surer() -> None:
    """Six times slower of six is a p of 0.016: enough where the pairs agree, not in wild noise."""
    assert pairs_of([100.0] * 6, [110.0, 111.0, 109.0, 112.0, 110.5, 109.5]).effect is Effect.WORSE
    wild = [106.0, 190.0, 120.0, 260.0, 108.0, 160.0]
    change = pairs_of([100.0] * 6, wild)
    assert change.detectable is not None
    assert change.detectable > 1.2 * 0.05
    assert change.effect is Effect.CANNOT_TELL
    assert pairs_of([100.0] * 8, [*wild, 130.0, 180.0]).effect is Effect.WORSE


def test_throughput_is_worse_when_it_is_smaller() -> None:
    change = pairs_of([100.0] * 6, [90.0, 90.1, 89.9, 90.2, 89.8, 90.0], SPEED)
    assert change.effect is Effect.WORSE
    assert change.ratio == pytest.approx(0.9, abs=0.001)
    assert change.low is not None
    assert change.high is not None
    assert change.low <= change.ratio <= change.high < 1


def test_nothing_against_something_is_told_and_nothing_against_nothing_is_no_change() -> None:
    """A goodput that falls to nothing has no logarithm, and is worse all the same."""
    assert pairs_of([5.0] * 6, [0.0] * 6, SPEED).effect is Effect.WORSE
    assert pairs_of([0.0] * 6, [5.0] * 6, SPEED).effect is Effect.BETTER
    assert pairs_of([0.0] * 6, [0.0] * 6, SPEED).effect is Effect.NO_CHANGE


@pytest.mark.parametrize(
    "bad", [None, math.nan, math.inf, -1.0, 1e308, pytest.param(10**400, id="endless")]
)
def test_a_run_without_a_figure_leaves_its_metric_untold(bad: float | None) -> None:
    """Leaving the pair out would leave out the runs that went wrong."""
    judgement = judge_pairs(runs(*[100.0] * 6), runs(*[100.0] * 5, bad), [TTFT])
    (change,) = judgement.changes
    assert change.effect is Effect.CANNOT_TELL
    assert change.reason == "no figure in 1 of 6 runs of the candidate"
    assert not judgement.wants_more


def test_a_metric_that_no_run_has_is_not_gated() -> None:
    judgement = judge_pairs(runs(*[100.0] * 6), runs(*[100.0] * 6), [TTFT, SPEED])
    assert [change.metric for change in judgement.changes] == ["ttft_p50_ms"]
    empty = judge_pairs(runs(*[1.0] * 6), runs(*[1.0] * 6), [SPEED])
    assert empty.effect is Effect.CANNOT_TELL
    assert not empty.wants_more


def test_pairs_need_both_sides() -> None:
    with pytest.raises(ValueError, match="6 runs of the base, 5 of the candidate"):
        judge_pairs(runs(*[1.0] * 6), runs(*[1.0] * 5), [TTFT])


@given(FIGURES, st.floats(0.5, 2), st.sampled_from((TTFT, SPEED)))
def test_swapping_the_sides_turns_worse_into_better(
    base: list[float], factor: float, rule: Rule
) -> None:
    candidate = [factor * value for value in reversed(base)]
    there, back = pairs_of(base, candidate, rule), pairs_of(candidate, base, rule)
    decided = (Effect.WORSE, Effect.BETTER)
    if there.effect in decided or back.effect in decided:
        assert back.effect is OPPOSITE[there.effect]
    assert there.ratio is not None
    assert back.ratio == pytest.approx(1 / there.ratio)


@given(FIGURES, FIGURES, st.sampled_from((1e-3, 2.0, 1024.0)))
def test_the_unit_of_a_metric_does_not_matter(
    base: list[float], candidate: list[float], unit: float
) -> None:
    count = min(len(base), len(candidate))
    base, candidate = base[:count], candidate[:count]
    plain = pairs_of(base, candidate)
    scaled = pairs_of([unit * x for x in base], [unit * x for x in candidate])
    assert scaled.ratio == pytest.approx(plain.ratio)
    assert scaled.detectable == pytest.approx(plain.detectable)


@given(FIGURES, st.floats(1.0, 1.5))
def test_a_slower_candidate_is_never_judged_milder(base: list[float], factor: float) -> None:
    order = [Effect.BETTER, Effect.NO_CHANGE, Effect.CANNOT_TELL, Effect.WORSE]
    candidate = list(reversed(base))
    here = pairs_of(base, candidate).effect
    there = pairs_of(base, [factor * value for value in candidate]).effect
    if here is not Effect.CANNOT_TELL:
        assert order.index(there) >= order.index(here)
    if here is Effect.CANNOT_TELL:
        assert there is not Effect.BETTER


@pytest.mark.parametrize(
    ("factor", "effect"),
    [
        (1.0, Effect.NO_CHANGE),
        (1.05, Effect.NO_CHANGE),
        (1.11, Effect.CANNOT_TELL),
        (1.3, Effect.WORSE),
        (0.7, Effect.BETTER),
    ],
)
def test_a_stored_baseline_rejects_only_what_is_surely_past_its_tolerance(
    factor: float, effect: Effect
) -> None:
    rule = Rule(metric="ttft_p50_ms", tolerance=0.10)
    judgement = judge_stored(noisy(100, 5), noisy(100 * factor, 6), [rule])
    assert judgement.form is Form.STORED
    assert judgement.effect is effect
    assert judgement.repeats == 5


def test_rounds_are_no_better_known_than_one_of_them() -> None:
    """Welch's interval alone would be 2.3 times as narrow: it takes rounds for runs."""
    rule = Rule(metric="ttft_p50_ms", tolerance=0.10)
    rounds = runs(96.0, 98.0, 100.0, 102.0, 104.0)
    (change,) = judge_stored(rounds, rounds, [rule]).changes
    assert change.high is not None
    error = math.sqrt(2 * 1.2) * 0.0316
    assert math.log(change.high) == pytest.approx(2.306 * error, rel=0.01)


def test_few_rounds_or_rounds_without_a_figure_tell_nothing() -> None:
    rule = Rule(metric="ttft_p50_ms", tolerance=0.10)
    (few,) = judge_stored(noisy(100, 3), noisy(300, 5), [rule]).changes
    assert few.effect is Effect.CANNOT_TELL
    assert few.reason == "rounds: 3 then, 5 now; 5 each are needed"
    assert few.repeats_wanted == 5
    (lost,) = judge_stored(runs(*[1.0] * 5), runs(1.0, None, 1.0, 1.0, 1.0), [rule]).changes
    assert lost.reason == "no figure in 1 of 5 runs of the candidate"
    (zero,) = judge_stored(runs(*[1.0] * 5), runs(*[0.0] * 5), [rule]).changes
    assert zero.effect is Effect.CANNOT_TELL
    assert "figure of 0" in zero.reason


def test_stored_rounds_that_would_tell_are_named_where_any_number_would() -> None:
    rule = Rule(metric="ttft_p50_ms", tolerance=0.10)
    chance = random.Random(3)  # noqa: S311 - noise

    def rounds(spread: float) -> list[dict[str, float]]:
        return runs(*(100 * math.exp(chance.gauss(0, spread)) for _ in range(5)))

    changes = [judge_stored(rounds(0.03), rounds(0.03), [rule]).changes[0] for _ in range(40)]
    wanted = [c.repeats_wanted for c in changes if c.effect is Effect.CANNOT_TELL]
    assert any(count is not None and count > 5 for count in wanted)
    (hopeless,) = judge_stored(rounds(0.3), rounds(0.3), [rule]).changes
    assert hopeless.effect is Effect.CANNOT_TELL
    assert hopeless.repeats_wanted is None


def test_the_weightiest_effect_is_the_judgement() -> None:
    def judged(*effects: Effect) -> Effect:
        changes = [MetricChange(metric="x", effect=effect, tolerance=0.03) for effect in effects]
        return Judgement(form=Form.PAIRS, changes=tuple(changes)).effect

    assert judged(Effect.BETTER, Effect.NO_CHANGE) is Effect.NO_CHANGE
    assert judged(Effect.BETTER, Effect.CANNOT_TELL) is Effect.CANNOT_TELL
    assert judged(Effect.CANNOT_TELL, Effect.WORSE) is Effect.WORSE
    assert judged(Effect.BETTER) is Effect.BETTER
    assert judged() is Effect.CANNOT_TELL
    same = MetricChange(metric="x", effect=Effect.NO_CHANGE, tolerance=0.03)
    blocked = Judgement(form=Form.PAIRS, changes=(same,), obstacles=("another GPU",))
    assert blocked.effect is Effect.CANNOT_TELL


def test_rules_have_the_tolerances_of_the_field_and_a_direction() -> None:
    names = ("output_tokens_per_s", "tpot_p50_ms", "ttft_p50_ms", "ttft_p99_ms", "e2el_p50_ms")
    rules = {rule.metric: rule for rule in rules_for([dict.fromkeys(names, 1.0)])}
    assert {name: rule.tolerance for name, rule in rules.items()} == {
        "output_tokens_per_s": 0.03,
        "tpot_p50_ms": 0.03,
        "ttft_p50_ms": 0.05,
        "ttft_p99_ms": 0.10,
    }
    assert [name for name, rule in rules.items() if rule.bigger_is_better] == [names[0]]


def test_rules_can_be_wider_narrower_more_and_count_from_the_schedule() -> None:
    run = dict.fromkeys(("tpot_p50_ms", "ttft_p50_ms", "ttft_sched_p50_ms", "goodput_share"), 1.0)
    rules = rules_for([run], allowed={"tpot_p50_ms": 0.5, "goodput_share": 0.2}, open_loop=True)
    assert [(rule.metric, rule.tolerance) for rule in rules] == [
        ("output_tokens_per_s", 0.03),
        ("tpot_p50_ms", 0.5),
        ("ttft_sched_p50_ms", 0.05),
        ("goodput_share", 0.2),
    ]
    assert rules[-1].bigger_is_better
    assert {rule.tolerance for rule in rules_for([run], at_least=0.1)} == {0.1}


def test_less_than_the_least_tolerance_is_asked_for_and_not_held() -> None:
    """A stored baseline held to 0.5 % rejected sound servers: no day is that much like another."""
    allowed = {"tpot_p50_ms": 0.005, "ttft_p50_ms": 0.2}
    rules = {
        rule.metric: rule
        for rule in rules_for([{"tpot_p50_ms": 1.0}], allowed=allowed, at_least=0.1)
    }
    assert (rules["tpot_p50_ms"].tolerance, rules["tpot_p50_ms"].asked) == (0.1, 0.005)
    assert (rules["ttft_p50_ms"].tolerance, rules["ttft_p50_ms"].asked) == (0.2, None)
    assert rules["output_tokens_per_s"].asked is None
    (strong,) = (
        rule
        for rule in rules_for([{"tpot_p50_ms": 1.0}], allowed=allowed)
        if rule.metric == "tpot_p50_ms"
    )
    assert (strong.tolerance, strong.asked) == (0.005, None)


COUNTED = {"output_tokens_per_s": 9.0, "requests_per_s_whole": 1.0, "ttft_p50_ms": 5.0}


@pytest.mark.parametrize(
    ("run", "metric", "words"),
    [
        ({"ttft_p50_ms": 5.0}, "output_tokens_per_s", "did not tell how many tokens"),
        ({"ttft_p50_ms": 5.0}, "tpot_p50_ms", "did not tell how many tokens"),
        ({**COUNTED, "output_tokens_per_s_whole": 8.0}, "tpot_p50_ms", "replies came in one piece"),
        ({"tpot_p50_ms": 5.0}, "ttft_p50_ms", "no run has this figure"),
        ({"ttft_mean_ms": 5.0}, "ttft_p50_ms", "needs more requests in each run"),
        ({**COUNTED, "tpot_mean_ms": 5.0}, "tpot_p50_ms", "needs more requests in each run"),
    ],
)
@pytest.mark.parametrize("judge", [judge_pairs, judge_stored])
def test_a_figure_that_no_run_has_and_should_have_is_not_told(
    judge: Callable[..., Judgement], run: dict[str, float], metric: str, words: str
) -> None:
    """What no side measured was once left out, and the rest was `no change`."""
    judgement = judge([run] * 6, [run] * 6, rules_for([run]))
    (change,) = (change for change in judgement.changes if change.metric == metric)
    assert change.effect is Effect.CANNOT_TELL
    assert words in change.reason
    assert judgement.effect is Effect.CANNOT_TELL
    assert not judgement.wants_more


def test_replies_of_one_token_have_no_time_for_a_further_one() -> None:
    run = {**COUNTED, "output_tokens_per_s_whole": 1.0}
    judgement = judge_pairs([run] * 6, [run] * 6, rules_for([run]))
    assert [change.metric for change in judgement.changes] == ["output_tokens_per_s", "ttft_p50_ms"]
    assert judgement.effect is Effect.NO_CHANGE


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("ttft_p99_ms", "needs more requests in each run"),
        ("ttft_sched_p99_ms", "only requests that come at a rate"),
        ("goodput_share", "goodput needs bounds"),
        ("stall_p50_ms", "no run has this figure"),
    ],
)
def test_a_figure_that_was_named_is_never_left_out(metric: str, words: str) -> None:
    run = {**COUNTED, "tpot_p50_ms": 2.0, "ttft_mean_ms": 6.0}
    judgement = judge_stored([run] * 5, [run] * 5, rules_for([run], allowed={metric: 0.2}))
    assert judgement.changes[-1].metric == metric
    assert words in judgement.changes[-1].reason
    assert judgement.effect is Effect.CANNOT_TELL


def test_levels_are_gated_each_by_itself() -> None:
    """A level that only one side reached is not taken for equal."""
    base = flatten({"c1": noisy(100, 5), "c8": noisy(200, 5)})
    assert set(base[0]) == {"c1/ttft_p50_ms", "c8/ttft_p50_ms"}
    candidate = [{"c1/ttft_p50_ms": run["c1/ttft_p50_ms"]} for run in base]
    judgement = judge_stored(base, candidate, rules_for([*base, *candidate], at_least=0.1))
    told = [change for change in judgement.changes if "ttft" in change.metric]
    assert [(change.metric, change.effect) for change in told] == [
        ("c1/ttft_p50_ms", Effect.NO_CHANGE),
        ("c8/ttft_p50_ms", Effect.CANNOT_TELL),
    ]
    assert flatten({"c1": noisy(100, 1)}) == noisy(100, 1)


@pytest.mark.parametrize("rule", [TTFT, SPEED])
@pytest.mark.parametrize("judge", [judge_pairs, judge_stored])
def test_worse_begins_where_the_change_says(judge: Callable[..., Judgement], rule: Rule) -> None:
    """Figures without noise: just past what is allowed is worse, just inside it is not."""
    base = runs(*[100.0] * 8, metric=rule.metric)
    (same,) = judge(base, base, [rule]).changes
    for beyond, effect in ((1.001, Effect.WORSE), (0.999, Effect.NO_CHANGE)):
        worst = same.at_worst * (1 / beyond if rule.bigger_is_better else beyond)
        (change,) = judge(base, runs(*[100 * worst] * 8, metric=rule.metric), [rule]).changes
        assert change.effect is effect


def test_ratios_beyond_all_numbers_are_open() -> None:
    """Rounds between the least and the largest figure have an interval that no float holds."""
    wild = runs(*[5e-324, 1e15] * 3)
    for side in (runs(*[1.0] * 6), wild):
        for change in (*judge_stored(side, wild, [TTFT]).changes,):
            assert change.effect is Effect.CANNOT_TELL
            assert change.high is None
            assert change.low is not None
