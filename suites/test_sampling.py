"""Sampling: seeds, bounds, biases and penalties, and that tokens are drawn as probably as told.

Greedy and seeded requests take another way through vLLM than the sampler that serves production
(on ROCm, AITER's), so what judges the sampler itself sends no seed. How improbable a draw must be
before it counts against the server is said in `pytest_vllm.domain.sampling`.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import ENDPOINTS, INFO, SHOULD, Client, check, not_applicable, suite
from pytest_vllm.domain.sampling import (
    NEUTRAL,
    Draws,
    judge_draws,
    lag_nats,
    token_id,
)

if TYPE_CHECKING:
    from pytest_vllm.domain.generation import Token
    from pytest_vllm.domain.reply import Reply
    from pytest_vllm.domain.target import Target

pytestmark = suite("sampling", concurrent=True)

PROMPT = "My favourite"  # nothing that one answer follows
FACT = "The capital of France is"
STORY = "Once upon a time there was a"
GREEDY: dict[str, Any] = {**NEUTRAL, "temperature": 0}
HOT: dict[str, Any] = {**NEUTRAL, "temperature": 1.5}
NARROW: dict[str, dict[str, Any]] = {
    "top-k": {"top_k": 1},
    "top-p": {"top_p": 1e-6},
    "min-p": {"min_p": 1.0},
}
TIE_NATS = 0.01
"""Tokens this close are equally probable: log probabilities of one reply share their rounding."""


@check("sampling.greedy.ignores-seeds", ref="P01", catches=("temperature-forced",))
def test_greedy(vllm: Client) -> None:
    """At temperature 0, the reply MUST be the same whatever the seed."""
    first, *others = [
        vllm.generate("completions", STORY, top=5, seed=seed, max_tokens=8, **GREEDY)
        for seed in (1, 2, 3)
    ]
    for other in others:
        vllm.assert_same(vllm.read(first), vllm.read(other), "greedy replies to other seeds")


@check("sampling.seed.repeats", ref="P02", catches=("seed-ignored",))
def test_seed(vllm: Client) -> None:
    """The same seed MUST draw the same tokens again."""
    # The batch changes rounding, and rounding now and then turns a draw: measured below 0.11 nats,
    # so below 12 of 100 draws of three tokens. By chance fewer than 1 of 100 are equal.
    first, second = (_texts(vllm, n=16, max_tokens=3, seed=42) for _ in range(2))
    same = sum(one == other for one, other in zip(first, second, strict=True))
    assert same >= 5, f"{same} of 16 draws were the same again"


@check("sampling.seed.differs", ref="P02", catches=("always-greedy",))
def test_other_seed(vllm: Client) -> None:
    """Another seed MUST draw other tokens."""
    assert _texts(vllm, n=16, max_tokens=3, seed=42) != _texts(vllm, n=16, max_tokens=3, seed=4242)


@check("sampling.unseeded.differs", ref="P13 C04", catches=("seed-fixed", "always-greedy"))
def test_unseeded(vllm: Client) -> None:
    """Without a seed, two equal requests MUST draw from fresh randomness."""
    assert _texts(vllm, n=4, max_tokens=6) != _texts(vllm, n=4, max_tokens=6)


@check("sampling.unseeded.batch-differs", ref="P13", catches=("always-greedy",))
def test_unseeded_batch(vllm: Client) -> None:
    """Eight equal prompts of one request without a seed MUST NOT all be answered alike."""
    body = vllm.complete([PROMPT] * 8, max_tokens=8, **HOT).json
    assert len(body["choices"]) == 8
    assert len({choice["text"] for choice in body["choices"]}) > 1


@check("sampling.batch.mixed-seeds", ref="P12", catches=("seed-ignored",))
def test_mixed(vllm: Client) -> None:
    """A seeded request MUST draw the same tokens while unseeded ones share its batch."""
    alone = _texts(vllm, n=16, max_tokens=3, seed=7)
    with ThreadPoolExecutor(2) as pool:
        unseeded = pool.submit(_texts, vllm, n=4, max_tokens=8)
        seeded = pool.submit(_texts, vllm, n=16, max_tokens=3, seed=7).result()
        assert len(unseeded.result()) == 4
    same = sum(one == other for one, other in zip(alone, seeded, strict=True))
    assert same >= 5, f"{same} of 16 seeded draws were the same again"  # as with the seed alone


@ENDPOINTS
@pytest.mark.parametrize("bound", ["top-k", "top-p", "min-p"])
@check(
    "sampling.narrow.is-greedy",
    ref="P03",
    catches=("top-k-ignored", "top-p-ignored", "min-p-ignored"),
)
def test_narrow(vllm: Client, vllm_target: Target, endpoint: str, bound: str) -> None:
    """Unseeded, with bounds that leave one token, each token MUST be the most probable."""
    if bound == "min-p":
        _require_no_speculation(vllm_target)
    params = {**NEUTRAL, **NARROW[bound], "n": 6, "max_tokens": 5}
    reply = vllm.generate(endpoint, PROMPT, top=2, **params)
    tokens = _tokens(vllm, reply)
    assert len(tokens) > 0
    assert [token.text for token in tokens if lag_nats(token) > TIE_NATS] == []


@check("sampling.temperature.low", ref="P06", catches=("low-temperature-ignored",))
def test_low_temperature(vllm: Client) -> None:
    """At temperature 0.01, each token MUST be the most probable, up to a near tie."""
    params = {**NEUTRAL, "temperature": 0.01, "n": 16, "max_tokens": 5}
    tokens = _tokens(vllm, vllm.generate("completions", PROMPT, top=2, **params))
    # A token 0.5 nats behind is drawn once in e^50 draws.
    assert [token.text for token in tokens if lag_nats(token) > 0.5] == []


@check(
    "sampling.distribution.plain",
    ref="P04",
    catches=("sampler-skewed", "temperature-forced"),
)
def test_distribution(vllm: Client, vllm_target: Target) -> None:
    """Unseeded at temperature 1, tokens MUST be drawn as probably as the log probabilities say."""
    _assert_fair(_draw(vllm, vllm_target, n=20))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@check("sampling.distribution.top-k", ref="P04 P05", catches=("top-k-ignored",))
def test_distribution_top_k(vllm: Client, vllm_target: Target, temperature: float) -> None:
    """Unseeded with `top_k`, what is left MUST be drawn as probably as temperature says."""
    draws = _draw(vllm, vllm_target, n=12, top_k=5, temperature=temperature)
    assert draws.strays == ()
    _assert_fair(draws)


@check("sampling.distribution.top-p", ref="P04 P05", catches=("top-p-ignored",))
def test_distribution_top_p(vllm: Client, vllm_target: Target) -> None:
    """Unseeded with `top_p`, what is left MUST be drawn as probably as its shares say."""
    draws = _draw(vllm, vllm_target, n=12, top_p=0.5)
    assert draws.strays == ()
    _assert_fair(draws)


@check("sampling.top-k.bounds", ref="P05", catches=("top-k-ignored",))
def test_top_k(vllm: Client, vllm_target: Target) -> None:
    """Unseeded with `top_k` 5, no token MUST be drawn but the five most probable."""
    draws = _draw(vllm, vllm_target, n=12, top_k=5)
    assert draws.strays == (), f"{len(draws.strays)} of {draws.judged} tokens"


@check("sampling.top-p.bounds", ref="P05", catches=("top-p-ignored",))
def test_top_p(vllm: Client, vllm_target: Target) -> None:
    """Unseeded with `top_p`, no token MUST be drawn beyond the share that was asked for."""
    draws = _draw(vllm, vllm_target, n=6, top_p=0.5)
    assert draws.strays == (), f"{len(draws.strays)} of {draws.judged} tokens"


@check("sampling.min-p.bounds", ref="P05", catches=("min-p-ignored",))
def test_min_p(vllm: Client, vllm_target: Target) -> None:
    """Unseeded with `min_p` 0.2, no token MUST be drawn below a fifth of the best one."""
    _require_no_speculation(vllm_target)
    params = {**NEUTRAL, "min_p": 0.2, "n": 6, "max_tokens": 8}
    tokens = _tokens(vllm, vllm.generate("completions", PROMPT, top=2, **params))
    assert [token.text for token in tokens if lag_nats(token) > 1.61 + TIE_NATS] == []  # ln 5


@check("sampling.logit-bias.bans", ref="P07", catches=("logit-bias-ignored",))
def test_bias_bans(vllm: Client, vllm_target: Target) -> None:
    """A `logit_bias` of -100 MUST keep a token from being written."""
    _require_no_speculation(vllm_target)
    banned = {str(number): -100 for number in _best(vllm, FACT, 5)}
    reply = _named(vllm, FACT, max_tokens=4, logit_bias=banned, **GREEDY)
    assert {str(token_id(token.text)) for token in reply} & set(banned) == set()


@check("sampling.logit-bias.forces", ref="P07", catches=("logit-bias-ignored",))
def test_bias_forces(vllm: Client, vllm_target: Target) -> None:
    """A `logit_bias` of +100 MUST have a token written again and again."""
    _require_no_speculation(vllm_target)
    forced = _best(vllm, FACT, 5)[-1]
    reply = _named(vllm, FACT, max_tokens=4, logit_bias={str(forced): 100}, **GREEDY)
    assert [token_id(token.text) for token in reply] == [forced] * 4


@check("sampling.allowed-token-ids.only", ref="P08", catches=("allowed-token-ids-ignored",))
def test_allowed(vllm: Client) -> None:
    """With `allowed_token_ids`, no other token MUST be written."""
    vllm.require_field("allowed_token_ids")
    allowed = _best(vllm, FACT, 5)[2:]
    reply = _named(vllm, FACT, max_tokens=6, allowed_token_ids=allowed, **HOT)
    assert {token_id(token.text) for token in reply} <= set(allowed)


@check("sampling.bad-words.never", ref="P08", catches=("bad-words-ignored",))
def test_bad_words(vllm: Client) -> None:
    """A word among the `bad_words` MUST NOT be written."""
    vllm.require_field("bad_words")
    written = {token_id(token.text) for token in _named(vllm, FACT, max_tokens=8, **GREEDY)}
    text = vllm.complete(FACT, max_tokens=8, **GREEDY).json["choices"][0]["text"]
    for word in re.findall("[A-Za-z]{2,}", text):
        spellings = [vllm.tokenize(form, add_special_tokens=False) for form in (word, f" {word}")]
        banned = {ids[0] for ids in spellings if len(ids) == 1} & written
        if banned:
            break
    else:
        not_applicable(f"none of the words of {text!r} is one token")
    reply = _named(vllm, FACT, max_tokens=8, bad_words=[word], **GREEDY)
    assert {token_id(token.text) for token in reply} & banned == set()


@check("sampling.min-tokens.holds-off", ref="P10", catches=("min-tokens-ignored",))
def test_min_tokens(vllm: Client, vllm_target: Target) -> None:
    """With `min_tokens`, a reply MUST NOT end before, also when a stop token would come."""
    _require_no_speculation(vllm_target)
    stops = _best(vllm, FACT, 5)
    params = {**GREEDY, "ignore_eos": False, "stop_token_ids": stops, "max_tokens": 12}
    usage = vllm.complete(FACT, min_tokens=6, **params).json["usage"]
    assert usage["completion_tokens"] >= 6


@check("sampling.frequency-penalty.accumulates", ref="P09", catches=("penalties-ignored",))
def test_frequency_penalty(vllm: Client, vllm_target: Target) -> None:
    """A `frequency_penalty` MUST end the repetition of a token sooner or later."""
    _require_no_speculation(vllm_target)
    favoured = {str(_best(vllm, FACT, 1)[0]): 20}
    params = {**GREEDY, "logit_bias": favoured, "max_tokens": 24}
    plain = _most_repeated(_named(vllm, FACT, **params))
    if plain < 24:
        not_applicable(f"a bias of 20 has a token repeated {plain} times of 24 only")
    # At the last of 24 repetitions, 46 nats of penalty stand against 20 of bias.
    assert _most_repeated(_named(vllm, FACT, **{**params, "frequency_penalty": 2.0})) < 24


@check("sampling.presence-penalty.is-exact", ref="P09")
def test_presence_penalty(vllm: Client, vllm_target: Target) -> None:
    """With a `presence_penalty`, the best token MUST be chosen after the penalty is taken off."""
    _require_raw(vllm)
    top = _alternatives(vllm_target)
    params = {**GREEDY, "presence_penalty": 2.0}
    written: set[str] = set()
    for token in _named(vllm, STORY, top=top, max_tokens=16, **params):
        worth = {name: value - 2.0 * (name in written) for name, value in token.top.items()}
        assert worth[token.text] >= max(worth.values()) - TIE_NATS, f"after {sorted(written)}"
        written.add(token.text)


@check("sampling.repetition-penalty.changes", ref="P09")
def test_repetition_penalty(vllm: Client, vllm_target: Target) -> None:
    """A `repetition_penalty` of 2 MUST change a text that repeats tokens at a close call."""
    top = _alternatives(vllm_target)
    plain = _named(vllm, STORY, top=top, max_tokens=16, **GREEDY)
    if not _close_repetitions(plain):
        not_applicable("the model repeats no token at a close call")
    params = {**GREEDY, "repetition_penalty": 2.0}
    penalised = _named(vllm, STORY, top=top, max_tokens=16, **params)
    assert [token.text for token in penalised] != [token.text for token in plain]


@check(
    "sampling.logprobs.before-bias", level=SHOULD, ref="P07 P11", catches=("logprobs-processed",)
)
def test_before_bias(vllm: Client, vllm_target: Target) -> None:
    """A `logit_bias` SHOULD NOT show in the log probabilities, which vLLM tells raw since 0.11."""
    _require_no_speculation(vllm_target)
    if vllm_target.serve_args.has("--logprobs-mode"):
        not_applicable("the server was started with --logprobs-mode")
    bias = {str(_best(vllm, FACT, 5)[-1]): 10}
    plain, biased = (
        _named(vllm, FACT, top=5, max_tokens=1, **GREEDY, **fields)[0].top
        for fields in ({}, {"logit_bias": bias})
    )
    shifts = [abs(plain[name] - biased[name]) for name in plain.keys() & biased.keys()]
    assert shifts
    assert max(shifts) < 1.0  # another batch shifts by 0.13 nats at most


@check("sampling.logprobs.are-raw", level=INFO, ref="P11")
def test_raw(vllm: Client) -> None:
    """Whether log probabilities are told from before temperature and penalties is noted."""
    vllm.observe("sampling.logprobs.are-raw", _are_raw(vllm))


@check("sampling.defaults.spread", level=INFO, ref="P14")
def test_defaults(vllm: Client) -> None:
    """How many first tokens the model's own defaults draw is noted, beside bare sampling."""
    own = vllm.complete(PROMPT, n=16, max_tokens=1, temperature=None).json["choices"]
    bare = vllm.complete(PROMPT, n=16, max_tokens=1, **NEUTRAL).json["choices"]
    spread = [len({choice["text"] for choice in choices}) for choices in (own, bare)]
    vllm.observe("sampling.defaults.spread", f"{spread[0]} of 16 tokens, {spread[1]} bare")


