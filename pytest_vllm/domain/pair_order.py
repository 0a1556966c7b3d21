"""In what order the two sides of a comparison run: balanced against drift, and not foreseeable."""

from __future__ import annotations

import random
from enum import StrEnum

PAIRS_IN_BLOCK = 2


class Side(StrEnum):
    """Which of the two a run measures."""

    BASE = "base"
    CANDIDATE = "candidate"


_ABBA = (Side.BASE, Side.CANDIDATE, Side.CANDIDATE, Side.BASE)
_BAAB = (Side.CANDIDATE, Side.BASE, Side.BASE, Side.CANDIDATE)


def abba(pairs: int, *, seed: int | None = None) -> tuple[Side, ...]:
    """Return whose turn each run is; runs 2i and 2i + 1 make pair i.

    A block of two pairs, A B B A, cancels a drift that is the same all along. With a seed each
    block is A B B A or B A A B by chance, so that nothing periodic on the host (a cron job, a
    thermal cycle) can keep step with one side.

    Args:
        pairs: How many pairs; the last block of an odd number is cut after its first.
        seed: Root of the chance; `None` for plain A B B A.
    """
    chance = None if seed is None else random.Random(seed)  # noqa: S311 - an order, no secret
    order: list[Side] = []
    while len(order) < 2 * pairs:
        order += _BAAB if chance is not None and chance.random() < 1 / 2 else _ABBA
    return tuple(order[: 2 * pairs])
