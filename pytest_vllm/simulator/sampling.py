"""How a token is chosen: what a request asks of the sampler, and the sampler."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from pytest_vllm.simulator.tokens import TURN_END

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from pytest_vllm.simulator.distribution import Distribution
    from pytest_vllm.simulator.flaws import Flaws

_GREEDY_BELOW = 1e-5
_STEEP = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What a request asks of the sampler and of the end of its text; vLLM's names and defaults."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: frozenset[int] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    max_tokens: int = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    repetition_detection: tuple[int, int, int] | None = None

    @property
    def greedy(self) -> bool:
        """Whether the best token is always taken."""
        return self.temperature < _GREEDY_BELOW

    @property
    def reshapes(self) -> bool:
        """Whether anything but temperature and truncation touches the logits."""
        return bool(
            self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1.0
            or self.logit_bias
            or self.allowed_token_ids is not None
            or self.bad_words
            or self.min_tokens
        )


class Sampler:
    """Chooses the tokens of one sequence.

    Args:
        params: What the request asks.
        prompt: Tokens of the prompt, for the repetition penalty.
        index: Number of the choice; a seed gives each choice its own numbers.
        flaws: Faults that are on.
        unseeded: Random numbers of requests without a seed.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        index: int,
        flaws: Flaws,
        unseeded: random.Random,
    ) -> None:
        self._params = params
        self._prompt = frozenset(prompt) if params.repetition_penalty != 1.0 else frozenset()
        self._counts: dict[int, int] = {}
        self._output: list[int] = []
        seeded = params.seed is not None and "seed-ignored" not in flaws
        self._random = random.Random(f"{params.seed}/{index}") if seeded else unseeded  # noqa: S311
        self._flaws = flaws
        self.reshaped: Mapping[int, float] | None = None

    def take(self, token: int) -> None:
        """Remember a token that was chosen."""
        self._output.append(token)
        self._counts[token] = self._counts.get(token, 0) + 1

    def choose(self, raw: Distribution, allowed: Collection[int] | None = None) -> int:
        """Choose the next token.

        Args:
            raw: Probabilities that the model gives.
            allowed: The only tokens that a grammar allows, `None` for all.
        """
        params, flaws = self._params, self._flaws
        greedy = (params.greedy and "temperature-ignored" not in flaws) or "greedy-always" in flaws
        if allowed is None and not params.reshapes:
            if greedy:
                return raw.best()
            return self._sample(raw, raw.explicit, raw.weight)
        values, weight = self._reshape(raw, allowed)
        if greedy:
            return _best(raw, values, weight)
        return self._sample(raw, values, weight)

    # --- logits ----------------------------------------------------------------------------------

    def _reshape(
        self, raw: Distribution, allowed: Collection[int] | None
    ) -> tuple[Mapping[int, float], float]:
        """Apply what changes single tokens.

        Returns:
            A value, not normed, of each token that is touched or explicit, and the factor of the
            background for all others, 0 when they are banned.
        """
        params, flaws = self._params, self._flaws
        touched = set(raw.explicit)
        only = params.allowed_token_ids if "allowed-ids-ignored" not in flaws else None
        if allowed is not None:
            touched = set(
                allowed if only is None else (token for token in allowed if token in only)
            )
        elif only is not None:
            touched = set(only)
        closed = allowed is not None or only is not None
        penalties = "penalties-ignored" not in flaws
        bias = params.logit_bias if "bias-ignored" not in flaws else {}
        if not closed:
            touched |= bias.keys()
            touched |= self._counts.keys()
            touched |= self._prompt
        banned = self._banned()
        touched -= banned
        values: dict[int, float] = dict.fromkeys(banned, 0.0)
        for token in touched:
            logit = math.log(raw.probability(token))
            if penalties:
                logit = self._penalise(token, logit)
            values[token] = math.exp(min(logit + bias.get(token, 0.0), 600.0))
        self.reshaped = values
        return values, 0.0 if closed else raw.weight

    def _penalise(self, token: int, logit: float) -> float:
        params = self._params
        count = self._counts.get(token, 0)
        if count or token in self._prompt:
            logit *= params.repetition_penalty  # all logits here are below 0
        if count:
            logit -= params.frequency_penalty * count + params.presence_penalty
        return logit

    def _banned(self) -> set[int]:
        params, flaws, output = self._params, self._flaws, self._output
        banned: set[int] = set()
        if len(output) < params.min_tokens and "min-tokens-ignored" not in flaws:
            banned |= {TURN_END, *params.stop_token_ids}
        if "allowed-ids-ignored" not in flaws:
            for word in params.bad_words:
                head = len(word) - 1
                if not head or tuple(output[-head:]) == word[:-1]:
                    banned.add(word[-1])
        return banned

    # --- choice ----------------------------------------------------------------------------------

    def _sample(self, raw: Distribution, values: Mapping[int, float], weight: float) -> int:
        params, flaws = self._params, self._flaws
        exponent = 1.0 if "temperature-ignored" in flaws else 1.0 / params.temperature
        top_k = 0 if "top-k-ignored" in flaws else params.top_k
        top_p = 1.0 if "top-p-ignored" in flaws else params.top_p
        min_p = 0.0 if "min-p-ignored" in flaws else params.min_p
        limits = (top_k, top_p, min_p)
        if exponent > _STEEP:
            best = _steep(raw, values, weight, exponent)
            return self._truncated(best, limits, sum(value for _, value in best))
        powered = values
        if exponent != 1.0:
            powered = {token: value**exponent for token, value in values.items()}
        rest = weight**exponent if weight else 0.0
        own = sum(powered.values())
        powers, sums = raw.background.powers(exponent)
        outside = rest * (sums[-1] - sum(powers[token] for token in powered)) if rest else 0.0
        if top_k > 0 or top_p < 1.0 or min_p > 0.0:
            descending = _descending(raw, powered, rest, exponent)
            return self._truncated(descending, limits, own + outside)
        draw = self._random.random() * (own + outside)
        if draw < own or not rest:
            return _pick(powered, draw)
        while True:  # the background without the explicit tokens, which are seldom met there
            token = min(bisect_left(sums, self._random.random() * sums[-1]), len(sums) - 1)
            if token not in powered:
                return token

    def _truncated(
        self,
        descending: Iterable[tuple[int, float]],
        limits: tuple[int, float, float],
        whole: float,
    ) -> int:
        """Sample among the best tokens: min_p, then top_k, then top_p of what is left.

        Args:
            descending: Tokens with their values, best first.
            limits: `top_k`, `top_p` and `min_p`.
            whole: Sum of all values.
        """
        top_k, top_p, min_p = limits
        alone = not top_k and not min_p  # then `top_p` is a share of the whole, which is known
        kept: list[tuple[int, float]] = []
        total = 0.0
        for token, value in descending:
            if kept and (value <= 0.0 or value < min_p * kept[0][1]):
                break
            kept.append((token, value))
            total += value
            if 0 < top_k <= len(kept) or (alone and total >= top_p * whole):
                break
        if top_p < 1.0 and not alone:
            goal, total, count = top_p * sum(value for _, value in kept), 0.0, 0
            while count < len(kept) and (not count or total < goal):
                total += kept[count][1]
                count += 1
            kept = kept[:count]
        total = sum(value for _, value in kept)
        return _pick(dict(kept), self._random.random() * total)


