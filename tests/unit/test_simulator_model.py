"""The simulator's language model: its probabilities are some, and mean something."""

from __future__ import annotations

import math
import random

import pytest

from pytest_vllm.simulator.knowledge import knowledge
from pytest_vllm.simulator.model import Context
from pytest_vllm.simulator.template import render
from pytest_vllm.simulator.tokens import TURN_END

KNOWN = knowledge()
TOKENIZER, MODEL = KNOWN.tokenizer, KNOWN.model
UNSEEN = (
    "The weather in the hills changes fast. In the morning it was warm, and the old man went down "
    "to the river with his dog. When a program does something wrong, people look for the step that "
    "was the first to go wrong."
)


def scored(ids: list[int]) -> list[float]:
    context = Context(ids)
    return [MODEL.predict(context, at).logprob(ids[at]) for at in range(1, len(ids))]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def greedy(text: str, tokens: int) -> str:
    context = Context(TOKENIZER.encode(text))
    start = len(context.tokens)
    for _ in range(tokens):
        context.append(MODEL.predict(context).best())
        if context.tokens[-1] == TURN_END:
            break
    return TOKENIZER.decode(context.tokens[start:])


@pytest.mark.parametrize("text", ["The capital of France is", "1, 2, 3, 4, 5,", "xyzzy", "🎉", "!"])
def test_probabilities_add_up_to_one(text: str) -> None:
    raw = MODEL.predict(Context(TOKENIZER.encode(text)))
    values = [raw.probability(token) for token in range(TOKENIZER.size)]
    assert math.isclose(sum(values), 1.0, abs_tol=1e-9)
    assert min(values) > 0


@pytest.mark.parametrize("text", ["The capital of", "a b a b a", " ", "The stars are the"])
def test_ranks_and_the_top_are_those_of_the_sorted_probabilities(text: str) -> None:
    raw = MODEL.predict(Context(TOKENIZER.encode(text)))
    order = sorted(range(TOKENIZER.size), key=lambda token: -raw.probability(token))
    assert raw.top(20) == order[:20]
    assert raw.best() == order[0]
    assert [raw.rank(token) for token in order[:400]] == list(range(1, 401))
    assert [token for token, _ in raw.descending()] == order


def test_decoding_gives_what_reading_gives() -> None:
    context = Context(TOKENIZER.encode("The old man"))
    decoded = []
    for _ in range(24):
        raw = MODEL.predict(context)
        decoded.append(raw.logprob(raw.best()))
        context.append(raw.best())
    assert scored(context.tokens)[-24:] == decoded


def test_english_is_likelier_than_shuffled_words() -> None:
    words = UNSEEN.split()
    random.Random(1).shuffle(words)  # noqa: S311 - a test's order
    english = mean(scored(TOKENIZER.encode(UNSEEN)))
    assert english > -5.5
    assert english - mean(scored(TOKENIZER.encode(" ".join(words)))) >= 1.5


def test_a_row_of_random_tokens_is_copied() -> None:
    row = random.Random(3).sample(range(300, TOKENIZER.size), 100)  # noqa: S311 - any row
    values = scored(row + row)
    assert mean(values[100:]) >= mean(values[:99]) + 9
    assert mean(values[100:]) > -1


def test_a_long_repetition_is_foreseen_to_the_end() -> None:
    period = TOKENIZER.encode(UNSEEN)
    values = scored((period * 60)[:2047])
    windows = [mean(values[at : at + 200]) for at in range(200, 1800, 200)]
    assert min(windows) > -0.5


@pytest.mark.parametrize(
    ("text", "goes_on"),
    [
        ("The capital of France is", " Paris"),
        ("1, 2, 3, 4, 5, 6, 7, 8,", " 9, 10, 11"),
        ("a b c d e f", " g h i"),
    ],
)
def test_what_was_learned_is_known(text: str, goes_on: str) -> None:
    assert greedy(text, 12).startswith(goes_on)


@pytest.mark.parametrize(
    ("question", "answer"),
    [("What is the capital of Japan?", "Tokyo"), ("Say OK.", "OK."), ("What is 2+2?", "4")],
)
def test_questions_are_answered_and_the_turn_ends(question: str, answer: str) -> None:
    said = greedy(render([{"role": "user", "content": question}], generation_prompt=True), 40)
    assert answer in said
    assert said.endswith("<|im_end|>")


def test_a_plain_text_does_not_end_like_a_turn() -> None:
    assert "<|im_end|>" not in greedy("The capital of France is", 60)
