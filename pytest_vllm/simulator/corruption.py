"""Wrong numbers: the distributions that faulty kernels, caches and weights would give."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vllm.simulator.distribution import Distribution
from pytest_vllm.simulator.model import Context

if TYPE_CHECKING:
    from pytest_vllm.simulator.flaws import Flaws
    from pytest_vllm.simulator.model import LanguageModel
    from pytest_vllm.simulator.sampling import Sampler

_LONG, _WINDOW, _NAN_FROM, _BATCH = 600, 64, 512, 2


class Corruption:
    """Predicts with the model, through the faults that are on.

    Args:
        model: The sound model.
        flaws: Faults that are on.
    """

    def __init__(self, model: LanguageModel, flaws: Flaws) -> None:
        self._model = model
        self._flaws = flaws
        self.forces_zero = "constant-token" in flaws or "nan-logits" in flaws

    def predict(self, context: Context, *, decode: bool, running: int, first: bool) -> Distribution:
        """Return the distribution of the next token of a running sequence.

        Args:
            context: The sequence.
            decode: Whether the sequence has generated tokens.
            running: Sequences that run now.
            first: Whether the sequence is the first one after launch.
        """
        if not self._flaws:
            return self._model.predict(context)
        raw = self._seen(context, len(context.tokens))
        flaws = self._flaws
        wrong = (
            (decode and "decode-corrupts" in flaws)
            or (running > _BATCH and "batch-corrupts" in flaws)
            or (running > 1 and running % 2 and "odd-batch-corrupts" in flaws)
            or (first and "first-request-corrupts" in flaws)
        )
        if wrong:
            return self._scrambled(raw)
        if decode and "decode-slightly-off" in flaws:
            return _lowered(raw)
        return raw

    def prefill(self, context: Context, length: int, running: int) -> Distribution:
        """Return the distribution behind the first tokens of a prompt."""
        if not self._flaws:
            return self._model.predict(context, length)
        raw = self._seen(context, length)
        if running > _BATCH and "batch-corrupts" in self._flaws:
            return self._scrambled(raw)
        return raw

    def told(self, raw: Distribution, sampler: Sampler) -> Distribution:
        """Return the distribution that log probabilities are told of."""
        if "logprobs-processed" in self._flaws and sampler.reshaped is not None:
            values = {token: value or 1e-30 for token, value in sampler.reshaped.items()}
            total = sum(values.values()) + raw.weight
            explicit = {token: value / total for token, value in values.items()}
            return Distribution(raw.background, raw.weight / total, explicit)
        return raw

    def stored(self, token: int, running: int) -> int:
        """Return the token that the KV cache keeps for one that was generated."""
        if running > 1 and "batch-crosstalk" in self._flaws:
            return (token * 31 + 7) % len(self._model.background.probabilities)
        return token

    def _seen(self, context: Context, length: int) -> Distribution:
        """Predict through the faults of weights, attention and long contexts."""
        flaws = self._flaws
        if "no-attention" in flaws:
            context, length = Context(context.tokens[length - 1 : length]), 1
        elif "window-forgets" in flaws and length > _WINDOW:
            context, length = Context(context.tokens[length - _WINDOW : length]), _WINDOW
        raw = self._model.predict(context, length)
        if "nan-logits" in flaws or (length > _NAN_FROM and "nan-after-512" in flaws):
            return _NotANumber(raw.background, raw.weight, raw.explicit)
        if "shuffled-weights" in flaws or (length > _LONG and "long-context-corrupts" in flaws):
            return self._scrambled(raw)
        if "flat-logits" in flaws:
            powers, sums = raw.background.powers(1 / 3)
            explicit = {token: value ** (1 / 3) for token, value in raw.explicit.items()}
            weight = raw.weight ** (1 / 3)
            others = weight * (sums[-1] - sum(powers[token] for token in explicit))
            return _Flat(raw, sum(explicit.values()) + others)
        return raw

    def _scrambled(self, raw: Distribution) -> Distribution:
        size = len(raw.background.probabilities)
        explicit = {(token * 31 + 7) % size: value for token, value in raw.explicit.items()}
        return Distribution(raw.background, raw.weight, explicit)


def _lowered(raw: Distribution) -> Distribution:
    """Move two fifths of what stands out to the background: each of it loses half a nat."""
    explicit = {token: value * 0.6 for token, value in raw.explicit.items()}
    probabilities = raw.background.probabilities
    outside = 1.0 - sum(probabilities[token] for token in explicit)
    return Distribution(raw.background, (1.0 - sum(explicit.values())) / outside, explicit)


class _NotANumber(Distribution):
    """Probabilities that are no numbers."""

    __slots__ = ()

    def logprob(self, token: int) -> float:  # noqa: ARG002 - the same for all
        """Return a NaN."""
        return math.nan


class _Flat(Distribution):
    """The cube root of a distribution."""

    __slots__ = ("_total",)

    def __init__(self, raw: Distribution, total: float) -> None:
        powers = {token: value ** (1 / 3) / total for token, value in raw.explicit.items()}
        super().__init__(raw.background, raw.weight, powers)
        self._total = total

    def probability(self, token: int) -> float:
        """Return the flattened probability."""
        found = self.explicit.get(token)
        if found is None:
            plain = self.weight * self.background.probabilities[token]
            return float(plain ** (1 / 3) / self._total)
        return found