@check("sampling.repetition-detection.ends", level=INFO, ref="P15")
def test_repetition_detection(vllm: Client) -> None:
    """What ends a request with `repetition_detection` is noted: OpenAI has no reason for it."""
    vllm.require_field("repetition_detection")
    forced = {str(_best(vllm, FACT, 1)[0]): 100}
    rule = {"max_pattern_size": 4, "min_pattern_size": 1, "min_count": 3}
    params = {**GREEDY, "logit_bias": forced, "max_tokens": 12, "repetition_detection": rule}
    choice = vllm.complete(FACT, **params).json["choices"][0]
    vllm.observe("sampling.repetition-detection.ends", choice["finish_reason"])


def _texts(vllm: Client, **params: Any) -> list[str]:
    choices = vllm.complete(PROMPT, **{**HOT, **params}).json["choices"]
    return [choice["text"] for choice in sorted(choices, key=lambda choice: choice["index"])]


def _tokens(vllm: Client, reply: Reply) -> list[Token]:
    indexes = [choice["index"] for choice in reply.json["choices"]]
    return [token for index in indexes for token in vllm.read(reply, index).tokens]


def _named(vllm: Client, prompt: str, *, top: int = 0, **params: Any) -> list[Token]:
    """Complete a prompt and return the tokens of all choices by their IDs.

    Texts would not do: tokens that read alike share one entry among the alternatives.
    """
    vllm.require_field("return_tokens_as_token_ids")
    params = {**params, "return_tokens_as_token_ids": True}
    return _tokens(vllm, vllm.generate("completions", prompt, top=top, **params))


