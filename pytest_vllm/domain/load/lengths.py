"""How many tokens prompts and answers have: one number, or a distribution of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

_DRAWS = 1_000
"""Draws of a truncated distribution before its nearer bound is taken."""
_KINDS = {
    "uniform": ("least", "most"),
    "normal": ("mean", "sd", "least", "most"),
    "lognormal": ("median", "sigma", "least", "most"),
    "context": ("share",),
}
_ADVICE = (
    "write a whole number, or {uniform = {least = 64, most = 256}}, "
    "{normal = {mean = 512, sd = 128, least = 1, most = 2048}}, "
    "{lognormal = {median = 200, sigma = 0.9, least = 4, most = 1024}} or {context = {share = 0.9}}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A distribution of whole numbers of tokens.

    Attributes:
        kind: `fixed`, `uniform`, `normal`, `lognormal` or `context` (a share of the server's).
        least: Smallest length.
        most: Largest length.
        middle: Mean of `normal`, median of `lognormal`, share of `context`.
        spread: Standard deviation of `normal`, that of the logarithm for `lognormal`.
    """

    kind: str
    least: int
    most: int
    middle: float = 0.0
    spread: float = 0.0

    def draw(self, rng: random.Random, *, context: int | None) -> int:
        """Draw a length.

        Args:
            rng: Where chance comes from.
            context: Context length of the server, for `context`.

        Raises:
            TargetError: A share of a context that the server does not tell.
        """
        match self.kind:
            case "fixed":
                return self.least
            case "uniform":
                return rng.randint(self.least, self.most)
            case "context":
                if context is None:
                    raise TargetError(
                        "the workload has a share of the context, and the server does not say how "
                        "long its context is",
                        advice="write the tokens as a number",
                    )
                return max(1, int(self.middle * context))
            case _:
                return self._truncated(rng)

    def _truncated(self, rng: random.Random) -> int:
        """Draw until it is inside, so that the bounds do not become the commonest lengths."""
        drawn = 0
        for _ in range(_DRAWS):
            if self.kind == "normal":
                drawn = round(rng.gauss(self.middle, self.spread))
            else:
                drawn = round(self.middle * math.exp(rng.gauss(0.0, self.spread)))
            if self.least <= drawn <= self.most:
                return drawn
        return min(max(drawn, self.least), self.most)


def fixed(tokens: int) -> Lengths:
    """Return the one length."""
    return Lengths(kind="fixed", least=tokens, most=tokens)


def read_lengths(value: Any, *, source: str) -> Lengths:
    """Read a number, or a table of one distribution.

    Args:
        value: What the file says.
        source: File and key, for messages.

    Raises:
        TargetError: It is neither, or its figures make no distribution.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise TargetError(f"{source}: {value} is no number of tokens", advice="use 1 or more")
        return fixed(value)
    if not isinstance(value, dict) or len(value) != 1:
        raise TargetError(f"{source}: cannot read {value!r}", advice=_ADVICE)
    kind, table = next(iter(value.items()))
    if kind not in _KINDS:
        known = tuple(_KINDS)
        raise TargetError(
            f"{source}: there is no distribution {kind!r}{closest(str(kind), known)}",
            advice=_ADVICE,
        )
    figures = _figures(table, _KINDS[kind], source=f"{source}.{kind}")
    if kind == "context":
        if not 0 < figures["share"] <= 1:
            raise TargetError(f"{source}.context: share is not above 0 and at most 1")
        return Lengths(kind=kind, least=1, most=1, middle=figures["share"])
    least, most = figures["least"], figures["most"]
    if least != int(least) or most != int(most) or not 1 <= least <= most:
        raise TargetError(
            f"{source}.{kind}: least = {least:g} and most = {most:g} bound no number of tokens",
            advice="use whole numbers with 1 <= least <= most",
        )
    middle = figures.get("mean", figures.get("median", 0.0))
    spread = figures.get("sd", figures.get("sigma", 0.0))
    if kind != "uniform" and (not least <= middle <= most or spread < 0):
        raise TargetError(
            f"{source}.{kind}: the middle {middle:g} must be from least to most, and the spread "
            f"{spread:g} not below 0"
        )
    return Lengths(kind=kind, least=int(least), most=int(most), middle=middle, spread=spread)


def _figures(table: Any, names: tuple[str, ...], *, source: str) -> Mapping[str, float]:
    if not isinstance(table, dict) or set(table) != set(names):
        seen = ", ".join(map(str, table)) if isinstance(table, dict) else repr(table)
        raise TargetError(f"{source}: needs {', '.join(names)}, has {seen or 'nothing'}")
    for name in names:
        figure = table[name]
        if isinstance(figure, bool) or not isinstance(figure, int | float):
            raise TargetError(f"{source}.{name}: {figure!r} is no number")
        if not math.isfinite(figure):
            raise TargetError(f"{source}.{name}: {figure} is not finite")
    return {name: float(table[name]) for name in names}
