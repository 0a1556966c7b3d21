"""The statistics of the content checks, and the data that they are held against."""

from __future__ import annotations

import ast
import json
import math
import operator
from importlib.resources import files

import pytest

from pytest_vllm.adapters import content as data
from pytest_vllm.domain.content import (
    Scored,
    billions,
    compressibility,
    distinct_pairs,
    divergence,
    is_constant,
    mean,
    metric_labels,
    metric_total,
    read_prompt,
    read_written,
    rescoring,
    windows,
)

OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def token(id_: int, logprob: float, **others: float) -> Scored:
    top = {id_: logprob, **{int(name[1:]): value for name, value in others.items()}}
    best = max(top, key=lambda other: top[other])
    return Scored(id=id_, logprob=logprob, best=best, best_logprob=top[best], top=top)


def entry(**told: float | None) -> dict[str, dict[str, float | None]]:
    return {name[1:]: {"logprob": value} for name, value in told.items()}


def test_a_prompt_is_read_by_the_ids_that_were_sent() -> None:
    choice = {"prompt_logprobs": [None, entry(_8=-2.0, _9=-0.5), entry(_9=-1.0)]}
    one, two = read_prompt(choice, [7, 8, 9])
    assert (one.id, one.logprob, one.best, one.gap) == (8, -2.0, 9, 1.5)
    assert (two.id, two.gap) == (9, 0.0)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (None, "required 2 entries, saw 0"),
        ([None], "required 2 entries, saw 1"),
        ([None, None], "has no entry"),
        ([None, entry(_9=-1.0)], "required a log probability of 8"),
        ([None, entry(_8=math.nan)], "finite"),
        ([None, entry(_8=-math.inf)], "finite"),
        ([None, entry(_8=0.7)], "at most 0"),
        ([None, entry(_8=None)], "finite"),
    ],
)
def test_a_prompt_without_sound_numbers_is_refused(entries: object, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        read_prompt({"prompt_logprobs": entries}, [7, 8])


def test_generated_tokens_are_read_by_id() -> None:
    logprobs = {
        "tokens": ["token_id:5", "token_id:6"],
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [{"token_id:5": -0.1, "token_id:4": -3.0}, {"token_id:6": -0.2}],
    }
    one, two = read_written({"logprobs": logprobs})
    assert (one.id, two.id) == (5, 6)
    assert one.top == {5: -0.1, 4: -3.0}
    with pytest.raises(AssertionError, match="token_id:N"):
        read_written({"logprobs": {**logprobs, "tokens": [" a", " b"]}})
    with pytest.raises(AssertionError, match="saw none"):
        read_written({"logprobs": None})


def test_windows_are_full_and_in_order() -> None:
    tokens = [token(1, -float(number)) for number in range(5)]
    assert windows(tokens, 2) == [-0.5, -2.5]
    assert mean(tokens) == -2.0


def test_one_token_over_and_over_is_constant() -> None:
    assert is_constant([token(0, -1.0), token(0, -2.0)])
    assert not is_constant([token(0, -1.0), token(1, -2.0)])
    assert not is_constant([token(0, -1.0)])


def test_rescoring_measures_and_names_tokens_that_are_not_the_best() -> None:
    written = [token(1, -0.1), token(2, -0.2)]
    near = rescoring(written, [token(1, -0.2), token(2, -0.4, _3=-0.3)])
    assert near.mean == pytest.approx(0.15)
    assert near.worst == pytest.approx(0.2)
    assert near.parted == ""
    far = rescoring(written, [token(1, -0.1), token(2, -4.0, _3=-0.1)])
    assert far.parted == "token 1 (2) is 3.90 nats below 3"


def test_a_near_tie_ends_a_comparison_and_a_clear_choice_breaks_it() -> None:
    left = [token(1, -0.1), token(2, -0.7, _3=-0.8), token(9, -9.0)]
    tied = [token(1, -0.3), token(3, -0.7, _2=-0.9), token(8, -1.0)]
    drift = divergence(left, tied)
    assert (drift.parted, drift.count) == ("", 1)
    assert drift.mean == pytest.approx(0.2)
    clear = [token(1, -0.1), token(3, -0.1, _2=-5.0)]
    assert divergence(left, clear).parted == "token 1: 2 became 3"
    untold = [token(1, -0.1), token(4, -0.1)]
    assert divergence(left, untold).parted == "token 1: 2 became 4"


def test_a_mean_of_two_tokens_decides_nothing() -> None:
    """Single differences of 0.13 nats were seen of a sound server, and a near tie ends early."""
    bounds = {"mean": 0.1, "worst": 1.0}
    left = [token(1, -0.1), token(2, -0.7), token(3, -0.7), token(4, -0.7)]
    shifted = [token(one.id, one.logprob - 0.15) for one in left]
    assert [divergence(left[:n], shifted[:n]).exceeds(**bounds) for n in (1, 2, 3, 4)] == [
        False,
        False,
        True,
        True,
    ]
    assert divergence(left[:1], [token(1, -1.2)]).exceeds(**bounds)
    assert divergence(left[:1], [token(9, -0.1)]).exceeds(**bounds)
    assert not divergence(left, left).exceeds(**bounds)


def test_repetition_shows() -> None:
    assert distinct_pairs([1, 2, 1, 2, 1]) == 0.5
    assert distinct_pairs([1]) == 0.0
    assert compressibility("ab" * 200) < 0.1
    assert compressibility("") == 0.0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("/models/SmolLM2-135M-Instruct", 0.135),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.0),
        ("Qwen/Qwen3-235B-A22B", 235.0),
        ("mistralai/Mixtral-8x7B-v0.1", 7.0),
        ("google/gemma-3-1b-it", 1.0),
        ("Qwen2.5-0.5B", 0.5),
        ("/models/8B/mine", None),
        ("deepseek-v3", None),
        ("gpt-4bit", None),
    ],
)
def test_sizes_in_names(name: str, size: float | None) -> None:
    assert billions(name) == size


def test_metrics_are_read_across_engines() -> None:
    text = '# HELP x\nx_total{engine="0"} 3.0\nx_total{engine="1"} 4.0\nx_total_created 9.0\n'
    assert metric_total(text, ("none", "x_total")) == 7.0
    assert metric_total(text, ("none",)) is None
    assert metric_labels('info{a="1",b="x y"} 1.0\n', "info") == {"a": "1", "b": "x y"}
    assert metric_labels(text, "info") == {}


def test_every_threshold_says_which_measurement_set_it() -> None:
    for name, row in data._table("thresholds.toml").items():
        if name != "schema":
            assert isinstance(row["value"], float), name
            assert row["unit"] in {"nats", "share"}, name
            assert len(row["measured"].split()) >= 5, name
            assert data.threshold(name) == row["value"]


def test_words_are_enough_and_each_once() -> None:
    words = data.words()
    assert len(words) == len(set(words)) >= 500


def test_every_answer_of_the_questions_is_verified() -> None:
    path = files("pytest_vllm").joinpath("data", "accuracy", "arithmetic.jsonl")
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert 50 <= len(entries) <= 200
    assert len({one["question"] for one in entries}) == len(entries)
    for one in entries:
        assert evaluate(ast.parse(one["working"], mode="eval").body) == one["answer"], one
    assert len(data.questions()) == len(entries)


def evaluate(node: ast.expr) -> int:
    if isinstance(node, ast.BinOp):
        return int(OPERATIONS[type(node.op)](evaluate(node.left), evaluate(node.right)))
    assert isinstance(node, ast.Constant)
    return int(str(node.value))
