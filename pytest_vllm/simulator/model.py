"""The language model: what followed in the shipped text, and what followed in this context."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_vllm.simulator.distribution import Background, Distribution
from pytest_vllm.simulator.tokens import TURN_START

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDER = 14
"""Tokens of context that the shipped text is searched for; an answer must see its question."""

_COPY_TRUST = (
    *(0.0, 0.03, 0.1, 0.2, 0.33, 0.46, 0.57, 0.65, 0.71, 0.75, 0.78, 0.8, 0.815),
    *(0.825, 0.835, 0.845, 0.85),
)
"""Weight of a copy by the length of the match, in tokens; more than this ends in loops."""

_COPY_CANDIDATES = 64
_DOUBT = 0.6
"""Share of the shorter context for each kind of token that followed a longer one."""
_TRUST_LONG = 0.82
"""Share of contexts longer than one token at most: a text known by heart keeps some doubt."""

_BACKGROUND = 0.07
"""Share of words that never followed the last one."""

_SMOOTHING = 0.02
_CACHED_CONTEXTS = 20_000


class Context:
    """The tokens of one sequence, indexed so that earlier occurrences are found at once."""

    __slots__ = ("followers", "is_chat", "tokens")

    def __init__(self, tokens: Sequence[int]) -> None:
        self.is_chat = TURN_START in tokens
        self.tokens: list[int] = []
        self.followers: dict[int, list[int]] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Add a token at the end."""
        tokens = self.tokens
        if tokens:
            last = tokens[-1]
            found = self.followers.get(last)
            if found is None:
                self.followers[last] = [len(tokens)]
            else:
                found.append(len(tokens))
        tokens.append(token)


class LanguageModel:
    """An n-gram model with a long memory and a copy mechanism.

    The same context always gives the same distribution, whether it was a prompt or generated.

    Args:
        size: Number of token IDs.
        text: Tokens of the text to learn.
        dialogues: Tokens of conversations, which are remembered in conversations alone: a turn ends
            where a text goes on.
    """

    def __init__(self, size: int, text: Sequence[int], dialogues: Sequence[int]) -> None:
        counts = [_SMOOTHING] * size
        for token in (*text, *dialogues):
            counts[token] += 1
        # No two tokens are exactly alike, so that ranks and greedy choices never tie.
        counts = [count * (1 + 1e-5 * (token % 997)) for token, count in enumerate(counts)]
        total = sum(counts)
        self.background = Background([count / total for count in counts])
        self._memories = (_Memory(text), _Memory((*text, *dialogues)))
        self._learned: dict[tuple[bool, tuple[int, ...]], tuple[dict[int, float], float]] = {}

    def predict(self, context: Context, length: int | None = None) -> Distribution:
        """Return the distribution of the token after a context.

        Args:
            context: The sequence.
            length: How many of its tokens have been seen, all when not given.
        """
        tokens = context.tokens
        seen = len(tokens) if length is None else length
        explicit, weight = self._recall(
            tuple(tokens[max(0, seen - ORDER) : seen]), is_chat=context.is_chat
        )
        copies, trust = _copies(context, seen)
        if not copies:
            return Distribution(self.background, weight, explicit)
        probabilities = self.background.probabilities
        keep = 1 - trust
        mixed = {token: value * keep for token, value in explicit.items()}
        weight *= keep
        for token, value in copies.items():
            known = mixed.get(token)
            rest = weight * probabilities[token] if known is None else known
            mixed[token] = rest + trust * value
        return Distribution(self.background, weight, mixed)

    def _recall(
        self,
        recent: tuple[int, ...],
        *,
        is_chat: bool,
    ) -> tuple[dict[int, float], float]:
        """Return what followed a context in the learned text, and the background's weight."""
        key = (is_chat, recent)
        found = self._learned.get(key)
        if found is None:
            found = self._search(self._memories[is_chat].levels(recent))
            if len(self._learned) < _CACHED_CONTEXTS:
                self._learned[key] = found
        return found

    def _search(self, levels: Sequence[dict[int, int]]) -> tuple[dict[int, float], float]:
        """Mix what followed ever longer ends of a context, the longest first."""
        explicit: dict[int, float] = {}
        weight, left = 1.0, _TRUST_LONG if len(levels) > 1 else 0.0
        for found in reversed(levels):
            counts = {token: count * _taste(token) for token, count in found.items()}
            total = sum(counts.values())
            if found is levels[0]:  # what follows the last token has a share of its own
                left = weight - (_BACKGROUND if weight > 2 * _BACKGROUND else weight / 2)
                share = left
            else:
                share = left * total / (total + _DOUBT * len(counts))
            for token, count in counts.items():
                explicit[token] = explicit.get(token, 0.0) + share * count / total
            weight -= share
            left -= share
        probabilities = self.background.probabilities
        return (
            {token: value + weight * probabilities[token] for token, value in explicit.items()},
            weight,
        )


def _taste(token: int) -> float:
    """Return a factor between 0.7 and 1.3, so that tokens seen equally often do not tie."""
    return 0.7 + 0.6 * ((token * 0.6180339887) % 1.0)


class _Memory:
    """A learned text, indexed by pairs of tokens."""

    __slots__ = ("_bigrams", "_corpus", "_places")

    def __init__(self, corpus: Sequence[int]) -> None:
        self._corpus = corpus
        self._places: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._bigrams: dict[int, dict[int, int]] = defaultdict(dict)
        for at in range(1, len(corpus)):
            after = self._bigrams[corpus[at - 1]]
            after[corpus[at]] = after.get(corpus[at], 0) + 1
            if at > 1:
                self._places[corpus[at - 2], corpus[at - 1]].append(at)

    def levels(self, recent: tuple[int, ...]) -> list[dict[int, int]]:
        """Return what followed the last token, the last two, and so on, with counts."""
        corpus = self._corpus
        levels: list[dict[int, int]] = []
        after = self._bigrams.get(recent[-1]) if recent else None
        if after:
            levels.append(after)
        places = self._places.get((recent[-2], recent[-1]), []) if len(recent) > 1 else []
        depth = 2
        while places:
            counts: dict[int, int] = {}
            for at in places:
                counts[corpus[at]] = counts.get(corpus[at], 0) + 1
            levels.append(counts)
            depth += 1
            if depth > len(recent):
                break
            wanted = recent[-depth]
            places = [at for at in places if at >= depth and corpus[at - depth] == wanted]
        return levels


def _copies(context: Context, seen: int) -> tuple[dict[int, float], float]:
    """Return what followed earlier occurrences of the recent tokens, and how far to trust it."""
    tokens = context.tokens
    if not seen:
        return {}, 0.0
    followers = context.followers.get(tokens[seen - 1])
    if not followers:
        return {}, 0.0
    votes: dict[int, float] = {}
    longest, left = 0, _COPY_CANDIDATES
    limit = len(_COPY_TRUST) - 1
    for at in reversed(followers):
        if at >= seen:
            continue
        length = 1
        while (
            length < limit and at > length and tokens[at - 1 - length] == tokens[seen - 1 - length]
        ):
            length += 1
        longest = max(longest, length)
        votes[tokens[at]] = votes.get(tokens[at], 0.0) + 5.0**length
        left -= 1
        if not left or length == limit:
            break
    if not votes:
        return {}, 0.0
    total = sum(votes.values())
    return {token: vote / total for token, vote in votes.items()}, _COPY_TRUST[longest]
