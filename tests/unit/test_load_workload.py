"""Workloads as data: distributions, every key and every mistake, rows of files of prompts."""

from __future__ import annotations

import json
import random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.adapters.load.workloads import load_workload, workload_names
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.lengths import read_lengths
from pytest_vllm.domain.load.rows import read_row
from pytest_vllm.domain.load.workload import Api, read_workload

PLAIN = {"prompt_tokens": 512, "output_tokens": 128}
SHAREGPT = {
    "conversations": [
        {"from": "gpt", "value": "what is left of an older answer"},
        {"from": "human", "value": "Who?"},
        {"from": "gpt", "value": "I."},
        {"from": "human", "value": "Why?"},
    ]
}


def drawn(value: Any, count: int = 2000, context: int | None = None) -> list[int]:
    lengths, rng = read_lengths(value, source="f"), random.Random(1)  # noqa: S311
    return [lengths.draw(rng, context=context) for _ in range(count)]


def test_lengths_are_fixed_or_a_share_of_the_context() -> None:
    assert set(drawn(7)) == {7}
    assert set(drawn({"context": {"share": 0.5}}, context=2049)) == {1024}
    with pytest.raises(TargetError, match="does not say how long"):
        drawn({"context": {"share": 0.5}})


def test_uniform_lengths_reach_both_bounds_evenly() -> None:
    found = drawn({"uniform": {"least": 1, "most": 4}})
    assert set(found) == {1, 2, 3, 4}
    assert all(abs(found.count(length) - 500) < 100 for length in range(1, 5))


def test_a_lognormal_keeps_its_median_and_is_skewed() -> None:
    found = drawn({"lognormal": {"median": 200, "sigma": 0.9, "least": 1, "most": 100_000}})
    assert median(found) == pytest.approx(200, rel=0.08)
    assert sum(found) / len(found) == pytest.approx(200 * 1.499, rel=0.12)  # exp(sigma^2 / 2)


def test_truncation_draws_again_and_does_not_pile_up_at_a_bound() -> None:
    found = drawn({"normal": {"mean": 100, "sd": 100, "least": 1, "most": 150}})
    assert min(found) >= 1
    assert max(found) <= 150
    assert found.count(150) < 40  # clamping would put a third of them there


@given(st.integers(1, 500), st.integers(0, 500), st.floats(0, 1), st.floats(0, 1000))
def test_a_draw_is_always_inside(least: int, more: int, at: float, sd: float) -> None:
    most = least + more
    table = {"normal": {"mean": least + at * more, "sd": sd, "least": least, "most": most}}
    assert all(least <= length <= most for length in drawn(table, 20))


@pytest.mark.parametrize("name", workload_names())
def test_what_ships_says_what_it_is_and_comes_again_from_the_record(name: str) -> None:
    workload = load_workload(name)
    assert workload.name == name
    assert workload.summary.endswith(".")
    assert read_workload(json.loads(json.dumps(workload.table))) == workload


def test_a_schema_or_a_file_leaves_the_end_to_the_model() -> None:
    assert read_workload(PLAIN).ignore_eos
    assert not read_workload({**PLAIN, "json_schema": {"type": "object"}}).ignore_eos
    assert not read_workload({"file": "x.jsonl"}).ignore_eos
    assert read_workload({"file": "x.jsonl", "ignore_eos": True}).ignore_eos


