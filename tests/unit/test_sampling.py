"""Draws that come from the told distribution pass, any other temperature or bound is noticed."""

from __future__ import annotations

import math
import random

import pytest

from pytest_vllm.domain.generation import Token
from pytest_vllm.domain.sampling import allowed_names, judge_draws, lag_nats, token_id

SHARES = {f"t{rank}": 0.5 ** (rank + 1) for rank in range(24)}
TOP = {name: math.log(share) for name, share in list(SHARES.items())[:20]}
ASKED = len(TOP)


def token(name: str, top: dict[str, float] | None = None) -> Token:
    known = TOP if top is None else top
    logprob = known.get(name, math.log(SHARES.get(name, 1e-9)))
    return Token(text=name, logprob=logprob, top={**known, name: logprob})


def drawn(weights: dict[str, float], count: int = 400) -> list[Token]:
    source = random.Random(7)  # noqa: S311 - a test that repeats
    return [token(name) for name in source.choices(list(weights), [*weights.values()], k=count)]


def heated(temperature: float, names: int = 24) -> dict[str, float]:
    return {name: SHARES[name] ** (1 / temperature) for name in list(SHARES)[:names]}


def test_fair_draws_stay_far_below_the_limit() -> None:
    draws = judge_draws(drawn(SHARES), asked=ASKED)
    assert draws.judged == 400
    assert draws.strays == ()
    assert abs(draws.excess) < draws.limit / 2


@pytest.mark.parametrize(("temperature", "sign"), [(0.3, 1), (3.0, -1)])
def test_draws_at_another_temperature_pass_the_limit(temperature: float, sign: int) -> None:
    draws = judge_draws(drawn(heated(temperature)), asked=ASKED)
    assert sign * draws.excess > draws.limit


def test_draws_of_always_the_best_pass_the_limit() -> None:
    draws = judge_draws([token("t0")] * 400, asked=ASKED)
    assert draws.excess > draws.limit


def test_top_k_is_renormalised_and_what_lies_beyond_is_named() -> None:
    fair = judge_draws(drawn(heated(1.0, names=5)), asked=ASKED, top_k=5)
    assert fair.strays == ()
    assert abs(fair.excess) < fair.limit / 2
    ignored = judge_draws(drawn(SHARES), asked=ASKED, top_k=5)
    assert {"t5", "t6"} <= set(ignored.strays) <= set(SHARES) - {f"t{rank}" for rank in range(5)}


def test_top_k_is_judged_at_another_temperature() -> None:
    draws = drawn(heated(0.5, names=5))
    fair = judge_draws(draws, asked=ASKED, top_k=5, temperature=0.5)
    assert abs(fair.excess) < fair.limit / 2
    wrong = judge_draws(draws, asked=ASKED, top_k=5, temperature=2.0)
    assert wrong.excess > wrong.limit


def test_top_p_allows_the_tokens_up_to_its_share() -> None:
    assert allowed_names(token("t0"), asked=ASKED, top_p=0.8) == {"t0", "t1", "t2"}
    assert allowed_names(token("t0"), asked=ASKED, top_k=2, top_p=0.6) == {"t0"}


def test_an_edge_that_cannot_be_told_is_not_judged() -> None:
    tied = {"a": math.log(0.4), "b": math.log(0.3), "c": math.log(0.3)}
    assert allowed_names(token("a", tied), asked=3, top_k=2) is None
    assert allowed_names(token("a", tied), asked=3, top_k=3) is None
    assert allowed_names(token("a", tied), asked=3, top_p=0.7) is None
    short = {"a": math.log(0.1), "b": math.log(0.05)}
    assert allowed_names(token("a", short), asked=2, top_p=0.5) is None
    assert judge_draws([token("a", tied)], asked=3, top_k=2).judged == 0


def test_a_drawn_token_beyond_the_best_does_not_widen_the_bounds() -> None:
    flat = {f"f{rank}": math.log(0.01) - rank * 0.01 for rank in range(20)}
    beyond = token("t23", flat)
    assert len(beyond.top) == 21
    assert judge_draws([beyond], asked=20).excess < 0


def test_the_lag_of_a_token() -> None:
    assert lag_nats(token("t0")) == 0
    assert lag_nats(token("t2")) == pytest.approx(math.log(4))
    with pytest.raises(AssertionError, match="required log probabilities of 'x', saw none"):
        lag_nats(Token(text="x", logprob=None, top={}))


def test_a_token_id_is_read_from_its_name() -> None:
    assert token_id("token_id:42") == 42
    for name in ("42", "token_id:", "token_id:x", " Paris"):
        with pytest.raises(AssertionError, match="required a token named token_id:NUMBER"):
            token_id(name)
