"""Faults inside the simulated engine, each a name that a launch can switch on."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FLAWS: Mapping[str, str] = MappingProxyType(
    {
        "cache-returns-other-prompt": "a warm prefix cache hit returns another prompt's state",
        "cache-hits-never-counted": "prefix cache hits are served but never counted",
        "cache-ignores-salt": "cache_salt does not keep prefix caches apart",
        "decode-corrupts": "logits are right on prefill and wrong on decode (corrupt KV cache)",
        "decode-slightly-off": "log probabilities of decode are half a nat too low",
        "long-context-corrupts": "logits are wrong beyond 600 tokens of context",
        "window-forgets": "only the last 64 tokens of the context are seen",
        "batch-corrupts": "logits are wrong while more than two sequences run",
        "odd-batch-corrupts": "logits are wrong while an odd number above one of sequences runs",
        "first-request-corrupts": "the first request after launch gets wrong logits",
        "constant-token": "every token is token 0",
        "nan-logits": "logits are not a number",
        "nan-after-512": "logits are not a number beyond 512 tokens of context",
        "shuffled-weights": "every prediction goes to another token",
        "no-attention": "the model sees only the last token",
        "flat-logits": "logits are scaled down to a third",
        "top-k-ignored": "the sampler ignores top_k",
        "top-p-ignored": "the sampler ignores top_p",
        "min-p-ignored": "the sampler ignores min_p",
        "seed-ignored": "the sampler ignores seed",
        "temperature-ignored": "the sampler always samples at temperature 1",
        "greedy-always": "the sampler never samples: every request is greedy",
        "penalties-ignored": "presence, frequency and repetition penalties do nothing",
        "bias-ignored": "logit_bias does nothing",
        "allowed-ids-ignored": "allowed_token_ids and bad_words do nothing",
        "min-tokens-ignored": "min_tokens does nothing",
        "eos-ignored": "sequences never end at the end-of-sequence token",
        "grammar-ignored": "structured outputs are accepted and not enforced",
        "batch-crosstalk": "with more than one sequence running, each gets its neighbour's tokens",
        "engine-hangs": "generation never answers while /health says 200",
        "engine-hangs-after-50": "generation hangs after 50 requests while /health says 200",
        "gauges-never-fall": "running and KV cache gauges keep counting cancelled requests",
        "cancelled-go-on": "a cancelled request goes on to its last token",
        "slots-leak": "each cancelled request keeps its place in the batch for good",
        "metrics-frozen": "counters stay at their first values",
        "logprobs-processed": "logprobs are told after penalties and bias instead of raw",
        "prompt-logprobs-shifted": "prompt logprobs belong to the token before",
        "truncates-prompts": "prompts are silently cut to their last 512 tokens",
        "serial-engine": "one sequence runs at a time",
    }
)
"""Name to one line about each fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaws:
    """Faults that are switched on.

    Attributes:
        names: Names out of `FLAWS`.

    Raises:
        ValueError: A name is unknown.
    """

    names: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        unknown = self.names - FLAWS.keys()
        if unknown:
            raise ValueError(f"unknown flaws: {', '.join(sorted(unknown))}")

    def __contains__(self, name: str) -> bool:
        """Tell whether a fault is on.

        Raises:
            KeyError: There is no such fault.
        """
        if name not in FLAWS:
            raise KeyError(name)
        return name in self.names

    def __bool__(self) -> bool:
        """Tell whether any fault is on."""
        return bool(self.names)