def test_turns_answer_as_long_as_the_output_unless_said() -> None:
    turns = read_workload({**PLAIN, "turns": {"count": 3, "pause_s": 0.5}}).turns
    assert turns is not None
    assert (turns.count, turns.pause_s, turns.answer.most) == (3, 0.5, 128)
    own = read_workload({**PLAIN, "turns": {"count": 2, "answer_tokens": 9}}).turns
    assert own is not None
    assert own.answer.most == 9
    assert read_workload({**PLAIN, "api": "chat"}).api is Api.CHAT


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"promt_tokens": 1}, "no key 'promt_tokens'; did you mean prompt_tokens"),
        ({"output_tokens": 1}, "prompt_tokens is missing"),
        ({"prompt_tokens": 1}, "output_tokens is missing"),
        (PLAIN | {"schema": 2}, "schema = 2 is not known"),
        (PLAIN | {"schema": True}, "schema = True is not known"),
        (PLAIN | {"api": "chats"}, "no api 'chats'; did you mean chat"),
        (PLAIN | {"api": 3}, "no api 3"),
        (PLAIN | {"ignore_eos": "yes"}, "ignore_eos = 'yes' is not true or false"),
        (PLAIN | {"summary": 1}, "summary = 1 is not a text"),
        (PLAIN | {"prompt_tokens": 0}, "prompt_tokens: 0 is no number of tokens"),
        (PLAIN | {"prompt_tokens": 1.5}, "prompt_tokens: cannot read 1.5"),
        (PLAIN | {"prompt_tokens": True}, "prompt_tokens: cannot read True"),
        (PLAIN | {"prompt_tokens": {"unifrom": {}}}, "no distribution 'unifrom'; did you mean"),
        (PLAIN | {"prompt_tokens": {"uniform": {"least": 1}}}, "uniform: needs least, most"),
        (PLAIN | {"prompt_tokens": {"uniform": {"least": 9, "most": 1}}}, "bound no number"),
        (PLAIN | {"prompt_tokens": {"uniform": {"least": "1", "most": 9}}}, "'1' is no number"),
        (
            PLAIN | {"prompt_tokens": {"normal": {"mean": 99, "sd": 1, "least": 1, "most": 9}}},
            "the middle 99",
        ),
        (PLAIN | {"prompt_tokens": {"context": {"share": 1.5}}}, "share is not above 0"),
        (PLAIN | {"shared_prefix": 5}, "shared_prefix is no table"),
        (PLAIN | {"shared_prefix": {}}, "shared_prefix.tokens is missing"),
        (PLAIN | {"shared_prefix": {"tokens": 5, "prefix": 1}}, "no key 'prefix'; did you mean"),
        (PLAIN | {"shared_prefix": {"tokens": 5, "prefixes": 0}}, "prefixes = 0"),
        (PLAIN | {"turns": {"count": 2, "pause_s": -1}}, "pause_s = -1"),
        (PLAIN | {"turns": {"count": "2"}}, "count = '2'"),
        (PLAIN | {"json_schema": 1}, "json_schema is no table"),
        (PLAIN | {"json_schema": {}, "ignore_eos": True}, "the grammar ends the answer"),
        (PLAIN | {"file": "x.jsonl"}, "prompt_tokens is said beside file"),
        ({"file": "x.jsonl", "turns": {"count": 2}, "output_tokens": 1}, "turns is said beside"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_key(table: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=said) as caught:
        read_workload(table, source="my.toml")
    assert str(caught.value).startswith("my.toml")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_no_value_of_a_key_is_a_traceback(value: Any) -> None:
    for key in ("prompt_tokens", "turns", "shared_prefix", "api", "json_schema", "file", "schema"):
        try:
            read_workload({**PLAIN, key: value}, source="f")
        except TargetError as error:
            assert str(error).startswith("f:")  # noqa: PT017 - a workload is fine as well


def test_sharegpt_sends_the_first_question_and_knows_its_answer() -> None:
    row = read_row(SHAREGPT, where="f, line 1")
    assert row.messages == ({"role": "user", "content": "Who?"},)
    assert (row.answer, row.output_tokens) == ("I.", None)


def test_plain_rows_and_traces() -> None:
    assert read_row({"prompt": "Hi", "output_tokens": 3}, where="f").output_tokens == 3
    assert read_row({"prompt": [1, 2]}, where="f").ids == (1, 2)
    traced = {"timestamp": 27.5, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
    row = read_row(traced, where="f")
    assert (row.due_ns, row.input_tokens, row.output_tokens) == (27_500_000, 6955, 52)
    assert (row.hash_ids, row.is_trace) == ((46, 47), True)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no JSON object"),
        ({}, "no prompt in it"),
        ({"prompt": ""}, "prompt is neither"),
        ({"prompt": [1, "a"]}, "prompt is neither"),
        ({"prompt": [-1]}, "prompt is neither"),
        ({"prompt": "Hi", "output_tokens": 0}, "output_tokens = 0"),
        ({"prompt": "Hi", "output_tokens": True}, "output_tokens = True"),
        ({"prompt": "Hi", "timestamp": "x"}, "timestamp = 'x'"),
        ({"prompt": "Hi", "timestamp": float("nan")}, "timestamp = nan"),
        ({"input_length": 5.5}, "input_length = 5.5"),
        ({"input_length": 5, "hash_ids": [1.5]}, "hash_ids"),
        ({"messages": []}, "messages is no list"),
        ({"conversations": [{"from": "human"}]}, "conversations.0. is no"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "nobody asks"),
    ],
)
def test_a_bad_row_is_told_with_its_line(document: Any, said: str) -> None:
    with pytest.raises(TargetError, match=said) as caught:
        read_row(document, where="f.jsonl, line 3")
    assert str(caught.value).startswith("f.jsonl, line 3")