def _steep(
    raw: Distribution, values: Mapping[int, float], weight: float, exponent: float
) -> list[tuple[int, float]]:
    """Raise the best values after norming them: plain powers would leave the range of numbers."""
    best = list(islice(_descending(raw, values, weight, 1.0), 64))
    largest = best[0][1] or 1.0
    return [(token, (value / largest) ** exponent) for token, value in best]


def _pick(values: Mapping[int, float], draw: float) -> int:
    for token, value in values.items():
        draw -= value
        if draw < 0.0:
            return token
    return max(values, key=values.__getitem__)


def _best(raw: Distribution, values: Mapping[int, float], weight: float) -> int:
    best = max(values, key=lambda token: (values[token], -token), default=None)
    if weight:
        for token in raw.background.order:
            if token not in values:
                if best is None or weight * raw.background.probabilities[token] > values[best]:
                    return token
                break
    return TURN_END if best is None else best


def _descending(
    raw: Distribution, values: Mapping[int, float], rest: float, exponent: float
) -> Iterator[tuple[int, float]]:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    probabilities, at = raw.background.probabilities, 0
    if rest:
        for token in raw.background.order:
            if token in values:
                continue
            value = rest * probabilities[token] ** exponent
            while at < len(ordered) and ordered[at][1] >= value:
                yield ordered[at]
                at += 1
            yield token, value
    yield from ordered[at:]
