"""Whether what a model says is sane: reading log probabilities and the statistics over them.

Everything works on token IDs, never on text: equal texts can be different tokens, and the token
that a NaN ends in is "!" in one vocabulary and invisible in the next.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.generation import TIE_NATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_AS_ID = re.compile(r"token_id:(\d+)")
_LABEL = re.compile(r'([A-Za-z_]\w*)="([^"]*)"')
_SIZE = re.compile(r"(?<![\w.])(?:\d+x)?(\d+(?:\.\d+)?)\s?([bm])(?![a-z0-9])", re.IGNORECASE)
_MEBI = 1000.0
_FEWEST = 3
"""A mean of fewer tokens is single differences, for which there is the bound of the largest."""
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One token of a prompt, or one that was generated, and how probable the model held it.

    Attributes:
        id: Token ID.
        logprob: Log probability in nats.
        best: The most probable token that was told for this place.
        best_logprob: Its log probability; at least `logprob`.
        top: Log probabilities by token ID, of all that were told.
    """

    id: int
    logprob: float
    best: int
    best_logprob: float
    top: Mapping[int, float]

    @property
    def gap(self) -> float:
        """Nats by which the best token beats this one, 0 when it is the best itself."""
        return self.best_logprob - self.logprob


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far two evaluations of the same tokens lie apart.

    Attributes:
        mean: Mean absolute difference of the log probabilities, in nats.
        worst: The largest one.
        count: Tokens that were compared.
        parted: Where the greedy tokens parted by more than a near tie; empty when they did not.
    """

    mean: float
    worst: float
    count: int
    parted: str = ""

    def exceeds(self, *, mean: float, worst: float) -> bool:
        """Tell whether the two lie further apart than rounding explains.

        Args:
            mean: What their mean difference may be, in nats.
            worst: What the largest one may be.
        """
        too_far = self.count >= _FEWEST and self.mean > mean
        return bool(self.parted) or too_far or self.worst > worst


def read_prompt(choice: Mapping[str, Any], ids: Sequence[int]) -> tuple[Scored, ...]:
    """Read the `prompt_logprobs` of a choice, for all tokens but the first, which has none.

    Args:
        choice: A choice of a completion that was asked for with `prompt_logprobs`.
        ids: The token IDs that were sent as prompt.

    Raises:
        AssertionError: There is not one finite log probability for each token that was sent.
    """
    entries = choice.get("prompt_logprobs")
    count = len(entries) if isinstance(entries, list) else 0
    if not isinstance(entries, list) or count != len(ids):
        raise AssertionError(f"prompt_logprobs: required {len(ids)} entries, saw {count}")
    return tuple(
        _scored(id_, _by_id(entry, place), place)
        for place, (id_, entry) in enumerate(zip(ids, entries, strict=True))
        if place
    )


def read_written(choice: Mapping[str, Any]) -> tuple[Scored, ...]:
    """Read the generated tokens of a choice.

    Args:
        choice: A choice that was asked for with `logprobs` and `return_tokens_as_token_ids`.

    Raises:
        AssertionError: A token is not named by its ID, or has no finite log probability.
    """
    logprobs = choice.get("logprobs") or {}
    names = logprobs.get("tokens") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(names)
    columns = zip(names, logprobs.get("token_logprobs") or (), tops, strict=False)
    found = []
    for place, (name, logprob, top) in enumerate(columns):
        told = {_id(other): value for other, value in (top or {}).items()}
        found.append(_scored(_id(name), {_id(name): logprob, **told}, place))
    if not found:
        raise AssertionError("required log probabilities of the generated tokens, saw none")
    return tuple(found)


def mean(tokens: Iterable[Scored]) -> float:
    """Return the mean log probability of some tokens, in nats."""
    return fmean(token.logprob for token in tokens)


def windows(tokens: Sequence[Scored], size: int) -> list[float]:
    """Return the mean log probability of each full window of `size` tokens, in order."""
    starts = range(0, len(tokens) - size + 1, size)
    return [mean(tokens[start : start + size]) for start in starts]


def is_constant(written: Sequence[Scored]) -> bool:
    """Tell whether a text of several tokens is one and the same token over and over."""
    return len(written) > 1 and len({token.id for token in written}) == 1


def rescoring(
    written: Sequence[Scored], scored: Sequence[Scored], *, gap: float = TIE_NATS
) -> Drift:
    """Compare greedy tokens as they were decoded with the same tokens read as a prompt.

    Args:
        written: What was decoded.
        scored: The same places of a prompt, with the best token of each place.
        gap: Nats by which another token may be better there.
    """
    differences = [
        abs(one.logprob - other.logprob) for one, other in zip(written, scored, strict=True)
    ]
    parted = [
        f"token {place} ({token.id}) is {token.gap:.2f} nats below {token.best}"
        for place, token in enumerate(scored)
        if token.gap > gap
    ]
    return _drift(differences, parted)


def divergence(left: Sequence[Scored], right: Sequence[Scored]) -> Drift:
    """Compare two greedy generations of one prompt, up to where a near tie parts them."""
    differences: list[float] = []
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one.id != other.id:
            gaps = (_gap_to(one, other.id), _gap_to(other, one.id))
            if max(gaps) <= TIE_NATS:
                break
            return _drift(differences, [f"token {place}: {one.id} became {other.id}"])
        differences.append(abs(one.logprob - other.logprob))
    return _drift(differences, [])


def distinct_pairs(ids: Sequence[int]) -> float:
    """Return the share of neighbouring token pairs that are distinct (distinct-2), 0 to 1."""
    pairs = list(pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def compressibility(text: str) -> float:
    """Return the length of a text after zlib, relative to its length: low means repetitive."""
    data = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(data, 9)) / len(data) if data else 0.0


def billions(*names: str) -> float | None:
    """Return the billions of parameters that a model's name speaks of, `None` for no size.

    Of several sizes in a name, such as `235B-A22B`, the largest counts.
    """
    found = [
        float(number) / (_MEBI if unit in "mM" else 1.0)
        for name in names
        for number, unit in _SIZE.findall(name.replace("_", "-").rpartition("/")[2])
    ]
    return max(found, default=None)


def _drift(differences: list[float], parted: list[str]) -> Drift:
    return Drift(
        mean=fmean(differences) if differences else 0.0,
        worst=max(differences, default=0.0),
        count=len(differences),
        parted="; ".join(parted[:_SHOWN]),
    )


def _gap_to(token: Scored, other: int) -> float:
    """Return how far another token lies below this one; infinite when it was not told."""
    return token.logprob - token.top[other] if other in token.top else math.inf


def _scored(id_: int, told: Mapping[int, Any], place: int) -> Scored:
    if id_ not in told:
        raise AssertionError(f"token {place}: required a log probability of {id_}, saw {told}")
    for value in told.values():
        if not isinstance(value, int | float) or isinstance(value, bool) or not _is_log(value):
            raise AssertionError(
                f"token {place}: required finite log probabilities of at most 0, saw {value!r}"
            )
    best = max(told, key=lambda other: told[other])
    return Scored(id=id_, logprob=told[id_], best=best, best_logprob=told[best], top=dict(told))


def _is_log(value: float) -> bool:
    return math.isfinite(value) and value <= 1e-3  # noqa: PLR2004 - rounding of a probability of 1


def _by_id(entry: Any, place: int) -> dict[int, Any]:
    if place == 0:
        return {}
    if not entry:
        raise AssertionError(f"prompt_logprobs: token {place} has no entry, saw {entry!r}")
    return {int(key): value.get("logprob") for key, value in entry.items()}


def _id(name: str) -> int:
    match = _AS_ID.fullmatch(name)
    if match is None:
        raise AssertionError(f"return_tokens_as_token_ids: required `token_id:N`, saw {name!r}")
    return int(match[1])


def metric_labels(text: str, family: str) -> dict[str, str]:
    """Return the labels of the first sample of a metric in Prometheus' text format."""
    for line in text.splitlines():
        if line.startswith(f"{family}{{"):
            return dict(_LABEL.findall(line))
    return {}


def metric_total(text: str, families: Sequence[str]) -> float | None:
    """Return the sum of all samples of the first of some metrics that is there."""
    for family in families:
        values = [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith((f"{family}{{", f"{family} "))
        ]
        if values:
            return sum(values)
    return None
