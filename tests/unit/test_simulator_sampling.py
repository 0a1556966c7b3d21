"""The simulator's sampler keeps to what a request asks."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from pytest_vllm.simulator.flaws import FLAWS, Flaws
from pytest_vllm.simulator.knowledge import knowledge
from pytest_vllm.simulator.model import Context
from pytest_vllm.simulator.sampling import Sampler, SamplingParams
from pytest_vllm.simulator.tokens import TURN_END

KNOWN = knowledge()
PROMPT = KNOWN.tokenizer.encode("My favourite")
RAW = KNOWN.model.predict(Context(PROMPT))
DRAWS = 3000


def sampler(*flaws: str, shared: int = 7, index: int = 0, **asked: Any) -> Sampler:
    params = SamplingParams(**asked)
    names = Flaws(names=frozenset(flaws))
    return Sampler(params, PROMPT, index, names, random.Random(shared))  # noqa: S311 - sampling


def drawn(*flaws: str, **asked: Any) -> Counter[int]:
    one = sampler(*flaws, **asked)
    return Counter(one.choose(RAW) for _ in range(DRAWS))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_are_the_probabilities(temperature: float) -> None:
    counts = drawn(temperature=temperature)
    powers = {
        token: RAW.probability(token) ** (1 / temperature) for token in range(KNOWN.tokenizer.size)
    }
    total = sum(powers.values())
    for token in RAW.top(20):
        expected = DRAWS * powers[token] / total
        assert abs(counts[token] - expected) < 5 * math.sqrt(expected) + 3


def test_greedy_and_nearly_greedy_take_the_best() -> None:
    assert set(drawn(temperature=0.0)) == {RAW.best()}
    # At 0.01, a token whose logit is 0.1 lower is e^10 times rarer.
    nearly = max(RAW.logprob(RAW.best()) - RAW.logprob(token) for token in drawn(temperature=0.01))
    assert nearly < 0.1


@pytest.mark.parametrize("asked", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_the_narrowest_truncation_is_greedy(asked: dict[str, float]) -> None:
    assert set(drawn(temperature=1.0, **asked)) == {RAW.best()}


def test_top_k_keeps_the_best() -> None:
    assert set(drawn(temperature=1.5, top_k=5)) == set(RAW.top(5))


def test_top_p_keeps_the_smallest_set_that_is_large_enough() -> None:
    kept, total = set(), 0.0
    for token, probability in RAW.descending():
        kept.add(token)
        total += probability
        if total >= 0.5:
            break
    assert set(drawn(temperature=1.0, top_p=0.5)) == kept


def test_min_p_is_a_share_of_the_best() -> None:
    bound = 0.2 * RAW.probability(RAW.best())
    expected = {token for token, value in RAW.descending() if value >= bound}
    assert set(drawn(temperature=1.0, min_p=0.2)) == expected


@pytest.mark.parametrize(
    ("flaw", "asked"),
    [
        ("top-k-ignored", {"top_k": 1}),
        ("top-p-ignored", {"top_p": 1e-6}),
        ("min-p-ignored", {"min_p": 1.0}),
        ("temperature-ignored", {"temperature": 0.0}),
    ],
)
def test_a_flaw_breaks_what_it_names(flaw: str, asked: dict[str, float]) -> None:
    assert len(drawn(flaw, **asked)) > 1


def test_a_seed_gives_the_same_tokens_and_each_choice_its_own() -> None:
    def row(seed: int, index: int = 0, shared: int = 0) -> list[int]:
        one = sampler(temperature=1.0, seed=seed, index=index, shared=shared)
        return [one.choose(RAW) for _ in range(20)]

    assert row(1) == row(1, shared=5)
    assert row(1) != row(2)
    assert row(1) != row(1, index=1)


def test_bias_bans_and_forces() -> None:
    best, other = RAW.top(2)
    assert sampler(temperature=0.0, logit_bias={best: -100.0}).choose(RAW) == other
    assert sampler(temperature=0.0, logit_bias={4000: 100.0}).choose(RAW) == 4000
    assert best not in drawn(temperature=1.0, logit_bias={best: -100.0})


def test_only_allowed_tokens_come() -> None:
    assert set(drawn(temperature=1.0, allowed_token_ids=frozenset({50, 51}))) == {50, 51}


def test_bad_words_of_several_tokens_are_broken_off_at_the_last() -> None:
    best = RAW.best()
    one = sampler(temperature=0.0, bad_words=((9, best),))
    assert one.choose(RAW) == best
    one.take(9)
    assert one.choose(RAW) != best


@pytest.mark.parametrize(
    "asked", [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"repetition_penalty": 2.0}]
)
def test_penalties_count_what_was_written(asked: dict[str, Any]) -> None:
    one = sampler(temperature=0.0, **asked)
    best = one.choose(RAW)
    for _ in range(5):
        one.take(best)
    assert best == RAW.best()
    assert one.choose(RAW) != best


def test_the_end_waits_for_min_tokens() -> None:
    one = sampler(temperature=0.0, min_tokens=1, logit_bias={TURN_END: 100.0})
    first = one.choose(RAW)
    assert first != TURN_END
    one.take(first)
    assert one.choose(RAW) == TURN_END


def test_a_grammar_is_kept_at_any_temperature() -> None:
    for temperature in (0.0, 1.9):
        assert sampler(temperature=temperature).choose(RAW, [70, 71]) in {70, 71}


def test_flaws_have_known_names_and_a_line_each() -> None:
    assert all(text and "\n" not in text for text in FLAWS.values())
    with pytest.raises(ValueError, match="no-such-flaw"):
        Flaws(names=frozenset({"no-such-flaw"}))
    with pytest.raises(KeyError):
        assert "no-such-flaw" in Flaws()