def _best(vllm: Client, prompt: str, count: int) -> list[int]:
    """Return the IDs of the tokens that most probably follow a prompt, the best first."""
    token = _named(vllm, prompt, top=count, max_tokens=1, **GREEDY)[0]
    return [token_id(name) for name in sorted(token.top, key=lambda name: -token.top[name])][:count]


def _alternatives(target: Target) -> int:
    """Return how many alternatives may be asked for, of the 20 that vLLM gives by default."""
    limit = target.serve_args.value("--max-logprobs") or ""
    count = min(20, int(limit)) if limit.isdigit() else 20
    if count < 10:
        not_applicable(f"the server was started with --max-logprobs {limit}")
    if target.serve_args.value("--logprobs-mode") in ("raw_logits", "processed_logits"):
        not_applicable("the server was started to tell logits instead of log probabilities")
    return count


def _draw(vllm: Client, target: Target, *, n: int, **bounds: Any) -> Draws:
    """Draw n times twelve tokens without a seed and judge them."""
    top = _alternatives(target)
    if bounds.get("temperature", 1.0) != 1.0:
        _require_raw(vllm)
    params = {**NEUTRAL, **bounds, "n": n, "max_tokens": 12}
    draws = judge_draws(_named(vllm, PROMPT, top=top, **params), asked=top, **bounds)
    if draws.judged < 12:
        not_applicable(f"the edge of what may be drawn is told for {draws.judged} tokens only")
    return draws


