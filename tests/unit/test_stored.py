"""The loads of a run against those of an earlier one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_vllm.domain.metric_change import Effect, Form
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.stored import (
    compare_performance,
    facts_of,
    first_run,
    record_facts,
)
from tests.unit.performances import performance
from tests.unit.records import all_passed, make_record


@pytest.mark.parametrize(
    ("factor", "effect"),
    [(1.0, Effect.NO_CHANGE), (1.4, Effect.WORSE), (0.7, Effect.BETTER)],
)
def test_loads_are_compared_round_against_round(factor: float, effect: Effect) -> None:
    judgement = compare_performance(performance(), performance(factor))
    assert judgement is not None
    assert judgement.form is Form.STORED
    assert judgement.effect is effect
    assert {change.tolerance for change in judgement.changes} == {0.10}
    assert [change.metric for change in judgement.changes] == [
        "output_tokens_per_s",
        "tpot_p50_ms",
        "ttft_p50_ms",
    ]


def test_an_allowed_change_replaces_the_tolerance() -> None:
    judgement = compare_performance(
        performance(),
        performance(1.3),
        allowed={"output_tokens_per_s": 0.6, "tpot_p50_ms": 0.6, "ttft_p50_ms": 0.6},
    )
    assert judgement is not None
    assert judgement.effect is Effect.NO_CHANGE


def test_less_than_days_differ_by_is_not_held() -> None:
    """Sound servers were rejected under a smaller change that a profile allowed."""
    allowed = {"tpot_p50_ms": 0.005}
    judgement = compare_performance(
        performance(noise=0.002), performance(1.04, noise=0.002), allowed=allowed
    )
    assert judgement is not None
    assert judgement.effect is Effect.NO_CHANGE
    assert {change.metric: change.asked for change in judgement.changes} == {
        "output_tokens_per_s": None,
        "tpot_p50_ms": 0.005,
        "ttft_p50_ms": None,
    }


def test_a_rate_is_judged_from_the_schedule() -> None:
    judgement = compare_performance(performance(open_loop=True), performance(open_loop=True))
    assert judgement is not None
    assert judgement.changes[-1].metric == "ttft_sched_p50_ms"


def test_runs_without_any_load_have_nothing_to_compare() -> None:
    assert compare_performance({}, {}) is None


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, performance(), "the baseline has no load in it: it needs the suite performance"),
        (performance(), {}, "this run has no load in it: it needs the suite performance"),
        (
            performance(),
            performance(levels=("c16",)),
            "no level of load in common: c8 of the baseline, c16 of this run",
        ),
        (
            performance(),
            performance(conditions={"workload": "code"}),
            "other workload: chat of the baseline, code of this run",
        ),
        (
            performance(),
            performance(failed=1),
            "5 of 320 requests of this run failed, at most 0.1 % may",
        ),
        (
            performance(limits=["its core was full"]),
            performance(),
            "the client was the limit of the baseline: its core was full",
        ),
        (
            performance(levels=("c1", "c8")),
            performance(levels=("c1", "c8"), output_tokens=4000),
            (
                "level c1: other output: 64 tokens a request of the baseline, 62.5 of this run, "
                "so they did not do the same work"
            ),
        ),
    ],
)
def test_what_forbids_a_comparison_is_named(
    before: dict[str, Any], after: dict[str, Any], words: str
) -> None:
    judgement = compare_performance(before, after)
    assert judgement is not None
    assert judgement.obstacles[0] == words
    assert judgement.changes == ()
    assert judgement.effect is Effect.CANNOT_TELL


def test_a_level_that_is_not_gated_is_left_out() -> None:
    """A sweep shows levels of a few rounds that cannot be compared."""
    sweep = performance(levels=("c1", "c8"))
    sweep["levels"][0]["gated"] = False
    judgement = compare_performance(sweep, performance())
    assert judgement is not None
    assert judgement.effect is Effect.NO_CHANGE


def test_a_level_that_one_side_lacks_is_not_told_and_the_others_are() -> None:
    judgement = compare_performance(performance(levels=("c1", "c8")), performance())
    assert judgement is not None
    effects = {change.metric: change.effect for change in judgement.changes}
    assert effects["c8/tpot_p50_ms"] is Effect.NO_CHANGE
    assert effects["c1/tpot_p50_ms"] is Effect.CANNOT_TELL


def test_what_must_be_the_same_is_read_out_of_a_record() -> None:
    gpus = [
        {"name": "AMD Instinct MI300X", "driver": "6.14.14", "partition": "SPX/NPS1"},
        {"name": "AMD Instinct MI300X", "driver": "6.14.14", "partition": "SPX/NPS1"},
    ]
    record = make_record(all_passed())
    serve = Setting(name="serve-arg", value=("--dtype=bfloat16", "-tp 2"), source="option")
    record = replace(
        record,
        gpus={"monitor": "amd", "gpus": gpus},
        facts={"model": {"revision": "1a2b"}},
        settings=(serve,),
    )
    facts = record_facts(record)
    assert facts["GPUs"] == "2x AMD Instinct MI300X"
    assert facts["partition of the GPUs"] == "2x SPX/NPS1"
    assert facts["driver"] == "6.14.14"
    assert facts["model revision"] == "1a2b"
    assert facts["arguments"] == "--dtype=bfloat16 -tp 2"
    assert record.server is not None
    assert facts["model"] == (record.server.launch_model or record.server.model) != ""
    other = {**facts, "driver": "7.0.1"}
    judgement = compare_performance(performance(), performance(), facts=(facts, other))
    assert judgement is not None
    assert judgement.obstacles == ("other driver: 6.14.14 of the baseline, 7.0.1 of this run",)


def test_little_is_known_of_an_attached_server() -> None:
    facts = facts_of(gpus={}, facts={}, settings=(), server=None)
    assert {name for name, value in facts.items() if value} == {"arguments"}


def test_a_first_run_says_how_it_becomes_a_baseline() -> None:
    assert "--vllm-baseline=20261123-1" in first_run("20261123-1")
    assert "nothing was compared" in first_run("x")
