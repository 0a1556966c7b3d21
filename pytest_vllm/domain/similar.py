"""Which known model a mistyped ID was meant to be."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORDS = re.compile(r"[a-z]+|\d+(?:\.\d+)?")
_TUNED = frozenset({"chat", "instruct", "it", "assistant", "sft"})
"""Words that vendors use for the same thing: a model that follows a conversation."""
_NOISE = frozenset({"v", "hf", "meta", "model"})
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
_ENOUGH = 0.66
_CLASS_ENOUGH = 0.75
_ALIKE = 2
"""Decimals of a likeness that count; what is as alike as that is ordered by its numbers."""
_SAME_OWNER = 0.15
_ONE_SLIP = 0.15
"""What letters alone count less: a slip inside the only word leaves no word in common."""


def similar_models(asked: str, known: Iterable[str], *, limit: int = 3) -> tuple[str, ...]:
    """Return the known IDs closest to the one asked for, best first.

    Names are compared without regard to case and by their words, so that `-instruct` finds `-Chat`
    and a missing owner finds the model; numbers must fit better than words, since 7B is not 70B.
    """
    scored = [(_likeness(asked, name), name) for name in known if name != asked]
    best = sorted(
        (item for item in scored if item[0] >= _ENOUGH),
        key=lambda item: (-round(item[0], _ALIKE), _distance(asked, item[1])),
    )
    return tuple(name for _, name in best[:limit])


def _likeness(asked: str, name: str) -> float:
    """Return 0 (nothing in common) to 1 (the same but for case)."""
    owner, _, model = asked.lower().rpartition("/")
    known_owner, _, known_model = name.lower().rpartition("/")
    letters = SequenceMatcher(None, model, known_model, autojunk=False).ratio()
    words, known_words = _words(model), _words(known_model)
    shared = len(words & known_words) / max(len(words | known_words), 1)
    numbers = {word for word in words ^ known_words if word[0].isdigit()}
    score = max(0.5 * letters + 0.5 * shared, letters - _ONE_SLIP) - 0.04 * len(numbers)
    if not owner:
        return score
    owners = SequenceMatcher(None, owner, known_owner, autojunk=False).ratio()
    return (1 - _SAME_OWNER) * score + _SAME_OWNER * owners


def similar_class(asked: str, known: Iterable[str]) -> str:
    """Return the model class closest to the one asked for, empty when none is close.

    What all names share (`ForCausalLM`) says nothing, so what is in front of it must be close.
    """
    stem = _stem(asked)
    scored = [
        (
            SequenceMatcher(None, stem, _stem(name), autojunk=False).ratio(),
            _ratio(asked, name),
            name,
        )
        for name in known
        if name != asked
    ]
    best = max(scored, default=(0.0, 0.0, ""))
    return best[2] if best[0] >= _CLASS_ENOUGH else ""


def _stem(name: str) -> str:
    return re.split(r"For|Model", name, maxsplit=1)[0].lower()


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _distance(asked: str, name: str) -> float:
    """Return how far the numbers are apart, one by one: of two versions, the nearer is meant."""
    pairs = zip(_NUMBERS.findall(asked), _NUMBERS.findall(name), strict=False)
    return sum(abs(float(one) - float(other)) for one, other in pairs)


def _words(model: str) -> frozenset[str]:
    found = set(_WORDS.findall(model))
    return frozenset({"tuned" if word in _TUNED else word for word in found} - _NOISE)
