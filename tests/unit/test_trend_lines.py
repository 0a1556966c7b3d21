"""Many runs in the order of time: which of them a line joins."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vllm.domain.run_brief import brief_record
from pytest_vllm.domain.trend_lines import METRICS, TrendRun, trend_of
from tests.unit.performances import performance
from tests.unit.test_run_comparison import GPU, folder, run

DAY = dt.timedelta(days=1)
MEMORY = "--gpu-memory-utilization 0.9"
LONG = f"--max-model-len 8192 {MEMORY}"
BEGAN = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def trend_run(number: int, *, load: bool = True, **changes: Any) -> TrendRun:
    record = run(1 + number / 100, **changes)
    if not load:
        record = replace(record, performance={})
    brief = replace(brief_record(record), started=BEGAN + number * DAY)
    return TrendRun(name=f"run-{number}", brief=brief, link=f"run-{number}/report.html")


def test_runs_of_one_machine_are_one_line() -> None:
    (subject,) = trend_of([trend_run(number) for number in range(4)])
    assert subject.gpus == "8x AMD Instinct MI300X"
    assert subject.runs == 4
    assert set(subject.metrics) == set(METRICS)
    (line,) = subject.metrics["output_tokens_per_s"]
    assert line.name == "chat at c8"
    assert [point.place for point in line.points] == [0, 1, 2, 3]
    values = [point.mean.value for point in line.points]
    assert values == sorted(values, reverse=True)
    assert all(point.mean.low is not None for point in line.points)


def test_another_driver_begins_another_line_and_is_named() -> None:
    driver = {**GPU, "driver": "6.16.13"}
    (subject,) = trend_of([trend_run(0), trend_run(1), trend_run(2, gpu=driver)])
    first, second = subject.metrics["ttft_p50_ms"]
    assert (first.name, second.name) == ("driver 6.16.6", "driver 6.16.13")
    assert [point.place for point in first.points] == [0, 1]
    assert [point.place for point in second.points] == [2]


def test_other_gpus_are_another_subject() -> None:
    """What the most runs are of comes first."""
    runs = [trend_run(0, count=4), trend_run(1), trend_run(2), trend_run(3, count=4), trend_run(4)]
    assert [(found.gpus, found.runs) for found in trend_of(runs)] == [
        ("8x AMD Instinct MI300X", 3),
        ("4x AMD Instinct MI300X", 2),
    ]


def test_other_work_is_another_line() -> None:
    runs = [trend_run(0), trend_run(1)]
    other = replace(run(), performance=performance(conditions={"workload": "code"}))
    runs.append(TrendRun(name="x", brief=brief_record(other)))
    (subject,) = trend_of(runs)
    assert [line.name for line in subject.metrics["tpot_p50_ms"]] == [
        "workload chat",
        "workload code",
    ]


def names_of(*arguments: tuple[str, ...]) -> list[str]:
    runs = [trend_run(number, arguments=words) for number, words in enumerate(arguments)]
    (subject,) = trend_of(runs)
    return [line.name for line in subject.metrics["tpot_p50_ms"]]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (
            [("--max-model-len 8192", "--max-num-seqs 64"), ("--max-num-seqs 128", LONG)],
            ["arguments --max-num-seqs 64", f"arguments --max-num-seqs 128 {MEMORY}"],
        ),
        (
            [(LONG, "--max-num-seqs 64"), (LONG, "--max-num-seqs", "128")],
            ["arguments --max-num-seqs 64", "arguments --max-num-seqs 128"],
        ),
        (
            [(LONG,), (LONG, "--enforce-eager"), (LONG, "-O3")],
            ["no other arguments", "arguments --enforce-eager", "arguments -O3"],
        ),
        (
            [("--a 1", "--b 2"), ("--b 2", "--a 1")],
            ["arguments --a 1 --b 2", "arguments --b 2 --a 1"],
        ),
    ],
)
def test_of_arguments_only_those_that_differ_name_a_line(
    arguments: list[tuple[str, ...]], names: list[str]
) -> None:
    """A legend has room for 34 letters, and vLLM's arguments begin with those that are the same."""
    assert names_of(*arguments) == names


def test_a_driver_that_only_one_run_knows_is_named() -> None:
    unknown = {name: value for name, value in GPU.items() if name != "driver"}
    (subject,) = trend_of([trend_run(0), trend_run(1, gpu=unknown)])
    names = [line.name for line in subject.metrics["tpot_p50_ms"]]
    assert names == ["driver 6.16.6", "driver not known"]


def test_another_model_at_the_same_path_begins_another_line() -> None:
    runs = [TrendRun(name=name, brief=brief_record(folder(name))) for name in "ab"]
    (subject,) = trend_of(runs)
    names = [line.name for line in subject.metrics["tpot_p50_ms"]]
    assert names == [f"model files {'a' * 64}", f"model files {'b' * 64}"]


def test_an_attached_server_and_one_without_arguments_are_two_lines() -> None:
    (subject,) = trend_of([trend_run(0, arguments=()), trend_run(1, backend="attach")])
    names = [line.name for line in subject.metrics["tpot_p50_ms"]]
    assert names == ["arguments none", "arguments not known"]


def test_a_fact_that_only_some_runs_have_names_every_line() -> None:
    """Digest and commit tell a model in different ways, and are facts of their own."""
    one = trend_run(0)
    known = [{"model revision": "abc"}, {"model files": "d1"}, {"model files": "d2"}]
    others = {name: value for name, value in one.brief.facts.items() if name != "model revision"}
    runs = [replace(one, brief=replace(one.brief, facts={**others, **facts})) for facts in known]
    (subject,) = trend_of(runs)
    assert [line.name for line in subject.metrics["tpot_p50_ms"]] == [
        "model revision abc, model files not known",
        "model revision not known, model files d1",
        "model revision not known, model files d2",
    ]


@given(st.lists(st.lists(st.sampled_from(["--a", "--b 1", "-c", "2"])).map(tuple), unique=True))
@settings(max_examples=25)
def test_no_two_lines_have_one_name(arguments: list[tuple[str, ...]]) -> None:
    if arguments:
        names = names_of(*arguments)
        assert len(set(names)) == len(names)


def test_a_run_without_a_load_is_in_no_line() -> None:
    (subject,) = trend_of([trend_run(0), trend_run(1, load=False), trend_run(2)])
    assert subject.runs == 2
    assert trend_of([trend_run(0, load=False)]) == []
    assert trend_of([]) == []


def test_a_figure_that_nobody_measured_has_no_line() -> None:
    (subject,) = trend_of([trend_run(0)], ("goodput_share",))
    assert subject.metrics == {"goodput_share": ()}


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from((4, 8)), st.booleans()), max_size=12))
def test_each_load_is_in_exactly_one_line(kinds: list[tuple[int, bool]]) -> None:
    runs = [trend_run(number, count=count, load=load) for number, (count, load) in enumerate(kinds)]
    places = [
        point.place
        for subject in trend_of(runs)
        for line in subject.metrics["ttft_p50_ms"]
        for point in line.points
    ]
    assert sorted(places) == [number for number, (_, load) in enumerate(kinds) if load]