def _assert_fair(draws: Draws) -> None:
    assert abs(draws.excess) <= draws.limit, (
        f"{draws.judged} tokens have {draws.excess:+.0f} nats more than expected, where chance "
        f"gives at most {draws.limit:.0f}: drawn too {'cold' if draws.excess > 0 else 'hot'}"
    )


def _are_raw(vllm: Client) -> bool:
    """Tell whether log probabilities are those before temperature, as vLLM's are since 0.11."""
    cold, hot = (
        _named(vllm, FACT, top=2, max_tokens=1, **{**NEUTRAL, "temperature": temperature})[0].top
        for temperature in (0.5, 2.0)
    )
    return all(abs(cold[name] - hot[name]) < 0.3 for name in cold.keys() & hot.keys())


def _require_raw(vllm: Client) -> None:
    if not _are_raw(vllm):
        not_applicable("the server tells log probabilities from after temperature and penalties")


def _require_no_speculation(target: Target) -> None:
    if any(target.serve_args.has(f"--speculative-{name}") for name in ("config", "model")):
        not_applicable("vLLM does not combine this with speculative decoding")


def _most_repeated(tokens: list[Token]) -> int:
    names = [token.text for token in tokens]
    return max(names.count(name) for name in names)


def _close_repetitions(tokens: list[Token]) -> list[str]:
    """Return tokens that were written again although a new one was less than a nat behind."""
    found, written = [], set[str]()
    for token in tokens:
        new = [value for name, value in token.top.items() if name not in written]
        if token.text in written and new and max(token.top.values()) - max(new) < 1.0:
            found.append(token.text)
        written.add(token.text)
    return found
